package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

func newFmtCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt [path ...]",
		Short: "Format rules as opa fmt does",
		Long: `Fmt rewrites Rego files in OPA's canonical format and prints the names of those
it changed. A path is a file or a folder with .rego files somewhere below; the
default is the current folder. Folders whose names start with a dot are left out.

With --check it writes nothing, prints the names of the files that differ, and
exits with 1 if there are any. It exits with 3 if a file does not parse.`,
		Example: `  usher fmt rules
  usher fmt --check rules      in CI`,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				paths = []string{"."}
			}
			files, err := regoFiles(paths)
			if err != nil {
				return err
			}
			var faults []error
			differing, broken := 0, false
			for _, file := range files {
				changed, err := formatFile(file, !check)
				if err != nil {
					_, unparsed := errors.AsType[*ruleset.LoadError](err)
					broken = broken || unparsed
					faults = append(faults, err)
					continue
				}
				if changed {
					differing++
					fmt.Fprintln(cmd.OutOrStdout(), file)
				}
			}
			if check && differing > 0 {
				faults = append(faults, fmt.Errorf("%d of %d files are not formatted: run `usher fmt %s`", differing, len(files), strings.Join(paths, " ")))
			}
			if broken {
				return rulesError(errors.Join(faults...))
			}
			return errors.Join(faults...)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing, list the files that differ, exit with 1 if there are any")
	return cmd
}

// regoFiles finds the files to format. A path that is given is taken whatever its name.
func regoFiles(paths []string) ([]string, error) {
	var files []string
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
				return filepath.SkipDir
			case !entry.IsDir() && (path == root || filepath.Ext(path) == ".rego"):
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for rules: %w", err)
		}
	}
	return files, nil
}

// formatFile reports whether a file differs from its formatted form, and replaces it if asked to.
func formatFile(file string, write bool) (changed bool, err error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	formatted, err := format.SourceWithOpts(file, source, format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		return false, ruleset.CompileError(err)
	}
	if bytes.Equal(source, formatted) {
		return false, nil
	}
	if !write {
		return true, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(file, formatted, info.Mode().Perm())
}
