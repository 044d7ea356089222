package lint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// declarable are the places of the request that a record has only as far as METADATA declares them recordable, with what
// paths there are called.
var declarable = []struct{ place, root string }{
	{"/deviceRuntimeContext/payload", ruleset.RecordablePayload},
	{dataflow.CertificatePointer, ruleset.RecordableCertificate},
	{"/enrollmentGroup/initialTwin", ruleset.RecordableTwin},
	{"/individualEnrollment/initialTwin", ruleset.RecordableTwin},
	{"/individualEnrollment/optionalDeviceInformation", ruleset.RecordableInformation},
	{"/individualEnrollment/registrationState/payload", ruleset.RecordableAnswerResult},
}

// notReplayable finds what hub, reject and hold read of a request and a record lacks. Replay does the same with the masked
// parts of a record; see [decider.Rules.Needs].
func notReplayable(_ context.Context, s *subject, add report) {
	analysis, err := dataflow.Analyze(s.rule, "reject", "hold", "hub")
	if err != nil {
		return // it has loaded
	}
	var lacking [][]string
	for _, read := range analysis.Reads {
		for _, d := range declarable {
			path, reads := pathOf(read, d.place, d.root)
			if reads && !covered(path, s.rule.Recordable) {
				lacking = append(lacking, path)
			}
		}
	}
	slices.SortFunc(lacking, slices.Compare)
	var paths []string
	for i, path := range lacking {
		if !covered(path, lacking[:i]) { // the shorter ones come first
			paths = append(paths, strings.Join(path, "."))
		}
	}
	if len(paths) == 0 {
		return
	}
	list := slices.Clone(paths)
	for _, declared := range s.rule.Recordable {
		if !covered(declared, lacking) {
			list = append(list, strings.Join(declared, "."))
		}
	}
	slices.Sort(list)
	add(nil, fmt.Sprintf("records of its decisions cannot be replayed, because they lack what it decides by: %s", strings.Join(paths, ", ")),
		fmt.Sprintf("if it may be recorded, add to custom in the METADATA:  recordable: [%s]", strings.Join(list, ", ")))
}

// pathOf returns the path of custom.recordable that covers what a rule reads, a JSON pointer, at a place of the request. It
// reports whether the rule reads there.
func pathOf(read, place, root string) ([]string, bool) {
	path := []string{root}
	if read == dataflow.CertificatePointer && read == place {
		return nil, false // it reads whether there is a certificate, which a record has
	}
	below, within := strings.CutPrefix(read+"/", place+"/")
	if !within {
		return path, strings.HasPrefix(place+"/", read+"/")
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(below, "/"), "/") {
		// A path has no items of a list, and a name in it has no dots.
		if name == "" || name == dataflow.AnyMember || isIndex(name) || strings.ContainsAny(name, ".~\"',[]{}#: ") {
			break
		}
		path = append(path, name)
	}
	if root == ruleset.RecordableTwin && len(path) > 1 && path[1] != "tags" && path[1] != "properties" {
		path = path[:1]
	}
	return path, true
}

func isIndex(text string) bool { return strings.Trim(text, "0123456789") == "" }

// covered reports whether one of the paths is a path or leads to it.
func covered(path []string, by [][]string) bool {
	return slices.ContainsFunc(by, func(p []string) bool { return len(p) <= len(path) && slices.Equal(p, path[:len(p)]) })
}
