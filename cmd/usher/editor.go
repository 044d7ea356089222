package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/schemas"
)

// Names of the files that editors are given.
const (
	capabilitiesFile = "capabilities.json"
	schemaFile       = "allocation-request.schema.json"
)

func newEditorCommand() *cobra.Command {
	var flags struct {
		dir   string
		rules rulesFlags
		check bool
	}
	cmd := &cobra.Command{
		Use:   "editor",
		Short: "Write the files by which editors check rules as usher does",
		Long: `Editor writes two files that OPA, Regal and the editors built on them read:

  ` + capabilitiesFile + `                 the built-in functions that rules may call: those
                                    of OPA that are on, and Usher's own
  ` + schemaFile + `    what input looks like, so that a misspelt property
                                    is an error

With --check it writes nothing, and exits with 1 if a file is missing or not what
this version would write.`,
		Example: `  usher editor --dir .usher
  opa check --strict --capabilities .usher/capabilities.json --schema .usher/allocation-request.schema.json rules
  usher editor --dir .usher --check      in CI`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			capabilities, err := decider.Capabilities(flags.rules.options())
			if err != nil {
				return usageError(err)
			}
			var outdated []error
			for _, file := range []struct {
				name string
				text []byte
			}{{capabilitiesFile, capabilities}, {schemaFile, schemas.AllocationRequest()}} {
				name := filepath.Join(flags.dir, file.name)
				switch {
				case !flags.check:
					if err := writeOver(cmd.OutOrStdout(), name, file.text); err != nil {
						return err
					}
				case !isCurrent(name, file.text):
					outdated = append(outdated, fmt.Errorf("%s is not what this version writes: run `usher editor --dir %s`", name, flags.dir))
				}
			}
			return errors.Join(outdated...)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.dir, "dir", ".usher", "folder to write to")
	f.StringSliceVar(&flags.rules.builtins, "allow-builtin", listSetting("USHER_RULES_BUILTINS"),
		"built-in function that is off by default and that rules may call; default from USHER_RULES_BUILTINS")
	f.StringSliceVar(&flags.rules.allowNet, "allow-net", listSetting("USHER_RULES_ALLOW_NET"),
		"host that http.send may reach; default from USHER_RULES_ALLOW_NET")
	f.BoolVar(&flags.check, "check", false, "write nothing, exit with 1 if a file is not up to date")
	return cmd
}

func isCurrent(name string, text []byte) bool {
	there, err := os.ReadFile(name)
	return err == nil && bytes.Equal(there, text)
}

func writeOver(w io.Writer, name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "wrote %s\n", name)
	return err
}
