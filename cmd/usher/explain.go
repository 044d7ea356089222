package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func newExplainCommand() *cobra.Command {
	var rules rulesFlags
	var output, whyNot string
	var number int
	cmd := &cobra.Command{
		Use:   "explain REQUEST",
		Short: "Explain why a device gets its answer",
		Long: `Explain decides an AllocationRequest as the webhook does, and shows the decision, what DPS
does with it, which line of the rules gave each part of it, which lines of the same rule
did not hold, and what in the request made them fail.

REQUEST is a file, or - for standard input. It holds what 'usher replay' reads, such as an
AllocationRequest or a decision record. If it holds several requests, --number chooses one.

  + a line that holds           - a line that does not, and the expression
  · a line that was not reached ! a line that fails

Values of the request are shown; keys and certificates are masked.`,
		Example: `  usher explain request.json
  usher explain request.json --why-not contoso-us
  tail -1 decisions.ndjson | usher explain - -o json
  usher explain decisions.ndjson --number 3 --rules new-rules`,
		Args: countArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if number < 0 {
				return usageError(errors.New("--number counts from 1"))
			}
			if err := rules.complete(cmd); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			name, item, err := chooseRequest(ctx, args[0], number, cmd.InOrStdin())
			if err != nil {
				return err
			}
			request, err := item.Parse()
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
			explanation := allocator.Explain(ctx, request, item.Lookups)
			if explanation.Answer.Result == answer.InvalidRequest {
				return invalidRequest(name, explanation.Answer.Violations)
			}
			report := explain.New(name, request, explanation)
			if item.Then != nil {
				report.SetRecorded(item.Then, loaded.Needs(ctx, request, item.Masked))
			}
			if whyNot != "" {
				report.ExplainWhyNot(request, whyNot)
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
	addOutputFlag(cmd, &output, "text", "json")
	flags.StringVar(&whyNot, "why-not", "", "explain why the device does not go to this hub, by host name or first label")
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

// chooseRequest returns a request of the log that the argument names, and what to call it.
func chooseRequest(ctx context.Context, path string, number int, stdin io.Reader) (string, requestlog.Item, error) {
	log := requestlog.Stream("standard input", stdin)
	var err error
	if path != "-" {
		if log, err = requestlog.File(path); err != nil {
			return "", requestlog.Item{}, err
		}
	}
	item, err := requestlog.Choose(ctx, log, number)
	if several, ok := errors.AsType[*requestlog.SeveralError](err); ok && number == 0 {
		err = usageError(fmt.Errorf("%s holds %d requests: choose one with --number 1 to --number %[2]d", log.Name, several.Requests))
	}
	if err == nil && item.Body == nil && item.Kind != requestlog.Other && item.Kind != requestlog.Request {
		err = fmt.Errorf("%s: %w", item.Place(), item.Err)
	}
	if number > 0 {
		return fmt.Sprintf("%s, number %d", log.Name, number), item, err
	}
	return log.Name, item, err
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
