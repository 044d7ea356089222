package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usher-dps/usher/internal/author/project"
)

// useProject gives the flags that are not on the command line the values of the project file. It looks for that file from
// the given rules upwards or, if these are empty, from the working directory.
func useProject(cmd *cobra.Command, rules string) error {
	folder := "."
	if rules != "" {
		folder = rules
		if info, err := os.Stat(rules); err != nil || !info.IsDir() {
			folder = filepath.Dir(rules)
		}
	}
	name, err := project.Find(folder)
	if name == "" || err != nil {
		return err
	}
	settings, err := project.Load(name)
	if err != nil {
		return err
	}
	for _, s := range settings {
		flag := cmd.Flags().Lookup(s.Flag)
		if flag == nil || flag.Changed || rules != "" && s.Flag == "rules" {
			continue
		}
		if err := setValues(flag.Value, s); err != nil {
			return fmt.Errorf("%s: %w", s.Place, err)
		}
	}
	return nil
}

// projectValues sets a value to that of a member of the project file in the working directory or above it, and returns the
// name of that file; empty if there is none, or if it has no such member.
func projectValues(member string, value pflag.Value) (string, error) {
	name, err := project.Find(".")
	if name == "" || err != nil {
		return "", err
	}
	settings, err := project.Load(name)
	if err != nil {
		return "", err
	}
	for _, s := range settings {
		if s.Flag == member && len(s.Values) > 0 {
			if err := setValues(value, s); err != nil {
				return "", fmt.Errorf("%s: %w", s.Place, err)
			}
			return name, nil
		}
	}
	return "", nil
}

// setValues sets the value of a flag, which then does not count as one of the command line.
func setValues(flag pflag.Value, s project.Setting) error {
	if s.IsPath && s.Flag != "rules" { // these may not exist yet, and the commands say so
		for _, name := range s.Values {
			if _, err := os.Stat(name); err != nil {
				return err
			}
		}
	}
	if list, ok := flag.(pflag.SliceValue); ok {
		return list.Replace(s.Values) // Set would split a path at its commas
	}
	for _, value := range s.Values {
		if err := flag.Set(value); err != nil {
			return err
		}
	}
	return nil
}
