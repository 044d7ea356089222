package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// rulesFlags say which rules a command works with. They are the same for all commands.
type rulesFlags struct {
	path               string // a folder or a bundle file
	builtins, allowNet []string
	key                rulebundle.Key // verifies the signature of a bundle
}

// register adds the flags to a command.
func (f *rulesFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.path, "rules", "rules", "folder of rules, or a bundle file made by 'usher bundle' or 'opa build'")
	f.registerCapabilities(cmd)
	flags.StringVar(&f.key.File, "verification-key", "", "file with the public key or secret; the bundle must be signed with it")
	flags.StringVar(&f.key.Algorithm, "verification-alg", "RS256", "algorithm of the signature")
	completeWith(cmd, "verification-alg", signatureAlgorithms()...)
}

// registerCapabilities adds only the flags that let rules call more built-in functions.
func (f *rulesFlags) registerCapabilities(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.builtins, "allow-builtin", listSetting("USHER_RULES_BUILTINS"),
		"let rules call a built-in function that is off by default, such as http.send; default from USHER_RULES_BUILTINS")
	flags.StringSliceVar(&f.allowNet, "allow-net", listSetting("USHER_RULES_ALLOW_NET"),
		"host that http.send may call; default from USHER_RULES_ALLOW_NET")
}

// complete takes the path of the rules from the argument of a command, if there is one, and sets the flags that are not on
// the command line as the project file says.
func (f *rulesFlags) complete(cmd *cobra.Command, args ...string) error {
	given := ""
	if cmd.Flags().Changed("rules") {
		given = f.path
	}
	if len(args) > 0 {
		if given != "" && given != args[0] {
			return usageError(fmt.Errorf("the rules are given twice: %s and --rules %s", args[0], given))
		}
		f.path, given = args[0], args[0]
	}
	return useProject(cmd, given)
}

// isFolder reports whether the rules are a folder rather than a bundle.
func (f *rulesFlags) isFolder() bool {
	info, err := os.Stat(f.path)
	return err == nil && info.IsDir()
}

// listSetting reads a list from the environment in the way that function-app does, so that the same is allowed.
func listSetting(name string) []string {
	var parts []string
	for part := range strings.SplitSeq(os.Getenv(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// options returns how the rules are to be loaded.
func (f *rulesFlags) options() decider.RulesOptions {
	return decider.RulesOptions{Name: f.path, AllowBuiltins: f.builtins, AllowNet: f.allowNet}
}

// openRules opens the folder or the bundle. Its errors have the exit code of rules that do not load.
func openRules(f rulesFlags) (fs.FS, error) {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, rulesError(fmt.Errorf("there are no rules at %s: name a folder of rules or a bundle file with --rules", f.path))
	case err != nil:
		return nil, rulesError(err)
	case info.IsDir() && f.key.File != "":
		return nil, usageError(fmt.Errorf("%s is a folder, and --verification-key is for bundles", f.path))
	case info.IsDir():
		return os.DirFS(f.path), nil
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, rulesError(err)
	}
	defer file.Close()
	var key *rulebundle.Key
	if f.key.File != "" {
		key = &f.key
	}
	bundle, err := rulebundle.Read(file, key)
	if err != nil {
		return nil, rulesError(fmt.Errorf("%s is not a bundle of rules: %w", f.path, err))
	}
	return bundle.Files, nil
}

// loadRules opens and loads the rules, and returns them with their files. Its errors list every problem on a line of
// its own, and have the exit code of rules that do not load.
func loadRules(ctx context.Context, f rulesFlags, options decider.RulesOptions) (*decider.Rules, fs.FS, error) {
	fsys, err := openRules(f)
	if err != nil {
		return nil, nil, err
	}
	rules, err := decider.LoadRules(ctx, fsys, options)
	if ctx.Err() != nil {
		return nil, nil, errors.New("stopped while the rules were loaded")
	}
	if err != nil {
		return nil, nil, rulesError(fmt.Errorf("the rules do not load:\n%w", err))
	}
	return rules, fsys, nil
}

// rulesError marks an error as one of rules that do not load.
func rulesError(err error) error { return &exitError{code: exitRules, err: err} }
