package lint

import (
	"errors"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// NotLoaded is the ID of findings that stand for rules that do not load.
const NotLoaded = "not-loaded"

// Problems turns the error of rules that do not load into findings, so that they appear among the others. It returns
// nil for any other error.
func Problems(err error) []Finding {
	broken, ok := errors.AsType[*ruleset.LoadError](err)
	if !ok {
		return nil
	}
	findings := make([]Finding, 0, len(broken.Problems))
	for _, problem := range broken.Problems {
		file, line := ruleset.SplitPlace(problem.Place)
		findings = append(findings, Finding{Lint: NotLoaded, Level: Error, File: file, Line: line, Message: problem.Message, Fix: problem.Fix})
	}
	return findings
}
