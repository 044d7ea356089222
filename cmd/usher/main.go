// Command usher is the command-line tool for people who write allocation rules: it helps to write and test rules, packs
// them for deployment, and runs the webhook on a developer's machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes, by which scripts can tell what happened. exitMeanings describes them.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitRules     = 3
	exitTests     = 4
	exitInvariant = 5
	exitChanges   = 6
	exitLint      = 7
	exitBench     = 8
	exitDoctor    = 9
)

// exitMeanings says in the help what each exit code means.
func exitMeanings() []string {
	return []string{
		exitOK:        "success",
		exitFailure:   "something failed, such as reading a file; or fmt --check or editor --check found a difference",
		exitUsage:     "the command line is wrong",
		exitRules:     "the rules do not load",
		exitTests:     "test: a test failed, or the tests cover or notice too little; bundle: an exchange fails",
		exitInvariant: "verify: a promise is broken",
		exitChanges:   "replay: a change that --fail-on names was found",
		exitLint:      "check: a lint found a problem",
		exitBench:     "bench: slower than the threshold allows",
		exitDoctor:    "doctor: devices fail or will fail",
	}
}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// exitError is an error with the exit code of the command.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError marks an error as one of the command line.
func usageError(err error) error { return &exitError{code: exitUsage, err: err} }

// usageArgs marks the errors of a check of arguments as errors of the command line.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(err)
		}
		return nil
	}
}

// countArgs is usageArgs for a check by cobra of how many arguments there are, of which it words the errors.
func countArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return usageArgs(func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) == nil {
			return nil
		}
		return fmt.Errorf("%s given, want %s", plural(len(args), "argument"), strings.TrimSuffix(cmd.UseLine(), " [flags]"))
	})
}

// run runs the command and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetIn(stdin)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	called, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "usher: %v\n", err)
	code := exitFailure
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
	}
	if code == exitUsage {
		fmt.Fprintf(stderr, "See '%s --help'.\n", called.CommandPath())
	}
	return code
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "usher",
		Short: "Write, check and run the rules that assign devices to IoT hubs",
		Long: `usher is the tool for people who write allocation rules for Azure IoT Hub Device
Provisioning Service (DPS). Every command makes decisions as the webhook does: what
it shows is what devices get.`,
		Example: `  usher new presses --group line-a && usher test       write a rule and its test, to be changed
  usher verify --rule presses                          look for a request that the rule gets wrong
  usher explain examples/requests/default-new.json     show where this device goes, and why`,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true, // a failure is no reason to print the help
		Args:          usageArgs(knownCommand),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		Version: readBuild().Usher,
	}
	cmd.SetVersionTemplate(readBuild().String())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(describeFlagError(err)) })
	for _, group := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"write", "Write rules:", []*cobra.Command{newInitCommand(), newNewCommand(), newPlayCommand(), newCheckCommand(), newFmtCommand(), newEditorCommand()}},
		{"prove", "Test rules:", []*cobra.Command{newTestCommand(), newExplainCommand(), newVerifyCommand(), newReplayCommand(), newBenchCommand()}},
		{"ship", "Deploy rules:", []*cobra.Command{newBundleCommand(), newPackageCommand(), newEnrollCommand(), newDoctorCommand()}},
		{"run", "Run the webhook:", []*cobra.Command{newHostCommand(), newDPSCommand(), newLookupCommand(), newLogCommand()}},
		{"about", "About usher:", []*cobra.Command{newVersionCommand()}},
	} {
		cmd.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, sub := range group.commands {
			sub.GroupID = group.id
			cmd.AddCommand(sub)
		}
	}
	cmd.SetHelpCommand(newHelpCommand())
	cmd.SetHelpCommandGroupID("about")
	cmd.SetCompletionCommandGroupID("about")
	var codes strings.Builder
	for code, meaning := range exitMeanings() {
		fmt.Fprintf(&codes, "  %d  %s\n", code, meaning)
	}
	// Subcommands inherit the template.
	cmd.SetUsageTemplate(cmd.UsageTemplate() + "{{if not .HasParent}}\nExit codes:\n" + codes.String() + "{{end}}")
	return cmd
}

// knownCommand refuses the arguments of a command that has others below it: none of them has that name.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = 2 // letters
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		text += fmt.Sprintf(" (did you mean %s?)", strings.Join(similar, " or "))
	}
	return errors.New(text)
}

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Print the help of a command",
		Long:  "Help prints the help of usher, or of one of its commands.",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if len(args) == 0 {
				for _, sub := range cmd.Root().Commands() {
					names = append(names, sub.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			asked, rest, err := cmd.Root().Find(args)
			if err != nil {
				asked, rest = cmd.Root(), args
			}
			if len(rest) > 0 {
				return usageError(knownCommand(asked, rest))
			}
			asked.InitDefaultHelpFlag() // as cobra does before it prints the help for --help
			asked.InitDefaultVersionFlag()
			return asked.Help()
		},
	}
}
