// Command usher is the tool of people who write allocation rules: it formats rules and runs the webhook on a
// developer's machine.
//
// Exit codes: 0 when all is well, 1 when something failed or a check found something, 2 when the command line is wrong.
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
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
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
Provisioning Service (DPS).

Exit codes: 0 when all is well, 1 when something failed or a check found
something, 2 when the command line is wrong.`,
		Example: `  usher host            run the webhook on this machine
  usher fmt --check     find rules that are not formatted`,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true, // a failure is no reason to print the help
		Args:          usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	cmd.AddCommand(newHostCommand(), newFmtCommand(), newVersionCommand())
	return cmd
}
