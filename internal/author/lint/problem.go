package lint

import (
	"errors"
	"strconv"
	"strings"

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
		finding := Finding{Lint: NotLoaded, Level: Error, File: problem.Place, Line: 1, Message: problem.Message, Fix: problem.Fix}
		if colon := strings.LastIndexByte(problem.Place, ':'); colon >= 0 {
			if line, err := strconv.Atoi(problem.Place[colon+1:]); err == nil {
				finding.File, finding.Line = problem.Place[:colon], line
			}
		}
		findings = append(findings, finding)
	}
	return findings
}
