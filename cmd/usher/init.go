package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/rules"
)

//go:embed init.txtar
var repository []byte

// initFlags are the flags of `usher init`.
type initFlags struct {
	dir     string
	rules   rulesFlags
	hubs    hubList
	library bool
}

func newInitCommand() *cobra.Command {
	var flags initFlags
	cmd := &cobra.Command{
		Use:   "init [folder]",
		Short: "Lay out a repository for rules of your own",
		Long: `Init writes what a repository of rules needs into a folder, by default this one: a rule
with its test, the library, usher.yaml with what the commands work with, a workflow for
GitHub Actions that checks, packs and deploys, host.json and the function for Azure
Functions, and parameters for the templates of the Function App.

It never overwrites a file: it keeps what exists and names it.

With --library it writes only the library of this version of usher, in place of the one in
the rules: use it when you change to another version.`,
		Example: `  usher init fleet --hubs contoso-eu,contoso-us
  usher init                       in a repository that exists
  usher init --library             after an upgrade`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.library {
				if len(args)+len(flags.hubs) > 0 {
					return usageError(errors.New("--library is about the rules of a repository: use it there, without a folder and --hubs"))
				}
				if err := flags.rules.complete(cmd); err != nil {
					return err
				}
				return writeLibrary(cmd.Context(), cmd.OutOrStdout(), flags.rules)
			}
			if cmd.Flags().Changed("rules") {
				return usageError(errors.New("--rules is for --library: a new repository has its rules in the folder rules"))
			}
			flags.dir = "."
			if len(args) > 0 {
				flags.dir = args[0]
			}
			return flags.write(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&flags.rules.path, "rules", "rules", "folder of the rules whose library to write; with --library")
	addHubs(cmd, &flags.hubs, "hubs that are linked to the DPS, for usher.yaml")
	cmd.Flags().BoolVar(&flags.library, "library", false, "write only the library of the rules, over the one that exists")
	return cmd
}

func (flags *initFlags) write(ctx context.Context, w io.Writer) error {
	layout, err := txtar.FS(txtar.Parse(flags.fillIn(repository)))
	if err != nil {
		return err
	}
	err = fs.WalkDir(layout, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return flags.writeFile(w, layout, name)
	})
	if err != nil {
		return err
	}
	rulesDir := filepath.Join(flags.dir, "rules")
	existing, err := readFolder(rulesDir)
	if err != nil {
		return err
	}
	if len(existing) > 0 {
		fmt.Fprintf(w, "kept %s\n", filepath.ToSlash(rulesDir))
	} else {
		added, err := (&newFlags{name: "default", from: "default", dir: rulesDir}).add(ctx)
		if err != nil {
			return err
		}
		for _, name := range added {
			fmt.Fprintf(w, "wrote %s\n", filepath.ToSlash(filepath.Join(rulesDir, name)))
		}
	}
	fmt.Fprintf(w, "\nNext:\n")
	if flags.dir != "." {
		fmt.Fprintf(w, "  cd %s\n", flags.dir)
	}
	_, err = fmt.Fprint(w, `  edit usher.yaml: the hubs and the enrollments
  usher new presses --group line-a
  usher check && usher test && usher verify
`)
	return err
}

// fillIn replaces what depends on the command line and on this version of usher.
func (flags *initFlags) fillIn(text []byte) []byte {
	hubs := "# hubs: [contoso-eu, contoso-us]"
	if len(flags.hubs) > 0 {
		hubs = "hubs: [" + strings.Join(flags.hubs, ", ") + "]"
	}
	build := readBuild()
	version, _, _ := strings.Cut(build.Usher, "+") // +dirty
	if !strings.HasPrefix(version, "v") {
		version = cmp.Or(build.Commit, "main")
	}
	return []byte(strings.NewReplacer("@HUBS@", hubs, "@VERSION@", version).Replace(string(text)))
}

// writeFile writes a file of the layout unless it exists.
func (flags *initFlags) writeFile(w io.Writer, layout fs.FS, name string) error {
	text, err := fs.ReadFile(layout, name)
	if err != nil {
		return err
	}
	target := filepath.Join(flags.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		_, err = fmt.Fprintf(w, "kept %s\n", filepath.ToSlash(target))
		return err
	}
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "wrote %s\n", filepath.ToSlash(target))
	return err
}

// writeLibrary replaces the library of the rules by that of this version, if the rules load with it.
func writeLibrary(ctx context.Context, w io.Writer, of rulesFlags) error {
	files, err := readFolder(of.path)
	if err != nil {
		return err
	}
	changed := map[string][]byte{}
	for _, name := range libraryFiles {
		text, err := fs.ReadFile(rules.Files(), name)
		if err != nil {
			return err
		}
		if string(files[name]) != string(text) {
			changed[name] = text
		}
	}
	if text := files[libraryFiles[0]]; text == nil || !libraryPackage.Match(text) {
		return fmt.Errorf("%s is not the library of Usher: run this in the repository of the rules", filepath.Join(of.path, filepath.FromSlash(libraryFiles[0])))
	}
	if len(changed) == 0 {
		_, err := fmt.Fprintf(w, "%s is that of this version\n", filepath.ToSlash(filepath.Join(of.path, libraryFiles[0])))
		return err
	}
	maps.Copy(files, changed)
	together, err := inMemory(files)
	if err != nil {
		return err
	}
	if _, err := decider.LoadRules(ctx, together, of.options()); err != nil {
		return rulesError(fmt.Errorf("the rules would not load with the library of this version, so nothing was written:\n%w", err))
	}
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		target := filepath.Join(of.path, filepath.FromSlash(name))
		if err := writeFile(target, changed[name]); err != nil {
			return err
		}
		fmt.Fprintf(w, "wrote %s\n", filepath.ToSlash(target))
	}
	return nil
}
