package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/operate/deploypackage"
	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// packageFlags are the flags of `usher package`.
type packageFlags struct {
	rules                 rulesFlags
	root, handler, output string
}

func newPackageCommand() *cobra.Command {
	var flags packageFlags
	cmd := &cobra.Command{
		Use:   "package",
		Short: "Pack the webhook into one file, a deployment package of Azure Functions",
		Long: `Package writes the zip file that Azure Functions runs: host.json, the function, the
handler's program and the rules without their tests. It loads the rules first, and
checks the result as the host will: it refuses a program that is not static, not for
linux/amd64 or not executable, and rules that do not load.

The rules and, with --handler, the program may be anywhere. A folder of rules that is
not below --root becomes the folder rules of the package.

The same content gives the same bytes. In Usher's own repository, 'make package' builds
the program first.`,
		Example: `  usher package -o usher.zip
  usher package --handler handler                    the handler of a release
  usher package --rules rules.tar.gz -o usher.zip    rules as one file; set USHER_RULES to rules.tar.gz`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("rules") {
				flags.rules.path = filepath.Join(flags.root, "rules")
			}
			if err := flags.rules.complete(cmd); err != nil {
				return err
			}
			return flags.pack(cmd.Context(), cmd.OutOrStdout())
		},
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	f.Lookup("rules").Usage = "folder of rules, or a bundle file (default the folder rules below --root)"
	f.Lookup("rules").DefValue = ""
	f.StringVar(&flags.root, "root", ".", "root of the Function App, where host.json is")
	f.StringVar(&flags.handler, "handler", "", "the handler's program for linux/amd64, as a release has it (default the file that host.json names)")
	f.StringVarP(&flags.output, "output", "o", "usher.zip", "file to write")
	return cmd
}

func (flags *packageFlags) pack(ctx context.Context, w io.Writer) error {
	at, err := flags.rulesInPackage()
	if err != nil {
		return err
	}
	loaded, fsys, err := loadRules(ctx, flags.rules, flags.rules.options())
	if err != nil {
		return err
	}
	content := deploypackage.Content{Root: os.DirFS(flags.root), Rules: map[string]deploypackage.Source{}}
	if name := flags.handler; name != "" {
		if _, err := os.Stat(name); err != nil {
			return err
		}
		content.Handler = &deploypackage.Source{FS: os.DirFS(filepath.Dir(name)), Name: filepath.Base(name)}
	}
	if flags.rules.isFolder() {
		names, err := ruleset.Files(fsys, false)
		if err != nil {
			return err
		}
		for _, name := range names {
			content.Rules[path.Join(at, name)] = deploypackage.Source{FS: fsys, Name: name}
		}
	} else {
		name := flags.rules.path
		content.Rules[at] = deploypackage.Source{FS: os.DirFS(filepath.Dir(name)), Name: filepath.Base(name)}
	}
	var packed bytes.Buffer
	files, err := deploypackage.Write(&packed, content)
	if errors.Is(err, fs.ErrNotExist) && flags.handler == "" {
		return fmt.Errorf("%w (build the handler first, or name that of a release with --handler)", err)
	}
	if err != nil {
		return err
	}
	if err := writeChecked(flags.output, packed.Bytes()); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %d files, %d bytes\nsha256:%x\nrules %s\n",
		flags.output, len(files), packed.Len(), sha256.Sum256(packed.Bytes()), loaded.Digest())
	if at != "rules" {
		fmt.Fprintf(w, "set USHER_RULES to %s\n", at)
	}
	return nil
}

// rulesInPackage returns the path of the rules in the package, with slashes: the one below the root, or else the default
// of USHER_RULES for a folder, and the name of a bundle.
func (flags *packageFlags) rulesInPackage() (string, error) {
	root, err := filepath.Abs(flags.root)
	if err != nil {
		return "", err
	}
	rules, err := filepath.Abs(flags.rules.path)
	if err != nil {
		return "", err
	}
	below, err := filepath.Rel(root, rules)
	switch {
	case err == nil && below == ".":
		return "", usageError(errors.New("the folder of the rules is that of host.json: move the rules to a folder of their own, such as rules"))
	case err == nil && filepath.IsLocal(below):
		return filepath.ToSlash(below), nil
	case flags.rules.isFolder():
		return "rules", nil
	}
	return filepath.Base(rules), nil
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
