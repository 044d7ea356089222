package decider

import (
	"context"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Needs returns which of the places that are masked in a request, as JSON pointers, the rules read to reject it, to
// hold it or to name a hub. A decision on such a request can differ from that on the whole request. Needs reads the
// text of the rules, so it can return a place that does not matter for this request.
func (r *Rules) Needs(ctx context.Context, request *dps.AllocationRequest, masked []string) []string {
	if len(masked) == 0 {
		return nil
	}
	var needed []string
	if request.Enrollment.Kind == dps.IndividualEnrollment && r.namesIndividuals() {
		const id = "/individualEnrollment/registrationId" // it selects the rule
		if slices.Contains(masked, id) {
			needed = append(needed, id)
		}
	}
	rule := r.set.Serving(request.Enrollment)
	if rule == nil {
		return needed
	}
	for _, pointer := range masked {
		if !slices.Contains(needed, pointer) && slices.ContainsFunc(r.readBy(rule), func(read string) bool {
			return dataflow.Overlap(pointer, read) && !onlyExists(read, pointer)
		}) {
			needed = append(needed, pointer)
		}
	}
	return needed
}

// onlyExists reports whether a rule looks at whether there is a certificate, of which an attribute is masked, or a row, of
// which a member is. That is known then. A rule that looks at all of one reads its members.
func onlyExists(read, masked string) bool {
	if _, below, ok := dataflow.CutLookup(read); ok {
		return below == "" && strings.HasPrefix(masked, read+"/")
	}
	return read == dataflow.CertificatePointer && strings.HasPrefix(masked, dataflow.CertificatePointer+"/")
}

func (r *Rules) namesIndividuals() bool {
	return slices.ContainsFunc(r.set.Rules(), func(rule *ruleset.Rule) bool { return len(rule.Individuals) > 0 })
}

// readBy returns the places that a rule reads. It analyzes each rule once.
func (r *Rules) readBy(rule *ruleset.Rule) []string {
	if known, ok := r.reads.Load(rule); ok {
		return known.([]string)
	}
	analysis, err := dataflow.Analyze(rule, "reject", "hold", "hub")
	if err != nil {
		return nil // a rule that does not compile decides nothing
	}
	r.reads.Store(rule, analysis.Reads)
	return analysis.Reads
}
