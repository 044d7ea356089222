package lint

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

func sprintfVerbs(_ context.Context, s *subject, add report) {
	s.eachUse(func(_ string, use dataflow.Use) {
		if len(use.Args) != 2 || len(use.Args[1]) != 1 {
			return
		}
		args, known := printed(use.Args[1][0])
		for _, format := range use.Args[0] {
			text, ok := format.Text()
			if !ok || !known || strings.Contains(text, "*") {
				continue
			}
			if problem := formatProblem(fmt.Sprintf(text, args...)); problem != "" {
				add(use.Location, fmt.Sprintf("sprintf(%q, ...) %s", text, problem), "give each verb an argument of its type; %v suits any")
				return
			}
		}
	}, "sprintf")
}

// formatProblem explains what fmt prints in place of an argument that does not fit.
func formatProblem(printed string) string {
	match := badFormat.FindStringSubmatch(printed)
	switch {
	case match == nil:
		return ""
	case match[3] == "MISSING":
		return "has more verbs than arguments"
	case match[1] == "EXTRA":
		return "has more arguments than verbs"
	case match[1] != "":
		return "has a % without a verb"
	}
	kind := map[string]string{"string": "a text", "int": "an integer", "float64": "a decimal number"}[match[3]]
	return fmt.Sprintf("prints %s by %%%s", kind, match[2])
}

// badFormat is %!d(MISSING), %!d(string=x), %!(EXTRA int=5) or %!(NOVERB).
var badFormat = regexp.MustCompile(`%!(?:\(([A-Z]+)|(.)\(([A-Za-z0-9]+))`)

// printed are the arguments of sprintf, as OPA passes them to fmt; known is false if their number is not known.
func printed(list dataflow.Value) (args []any, known bool) {
	items := list.Items()
	if array, ok := list.Constant.(*ast.Array); ok {
		_, values := list.Inside()
		for i := range array.Len() {
			items = append(items, values[i:i+1])
		}
		return printedItems(items), true
	}
	return printedItems(items), list.Kind == dataflow.List && list.Place.Location != nil // written out
}

func printedItems(items []dataflow.Alternatives) []any {
	args := make([]any, len(items))
	for i, item := range items {
		args[i] = anything{}
		switch {
		case len(item) > 0 && !slices.ContainsFunc(item, func(v dataflow.Value) bool { return !v.IsText() }):
			args[i] = "x" // not the text itself, in which there may be a %!
		case len(item) == 1 && item[0].Kind == dataflow.Constant:
			args[i] = printedConstant(item[0].Constant)
		}
	}
	return args
}

func printedConstant(v ast.Value) any {
	switch number, ok := v.(ast.Number); {
	case !ok:
		return "x" // OPA writes it as a text
	case strings.ContainsAny(string(number), ".eE"):
		return 1.5
	default:
		return 1
	}
}

// anything suits every verb.
type anything struct{}

func (anything) Format(fmt.State, rune) {}

// openPattern finds regular expressions by which a device gets somewhere, and that match a part of a text.
func openPattern(_ context.Context, s *subject, add report) {
	s.eachUse(func(entry string, use dataflow.Use) {
		if !admits(entry, use) || len(dataflow.Sources(use.Args[1])) == 0 {
			return
		}
		for _, v := range use.Args[0] {
			pattern, ok := v.Text()
			if !ok {
				continue
			}
			if missing := missingAnchors(pattern); missing != "" {
				add(use.Location, fmt.Sprintf("the pattern %q%s also matches longer texts, because it does not %s", pattern, from(v.Place), missing),
					"anchor it with ^ and $; if anything may be there, say so with .*")
				return
			}
		}
	}, "regex.match")
}

// admits reports whether a device gets a hub, a twin or a payload, or is not refused, because the use is true.
func admits(entry string, use dataflow.Use) bool {
	if entry == "reject" || entry == "hold" {
		return use.Negated
	}
	return use.Plain
}

func missingAnchors(pattern string) string {
	switch start, end := dataflow.Anchors(pattern); {
	case !start && !end:
		return "say where the text begins and ends"
	case !start:
		return "say where the text begins"
	case !end:
		return "say where the text ends"
	}
	return ""
}
