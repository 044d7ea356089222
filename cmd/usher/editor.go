package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// Names of the files for editors.
const (
	capabilitiesFile = "capabilities.json"
	schemaFile       = "allocation-request.schema.json"
)

func newEditorCommand() *cobra.Command {
	var dir string
	var rules rulesFlags
	var check bool
	cmd := &cobra.Command{
		Use:   "editor",
		Short: "Write the files that let editors check rules as usher does",
		Long: `Editor writes two files that OPA, Regal and the editors built on them read:

  ` + capabilitiesFile + `                 the built-in functions that rules may call: those
                                    of OPA that are on, Usher's own, and one for each
                                    look-up that the rules declare
  ` + schemaFile + `    the shape of input, so that a misspelt property is
                                    an error

With --check it writes nothing, and exits with 1 if a file is missing or differs
from what this version would write.`,
		Example: `  usher editor --dir .usher
  opa check --strict --capabilities .usher/capabilities.json --schema .usher/allocation-request.schema.json rules
  usher editor --dir .usher --check      in CI`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := rules.complete(cmd); err != nil {
				return err
			}
			var fsys fs.FS
			if _, err := os.Stat(rules.path); err == nil || cmd.Flags().Changed("rules") {
				if fsys, err = openRules(rules); err != nil {
					return err
				}
			}
			capabilities, err := decider.Capabilities(fsys, rules.options())
			if wrong, ok := errors.AsType[*ruleset.LoadError](err); ok && wrong.Problems[0].Place != "" {
				return rulesError(err)
			} else if err != nil {
				return usageError(err)
			}
			var outdated []error
			for _, file := range []struct {
				name string
				text []byte
			}{{capabilitiesFile, capabilities}, {schemaFile, schemas.AllocationRequest()}} {
				name := filepath.Join(dir, file.name)
				if check {
					if found, err := os.ReadFile(name); err != nil || !bytes.Equal(found, file.text) {
						outdated = append(outdated, fmt.Errorf("%s is not what this version writes: run `usher editor --dir %s`", name, dir))
					}
					continue
				}
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(name, file.text, 0o644); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\n", name)
			}
			return errors.Join(outdated...)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".usher", "folder to write to")
	rules.register(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; exit with 1 if a file is not up to date")
	return cmd
}
