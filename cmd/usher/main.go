// Command usher is the tool of people who write allocation rules: it helps to write rules, proves them, makes
// bundles of them, and runs the webhook on a developer's machine.
//
// The constants below are its exit codes; exitCodes has them in words.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes, so that scripts can tell a finding from a typing error.
const (
	exitOK        = 0
	exitFailure   = 1 // something failed, such as a file that cannot be read; or fmt --check found something
	exitUsage     = 2 // the command line is wrong
	exitRules     = 3 // the rules do not load
	exitTests     = 4 // tests fail, or cover too little (test)
	exitInvariant = 5 // a promise is broken (verify)
	exitChanges   = 6 // changes were found (replay)
	exitLint      = 7 // a lint found something (check)
	exitBench     = 8 // slower than the threshold allows (bench)
	exitDoctor    = 9 // devices fail, or will (doctor)
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// exitError is an error that asks for a certain exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError marks an error as the command line's fault.
func usageError(err error) error { return &exitError{code: exitUsage, err: err} }

// usageArgs does so for the checks that cobra makes of arguments.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(err)
		}
		return nil
	}
}

// run is the program without the process around it.
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
	if exit := (*exitError)(nil); errors.As(err, &exit) {
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
		Short: "Write, check and run the rules that show devices to their IoT hubs",
		Long: `usher is the tool of people who write allocation rules for Azure IoT Hub Device
Provisioning Service (DPS). Every command decides as the webhook does: what it
shows is what devices get.`,
		Example: `  usher new presses --group line-a && usher test       a rule and its test, to be changed
  usher verify --rule presses                          a request for which the rule is wrong, if there is one
  usher explain examples/requests/default-new.json     where this device goes, and why`,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true, // a failure is no reason to print the help
		Args:          usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(describeFlagError(err)) })
	cmd.AddCommand(newCheckCommand(), newNewCommand(), newEditorCommand(), newExplainCommand(), newTestCommand(), newBundleCommand(), newPackageCommand(), newEnrollCommand(), newDoctorCommand(), newBenchCommand(), newReplayCommand(), newLogCommand(), newVerifyCommand(), newHostCommand(), newDPSCommand(), newFmtCommand(), newVersionCommand())
	arrange(cmd)
	return cmd
}
