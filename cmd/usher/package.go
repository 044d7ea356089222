package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/operate/deploypackage"
	"github.com/usher-dps/usher/internal/standin/functionshost"
)

func newPackageCommand() *cobra.Command {
	var rules rulesFlags
	var root, output string
	cmd := &cobra.Command{
		Use:   "package",
		Short: "Pack the webhook into one file, a deployment package of Azure Functions",
		Long: `Package writes the zip file that Azure Functions runs: host.json, the function, the
handler's program and the rules without their tests. It loads the rules first, and
checks the result as the host will: it refuses a program that is not static, not for
linux/amd64 or not executable, and rules that do not load.

The same content gives the same bytes. 'make package' builds the program first.`,
		Example: `  usher package -o usher.zip
  usher package --rules rules.tar.gz -o usher.zip    rules as one file; set USHER_RULES to rules.tar.gz`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			below, err := belowRoot(root, rules.path)
			if err != nil {
				return usageError(err)
			}
			rules.path = filepath.Join(root, below)
			loaded, fsys, err := loadRules(cmd.Context(), rules, rules.options())
			if err != nil {
				return err
			}
			packed := []string{filepath.ToSlash(below)} // a bundle
			if info, err := os.Stat(rules.path); err != nil {
				return err
			} else if info.IsDir() {
				names, err := ruleset.Files(fsys, false)
				if err != nil {
					return err
				}
				packed = packed[:0]
				for _, name := range names {
					packed = append(packed, path.Join(filepath.ToSlash(below), name))
				}
			}
			var content bytes.Buffer
			files, err := deploypackage.Write(&content, os.DirFS(root), packed)
			if err != nil {
				return err
			}
			if err := writeChecked(output, content.Bytes()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %d bytes\nsha256:%x\nrules %s\n",
				output, len(files), content.Len(), sha256.Sum256(content.Bytes()), loaded.Digest())
			return nil
		},
	}
	rules.register(cmd)
	flags := cmd.Flags()
	flags.Lookup("rules").Usage = "folder of rules, or a bundle file, below --root"
	flags.StringVar(&root, "root", ".", "root of the Function App, where host.json is")
	flags.StringVarP(&output, "output", "o", "usher.zip", "file to write")
	return cmd
}

// belowRoot returns the path of the rules relative to the root.
func belowRoot(root, rules string) (string, error) {
	if filepath.IsAbs(rules) {
		base, err := filepath.Abs(root)
		if err != nil {
			return "", err
		}
		if rules, err = filepath.Rel(base, rules); err != nil {
			return "", err
		}
	}
	if rules = filepath.Clean(rules); !filepath.IsLocal(rules) || rules == "." {
		return "", fmt.Errorf("--rules is %s, which is not below --root: only files below --root can be packed", rules)
	}
	return rules, nil
}

// writeChecked writes the package if the host accepts it, and nothing otherwise.
func writeChecked(name string, content []byte) error {
	draft := filepath.Join(filepath.Dir(name), "."+strings.TrimPrefix(filepath.Base(name), ".")+".draft")
	if err := writeFile(draft, content); err != nil {
		return err
	}
	if err := functionshost.CheckPackage(draft); err != nil {
		os.Remove(draft)
		return fmt.Errorf("the package would not run: %s", strings.ReplaceAll(err.Error(), draft, name))
	}
	return os.Rename(draft, name)
}
