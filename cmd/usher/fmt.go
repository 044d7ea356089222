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
	var rules string
	cmd := &cobra.Command{
		Use:   "fmt [path ...]",
		Short: "Format rules as opa fmt does",
		Long: `Fmt rewrites Rego files in OPA's canonical format and prints the names of those
that it changed. A path is a file, or a folder with .rego files at any depth; the
default is the folder rules. It leaves out folders whose names start with a dot.

With --check it writes nothing, prints the names of the files that differ, and
exits with 1 if there are any. It exits with 3 if a file does not parse.`,
		Example: `  usher fmt rules
  usher fmt --check            in CI`,
		RunE: func(cmd *cobra.Command, paths []string) error {
			switch {
			case len(paths) == 0:
				given := ""
				if cmd.Flags().Changed("rules") {
					given = rules
				}
				if err := useProject(cmd, given); err != nil {
					return err
				}
				paths = []string{rules}
			case cmd.Flags().Changed("rules"):
				return usageError(fmt.Errorf("the rules are given twice: %s and --rules %s", strings.Join(paths, " "), rules))
			}
			files, err := regoFiles(paths)
			if err != nil {
				return err
			}
			var problems []error
			differing := 0
			for _, file := range files {
				changed, err := formatFile(file, !check)
				if err != nil {
					problems = append(problems, err)
				} else if changed {
					differing++
					fmt.Fprintln(cmd.OutOrStdout(), file)
				}
			}
			if check && differing > 0 {
				problems = append(problems, fmt.Errorf("%d of %d files are not formatted: run `usher fmt %s`", differing, len(files), strings.Join(paths, " ")))
			}
			err = errors.Join(problems...)
			if _, unparsed := errors.AsType[*ruleset.LoadError](err); unparsed {
				return rulesError(err)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&rules, "rules", "rules", "folder of rules, the same as a path")
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; list the files that differ and exit with 1 if there are any")
	return cmd
}

// regoFiles finds the files to format: those that are named, and the .rego files below folders.
func regoFiles(paths []string) ([]string, error) {
	var files []string
	for _, root := range paths {
		err := walk(root, func(name string, entry fs.DirEntry) error {
			if !entry.IsDir() && (name == root || filepath.Ext(name) == ".rego") {
				files = append(files, name)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for rules: %w", err)
		}
	}
	return files, nil
}

// walk visits root and everything below it, except folders whose names start with a dot.
func walk(root string, visit func(name string, entry fs.DirEntry) error) error {
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != root && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		}
		return visit(name, entry)
	})
}

// formatFile reports whether a file differs from its formatted form, and rewrites it if write is set.
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
