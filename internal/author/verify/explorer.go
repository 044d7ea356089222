package verify

import (
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Limits of the dimensions. Each keeps one dimension from using up the budget of the others. The report says what they
// leave out.
const (
	maxEnrollments  = 8
	maxPayloadKeys  = 8
	maxRecordValues = 8
	maxMined        = 80 // values from the rule's constants, before they are thinned out
	ordinaryDevices = 40
	maxValues       = 32  // of a dimension that was thinned out
	sameAnswer      = 2   // how many values are kept that get the same answers
	thinningContext = 16  // requests in which values are compared for that
	probes          = 300 // requests that show which hubs a rule chooses
	allSubsetsUpTo  = 7   // hubs, of which there are 127 sets
	maxHubs         = 40
	variants        = 8 // of values without meaning, in case an answer depends on them
)

const (
	registrationPlace = "/deviceRuntimeContext/registrationId"
	currentHubPlace   = "/deviceRuntimeContext/currentIotHubHostName"
	currentIDPlace    = "/deviceRuntimeContext/currentDeviceId"
	certificatePlace  = dataflow.CertificatePointer
	payloadPlace      = "/deviceRuntimeContext/payload"
	servicePlace      = "/usher/service"
)

// notRead is why a dimension has only one value.
const notRead = "the rule does not read it"

// explorer builds the space of a rule.
type explorer struct {
	options  Options
	set      *ruleset.Ruleset
	rule     *ruleset.Rule
	analysis *dataflow.Analysis // of the rule and its invariants
	branches *branches
	random   *rand.Rand
	decide   func(*draft) brief
	verdict  func(*draft) string // the brief answer and the invariants that it breaks
	// follow evaluates a request for the search by paths.
	follow func(*draft) evaluated
	// isHome reports whether an expression is outside the library.
	isHome func(*ast.Expr) bool
	// looksUp are the look-ups that the rule uses, once tables has made them.
	looksUp []*table
}

func (e *explorer) reads(pointers ...string) bool {
	return slices.ContainsFunc(pointers, e.analysis.ReadsAt)
}

// readsRecord reports whether the rule reads a member of the enrollment, of either kind.
func (e *explorer) readsRecord(member string) bool {
	return e.reads("/enrollmentGroup/"+member, "/individualEnrollment/"+member)
}

// texts returns values for a place of the request that make a difference to the rule.
func (e *explorer) texts(place string) []string {
	literals := e.analysis.At(place)
	return texts(literals, separatorsOf(literals))
}

// space returns the space of the rule, and the requests by which the search by paths reached something new. It returns
// nil if no request reaches the rule.
func (e *explorer) space() (*space, *paths) {
	s := &space{}
	if e.addEnrollments(s); len(s.dimensions[0].values) == 0 {
		return nil, nil
	}
	e.addAttestations(s)
	e.addPolicies(s)
	e.addRecord(s)
	e.addService(s)
	e.addPayload(s)
	e.addDevices(s)
	e.addTimes(s)
	e.addRows(s)
	paths := e.search(s)
	paths.teach(s)
	for i := range s.dimensions {
		e.thin(s, i)
	}
	hubs := e.hubs(s, paths)
	e.addHubs(s, hubs)
	e.addCurrent(s, hubs)
	paths.teach(s)
	return s, paths
}

// thin removes values from a dimension that make no difference: it keeps only a few of those that get the same answers
// in the same requests. The values by which the search by paths reached something, and the rule's own words as far as
// there is room, stay: what changes nothing alone may do so together with another.
func (e *explorer) thin(s *space, i int) {
	d := &s.dimensions[i]
	if len(d.values) <= d.fixed+sameAnswer {
		return
	}
	candidates := e.candidates()
	contexts := make([][]int, thinningContext)
	hubs := make([][]string, thinningContext)
	for n := range contexts {
		contexts[n] = s.random(e.random)
		hubs[n] = candidates
		if n%3 == 2 {
			hubs[n] = e.some(candidates)
		}
	}
	answers := map[string]int{}
	kept := slices.Clone(d.values[:d.fixed])
	var others []any
	for n, value := range d.values[d.fixed:] {
		var answer strings.Builder
		for m, context := range contexts {
			context[i] = d.fixed + n
			request := s.draft(context)
			request.hubs = hubs[m]
			request.policy = policy{}
			answer.WriteString(e.verdict(request) + "\n")
		}
		if answers[answer.String()]++; answers[answer.String()] <= sameAnswer {
			kept = append(kept, value)
		} else if n < d.words {
			others = append(others, value)
		}
	}
	before := len(d.values)
	if room := max(maxValues, d.fixed+1); len(kept) > room {
		d.values = append(slices.Clone(kept[:d.fixed]), spread(kept[d.fixed:], room-d.fixed)...)
	} else {
		d.values = append(kept, spread(others, room-len(kept))...)
	}
	if len(d.values) < before {
		s.note("%s: %d of %d; the others change no answer on their own", d.name, len(d.values), before)
	}
}
