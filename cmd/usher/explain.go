package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func newExplainCommand() *cobra.Command {
	var rules rulesFlags
	var output, whyNot string
	var number int
	cmd := &cobra.Command{
		Use:   "explain REQUEST",
		Short: "Tell why a device is answered as it is",
		Long: `Explain decides an AllocationRequest as the webhook does, and shows the decision,
what DPS will do with it, which line of the rules gave each part of it, which
lines of the same rule did not hold, and what in the request made them fail.

REQUEST is a file, or - for standard input. It holds an AllocationRequest, or a
decision record with the request in it; of several, one to a line as in a log,
--number chooses one.

  + a line that holds           - a line that does not, and the expression
  · a line that was not reached ! a line that fails

Values of the request are shown; keys and certificates are masked.`,
		Example: `  usher explain request.json
  usher explain request.json --why-not contoso-us
  tail -1 decisions.ndjson | usher explain - -o json
  usher explain decisions.ndjson --number 3 --rules new-rules`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usageError(fmt.Errorf("--output %s: it is text or json", output))
			}
			if number < 0 {
				return usageError(errors.New("--number counts from 1"))
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			name, text, err := readRequest(cmd, args[0])
			if err != nil {
				return err
			}
			input, err := explain.Read(text, number)
			if several, ok := errors.AsType[*explain.SeveralError](err); ok && number == 0 {
				return usageError(fmt.Errorf("%s holds %d requests: choose one with --number 1 to --number %[2]d", name, several.Requests))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if number > 0 {
				name = fmt.Sprintf("%s, number %d", name, number)
			}
			request, err := dps.ParseAllocationRequest(input.Body)
			if err != nil {
				return fmt.Errorf("%s is not an AllocationRequest: %w", name, err)
			}
			loaded, _, err := loadRules(ctx, rules, rules.options())
			if err != nil {
				return err
			}
			allocator, err := decider.New(decider.Options{Rules: loaded})
			if err != nil {
				return err
			}
			explanation := allocator.Explain(ctx, request, input.Lookups)
			if explanation.Answer.Result == answer.InvalidRequest {
				return invalidRequest(name, explanation.Answer.Violations)
			}
			report := explain.New(name, request, explanation)
			if report.Recorded = input.Recorded; report.Recorded != nil {
				report.Recorded.Lacks = loaded.Needs(ctx, request, input.Masked)
			}
			if whyNot != "" {
				report.AskWhyNot(request, whyNot)
			}
			if err := printReport(cmd.OutOrStdout(), output, report); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return nil
		},
	}
	rules.register(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", "text", "text or json")
	completeWith(cmd, "output", "text", "json")
	flags.StringVar(&whyNot, "why-not", "", "tell why the device does not go to this hub, by host name or first label")
	flags.IntVar(&number, "number", 0, "which of several requests, from 1")
	return cmd
}

func printReport(w io.Writer, output string, report *explain.Report) error {
	if output == "json" {
		return report.WriteJSON(w)
	}
	paint := painterFor(w)
	in := func(c colour) func(string) string { return func(text string) string { return paint.paint(c, text) } }
	return report.WriteText(w, explain.Style{Good: in(green), Bad: in(red), Faint: in(faint)})
}

// maxRequestFile bounds what is read to find a request in it.
const maxRequestFile = 256 << 20

// readRequest reads the argument of explain, and returns what to call it.
func readRequest(cmd *cobra.Command, path string) (name string, text []byte, err error) {
	name = path
	var reader io.Reader = cmd.InOrStdin()
	if path == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(path)
		if err != nil {
			return "", nil, err
		}
		defer file.Close()
		reader = file
	}
	text, err = io.ReadAll(io.LimitReader(reader, maxRequestFile+1))
	if err == nil && len(text) > maxRequestFile {
		err = errors.New("it is larger than 256 MiB: pick the line with a tool such as sed")
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", name, err)
	}
	return name, text, nil
}

// invalidRequest names every place where a request is not one.
func invalidRequest(name string, violations []answer.Violation) error {
	lines := []string{name + " is not an AllocationRequest as DPS sends it; the webhook answers 400, and the registration fails at once with 400207:"}
	for _, v := range violations {
		pointer := v.Pointer
		if pointer == "" {
			pointer = "(root)"
		}
		lines = append(lines, explain.Printable(fmt.Sprintf("  %s: %s", pointer, v.Problem)))
	}
	return errors.New(strings.Join(lines, "\n"))
}
