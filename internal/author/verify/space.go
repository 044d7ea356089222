package verify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Bounds of the dimensions. Each keeps one dimension from eating the budget of
// all the others; what they leave out is said in the report.
const (
	maxEnrollments  = 8
	maxPayloadKeys  = 8
	maxRecordValues = 8
	maxMined        = 80 // of values that come from the rule's words, before they are thinned
	ordinaryDevices = 40
	maxValues       = 32  // of a dimension, after it was thinned
	sameAnswer      = 2   // values that are kept of those that make no difference to each other
	thinningContext = 16  // requests that a value is put into to find that out
	probes          = 300 // requests that show which hubs a rule chooses
	allSubsetsUpTo  = 7   // hubs: 127 sets of them
	variants        = 8   // of what has no meaning, for what hangs on it nevertheless
)

// Hubs that no rule names.
const (
	otherHub    = "usher-other-hub.azure-devices.net"    // linked at times
	unlinkedHub = "usher-unlinked-hub.azure-devices.net" // never linked
)

// space is all requests that a rule is searched with: the product of dimensions.
type space struct {
	rule       *ruleset.Rule
	dimensions []dimension
	notes      []string
}

// dimension is one aspect of a request and the values that it takes.
type dimension struct {
	name   string
	values []func(*draft)
	single string // why there is one value alone, "" if there are more
	fixed  int    // how many of the first values are never thinned out
}

func (s *space) add(name string, values []func(*draft), single string) {
	s.addThinned(name, values, len(values), single)
}

// addThinned adds a dimension of which only the first values are sure to stay.
func (s *space) addThinned(name string, values []func(*draft), fixed int, single string) {
	if len(values) > 1 {
		single = ""
	}
	s.dimensions = append(s.dimensions, dimension{name, values, single, fixed})
}

func (s *space) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// size returns how many requests the space has, at most MaxInt.
func (s *space) size() int {
	size := 1
	for _, d := range s.dimensions {
		if size > math.MaxInt/len(d.values) {
			return math.MaxInt
		}
		size *= len(d.values)
	}
	return size
}

// draft makes the request of one choice for each dimension.
func (s *space) draft(choice []int) *draft {
	d := &draft{record: map[string]any{}, payload: map[string]any{}}
	for i, dimension := range s.dimensions {
		dimension.values[choice[i]](d)
	}
	if d.kind == dps.IndividualEnrollment {
		d.registration = d.enrollment
	}
	return d
}

// at returns the choice with the given number in the order of all choices.
func (s *space) at(number int) []int {
	choice := make([]int, len(s.dimensions))
	for i := len(choice) - 1; i >= 0; i-- {
		n := len(s.dimensions[i].values)
		choice[i] = number % n
		number /= n
	}
	return choice
}

// random makes a choice by chance. It prefers the values that are specific to the rule: the others, which no rule
// expects, are in the pairs.
func (s *space) random(chance *rand.Rand) []int {
	choice := make([]int, len(s.dimensions))
	for i, d := range s.dimensions {
		first := 0
		if d.fixed < len(d.values) && chance.IntN(2) == 0 {
			first = d.fixed
		}
		choice[i] = first + chance.IntN(len(d.values)-first)
	}
	return choice
}

// explorer builds the space of a rule.
type explorer struct {
	options  Options
	set      *ruleset.Ruleset
	rule     *ruleset.Rule
	analysis *dataflow.Analysis
	chance   *rand.Rand
	decide   func(body []byte) brief
}

func (e *explorer) reads(pointers ...string) bool {
	return slices.ContainsFunc(pointers, e.analysis.ReadsAt)
}

// record returns the pointers of an enrollment's member, for both kinds.
func record(member string) []string {
	return []string{"/enrollmentGroup/" + member, "/individualEnrollment/" + member}
}

// space is nil if no request reaches the rule.
func (e *explorer) space() *space {
	s := &space{rule: e.rule}
	if e.addEnrollments(s); len(s.dimensions[0].values) == 0 {
		return nil
	}
	e.addAttestations(s)
	e.addPolicies(s)
	e.addRecord(s)
	e.addPayload(s)
	e.addDevices(s)
	for i := range s.dimensions {
		e.thin(s, i)
	}
	hubs := e.hubs(s)
	e.addHubs(s, hubs)
	e.addCurrent(s, hubs)
	return s
}

func (e *explorer) addEnrollments(s *space) {
	var found []dps.Enrollment
	add := func(kind dps.EnrollmentKind, id string) {
		one := dps.Enrollment{Kind: kind, ID: id}
		if kind == dps.IndividualEnrollment && !registrationID.MatchString(id) {
			return
		}
		if id != "" && e.set.Serving(one) == e.rule && !slices.Contains(found, one) {
			found = append(found, one)
		}
	}
	groups, individuals := e.rule.Groups, e.rule.Individuals
	if e.rule.IsDefault() {
		groups, individuals = []string{"usher-verify-*"}, []string{"usher-verify-*"}
	}
	for _, name := range groups {
		for _, example := range globExamples(name) {
			add(dps.EnrollmentGroup, example)
		}
	}
	for _, name := range individuals {
		for _, example := range globExamples(name) {
			add(dps.IndividualEnrollment, example)
		}
	}
	// Of the rule's own words those that it serves as enrollments.
	for _, place := range []string{"/enrollmentGroup/enrollmentGroupId", "/individualEnrollment/registrationId"} {
		words := e.analysis.At(place)
		for _, text := range texts(words, separatorsOf(words)) {
			add(dps.EnrollmentGroup, text)
			add(dps.IndividualEnrollment, text)
		}
	}
	if len(found) == 0 {
		for _, name := range groups {
			for _, example := range moreExamples(name) {
				add(dps.EnrollmentGroup, example)
			}
		}
		for _, name := range individuals {
			for _, example := range moreExamples(name) {
				add(dps.IndividualEnrollment, example)
			}
		}
	}
	if len(found) > maxEnrollments {
		s.note("%d of %d names of enrollments", maxEnrollments, len(found))
		found = spread(found, maxEnrollments)
	}
	values := make([]func(*draft), len(found))
	for i, one := range found {
		values[i] = func(d *draft) { d.kind, d.enrollment = one.Kind, one.ID }
	}
	s.add("enrollments", values, "")
}

// spread takes n elements evenly, the first among them.
func spread[T any](list []T, n int) []T {
	if len(list) <= n {
		return list
	}
	taken := make([]T, n)
	for i := range taken {
		taken[i] = list[i*len(list)/n]
	}
	return taken
}

func (e *explorer) addAttestations(s *space) {
	symmetricKey := attestation{kind: "symmetricKey"}
	all := []attestation{symmetricKey}
	device := []string{"/deviceRuntimeContext/symmetricKey", "/deviceRuntimeContext/x509", "/deviceRuntimeContext/tpm"}
	if e.reads(append(device, record("attestation")...)...) {
		all = append(all, attestation{}, attestation{kind: "tpm"}, attestation{kind: "x509"}, attestation{kind: "x509", reference: true})
	}
	if e.reads("/deviceRuntimeContext/x509/clientCertificate") {
		all = append(all, attestation{kind: "x509", certificate: "bm90IGEgY2VydGlmaWNhdGU="})
		for _, subject := range e.subjects(s) {
			if certificate := certificateOf(subject, 2); certificate != "" {
				all = append(all, attestation{kind: "x509", certificate: certificate})
			}
		}
	}
	values := make([]func(*draft), len(all))
	for i, one := range all {
		values[i] = func(d *draft) { d.attestation = one }
	}
	s.addThinned("attestations", values, min(6, len(all)), "the rule does not read it")
}

// subjects are those of the certificates: each constant that the rule brings
// together with the certificate, in the attributes that it reads.
func (e *explorer) subjects(s *space) []subject {
	const place = "/deviceRuntimeContext/x509/clientCertificate"
	words := e.analysis.At(place)
	var names []string
	for _, text := range texts(words, separatorsOf(words)) {
		if text != "" && len(text) <= 64 {
			names = append(names, text)
		}
	}
	if len(names) > maxMined {
		s.note("%d of %d names for certificates", maxMined, len(names))
		names = spread(names, maxMined)
	}
	attributes := []string{"/subject/organization", "/subject/organizationalUnit", "/subject/commonName", "/dnsNames"}
	named := slices.ContainsFunc(e.analysis.Reads, func(read string) bool {
		return slices.ContainsFunc(attributes, func(attribute string) bool { return strings.HasPrefix(read, place+attribute) })
	})
	reads := func(attribute string) bool {
		// A rule that is seen to read one attribute is taken to read no other.
		return !named || slices.ContainsFunc(e.analysis.Reads, func(read string) bool { return strings.HasPrefix(read, place+attribute) })
	}
	subjects := []subject{{commonName: "device-0001"}, {organizations: []string{"Usher Other"}, commonName: "device-0001"}}
	for n := range variants { // whose serial numbers and thumbprints differ, too
		subjects = append(subjects, subject{commonName: fmt.Sprintf("device-%04d", n+2)})
	}
	for i, name := range names {
		if reads(attributes[0]) {
			subjects = append(subjects, subject{organizations: []string{name}, commonName: "device-0001"})
			if i < maxRecordValues {
				subjects = append(subjects,
					subject{organizations: []string{strings.ToUpper(name)}, commonName: "device-0001"},
					subject{organizations: []string{name, "Usher Other"}, commonName: "device-0001"})
			}
		}
		if reads(attributes[1]) {
			subjects = append(subjects, subject{units: []string{name}, commonName: "device-0001"})
		}
		if reads(attributes[2]) {
			subjects = append(subjects, subject{commonName: name})
		}
		if reads(attributes[3]) {
			subjects = append(subjects, subject{commonName: "device-0001", dnsNames: []string{name}})
		}
	}
	return subjects
}

func (e *explorer) addPolicies(s *space) {
	all := []policy{{}, {true, false, false}}
	single := "" // never is Usher's own business, and looked at always
	if e.reads(record("reprovisionPolicy")...) {
		all = append(all, policy{true, true, true}, policy{true, true, false}, policy{true, false, true})
	}
	values := make([]func(*draft), len(all))
	for i, one := range all {
		values[i] = func(d *draft) { d.policy = one }
	}
	s.add("reprovision policies", values, single)
}

// addRecord adds the other members of the enrollment that the rule reads.
func (e *explorer) addRecord(s *space) {
	number := func(n int64) json.Number { return json.Number(itoa(n)) }
	if e.reads(record("initialTwin")...) {
		twins := []any{
			nil,
			map[string]any{"tags": map[string]any{"site": "a"}, "properties": map[string]any{"desired": map[string]any{"interval": number(60)}}},
			// As tools leave it behind.
			map[string]any{"tags": map[string]any{"$version": number(1), "site": "a"}, "additional_properties": nil,
				"properties": map[string]any{"desired": map[string]any{"$version": number(1), "$metadata": map[string]any{}}}},
			map[string]any{},
		}
		s.add("enrollment twins", recordValues("/initialTwin", twins), "")
	}
	if e.reads(record("capabilities")...) {
		s.add("edge capabilities", recordValues("/capabilities", []any{nil,
			map[string]any{"iotEdge": true}, map[string]any{"iotEdge": false}}), "")
	}
	known := []string{"registrationId", "enrollmentGroupId", "attestation", "reprovisionPolicy", "initialTwin", "capabilities"}
	var places []string
	for _, read := range e.analysis.Reads {
		steps := stepsOf(read)
		if len(steps) < 2 || steps[0] != string(dps.EnrollmentGroup) && steps[0] != string(dps.IndividualEnrollment) || slices.Contains(known, steps[1]) {
			continue
		}
		if place := pointerOf(steps[1:]); !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	for _, place := range spread(places, 8) {
		values := []any{nil, "usher-other"}
		for _, words := range [][]dataflow.Literal{e.analysis.At("/enrollmentGroup" + place), e.analysis.At("/individualEnrollment" + place)} {
			for _, literal := range words {
				if len(values) < maxRecordValues && !slices.Contains(values, literal.Value) {
					values = append(values, literal.Value)
				}
			}
		}
		s.add("values of the enrollment's "+place, recordValues(place, values), "")
	}
}

// recordValues sets a member of the enrollment; nil leaves it out.
func recordValues(place string, list []any) []func(*draft) {
	values := make([]func(*draft), len(list))
	for i, value := range list {
		values[i] = func(d *draft) {
			if value != nil {
				d.record[place] = value
			}
		}
	}
	return values
}

const payloadPlace = "/deviceRuntimeContext/payload"

func (e *explorer) addPayload(s *space) {
	if !e.reads(payloadPlace) {
		s.add("payloads", []func(*draft){func(d *draft) { d.noPayload = true }}, "the rule does not read it")
		return
	}
	s.add("payload or none", []func(*draft){func(*draft) {}, func(d *draft) { d.noPayload = true }}, "")
	keys := e.payloadKeys()
	if len(keys) > maxPayloadKeys {
		s.note("%d of %d members of the payload: %s", maxPayloadKeys, len(keys), strings.Join(keys[:maxPayloadKeys], " "))
		keys = keys[:maxPayloadKeys]
	}
	if len(keys) == 0 {
		// It reads the payload as a whole, perhaps for a share of all devices.
		const key = "/usherVerify"
		values := []func(*draft){func(*draft) {}}
		for n := range variants {
			values = append(values, func(d *draft) { d.payload[key] = fmt.Sprint("any ", n) })
		}
		s.addThinned("payloads", values, 1, "")
	}
	for _, key := range keys {
		list, fixed := e.payloadValues(s, key)
		values := []func(*draft){func(*draft) {}} // absent
		for _, value := range list {
			values = append(values, func(d *draft) { d.payload[key] = value })
		}
		s.addThinned("values of payload"+key, values, 1+fixed, "")
	}
}

// payloadKeys are the members of the payload that the rule reads, as JSON
// pointers from the payload on, and those that the schema of the payload names.
func (e *explorer) payloadKeys() []string {
	var keys []string
	add := func(key string) {
		if key != "" && key != "/" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, read := range e.analysis.Reads {
		if key, ok := strings.CutPrefix(read, payloadPlace); ok {
			add(key)
		}
	}
	for _, field := range e.options.PayloadSchema {
		add(field.Pointer)
	}
	// Where a member is read below another, an object there is enough.
	return slices.DeleteFunc(keys, func(key string) bool {
		return slices.ContainsFunc(keys, func(other string) bool { return strings.HasPrefix(other, key+"/") })
	})
}

// payloadValues are the values that a member of the payload takes, and how many
// of them must stay.
func (e *explorer) payloadValues(s *space, key string) (all []any, fixed int) {
	words := e.analysis.At(payloadPlace + key)
	words = append(words, e.analysis.Beside[payloadPlace]...)
	var values []any
	add := func(list ...any) {
		for _, value := range list {
			if !slices.ContainsFunc(values, func(other any) bool { return equalJSON(other, value) }) {
				values = append(values, value)
			}
		}
	}
	// What nobody expects.
	add("usher-other", "", json.Number("7"), nil, true, map[string]any{}, []any{})
	for _, field := range e.options.PayloadSchema {
		if field.Pointer == key {
			add(field.Values...)
		}
	}
	fixed = len(values)
	mined := texts(words, separatorsOf(words))
	if len(mined) > maxMined {
		s.note("%d of %d texts for payload%s", maxMined, len(mined), key)
	}
	for _, text := range spread(mined, maxMined) {
		add(text, strings.ToUpper(text), strings.ToLower(text))
	}
	for _, literal := range words {
		switch v := literal.Value.(type) {
		case json.Number:
			if len(values) < 3*maxMined {
				add(numbersAround(v)...)
			}
		case bool:
			add(v, !v)
		}
	}
	return values, fixed
}

func (e *explorer) addDevices(s *space) {
	if !e.reads("/deviceRuntimeContext/registrationId") && !e.reads("/deviceRuntimeContext/currentDeviceId") {
		s.add("registration IDs", []func(*draft){func(d *draft) { d.registration = "device-0001" }}, "the rule does not read it")
		return
	}
	words := e.analysis.At("/deviceRuntimeContext/registrationId")
	var ids []string
	add := func(id string) {
		if registrationID.MatchString(id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range []string{"device-0001", "a", "0001", "-", "a.b_c:d-E", strings.Repeat("x", 128)} {
		add(id)
	}
	fixed := len(ids)
	mined := texts(words, separatorsOf(words))
	mined = slices.DeleteFunc(mined, func(id string) bool { return !registrationID.MatchString(id) })
	if len(mined) > maxMined {
		s.note("%d of %d registration IDs from the rule's words", maxMined, len(mined))
	}
	for _, id := range spread(mined, maxMined) {
		add(id)
	}
	// Shares and weights send ordinary devices apart.
	for n := range ordinaryDevices {
		add(fmt.Sprintf("device-%04d", n+2))
	}
	values := make([]func(*draft), len(ids))
	for i, id := range ids {
		values[i] = func(d *draft) { d.registration = id }
	}
	s.addThinned("registration IDs", values, fixed, "")
}

// thin leaves out of a dimension the values that make no difference to each
// other: all but a few of those that get the same answers in the same requests.
func (e *explorer) thin(s *space, i int) {
	d := &s.dimensions[i]
	if len(d.values) <= d.fixed+sameAnswer {
		return
	}
	candidates := e.candidates()
	contexts := make([][]int, thinningContext)
	hubs := make([][]string, thinningContext)
	for n := range contexts {
		contexts[n] = s.random(e.chance)
		hubs[n] = candidates
		if n%3 == 2 {
			hubs[n] = e.some(candidates)
		}
	}
	answers := map[string]int{}
	var kept, others []func(*draft)
	for n, value := range d.values {
		var answer strings.Builder
		for m, context := range contexts {
			context[i] = n
			request := s.draft(context)
			request.hubs = hubs[m]
			request.policy = policy{}
			answer.WriteString(e.decide(request.body()).String() + "\n")
		}
		switch answers[answer.String()]++; {
		case n < d.fixed || answers[answer.String()] <= sameAnswer:
			kept = append(kept, value)
		default:
			others = append(others, value)
		}
	}
	switch before := len(d.values); {
	case len(kept) > max(maxValues, d.fixed):
		kept = append(slices.Clone(kept[:d.fixed]), spread(kept[d.fixed:], max(maxValues-d.fixed, 1))...)
		s.note("%s: %d of %d", d.name, len(kept), before)
	case len(others) > 0:
		s.note("%s: %d of %d, as the others were answered alike", d.name, len(kept), before)
	}
	d.values = kept
}

// some returns about half of a list, at least one.
func (e *explorer) some(list []string) []string {
	var taken []string
	for _, one := range list {
		if e.chance.IntN(2) == 0 {
			taken = append(taken, one)
		}
	}
	if len(taken) == 0 {
		return list
	}
	return taken
}

// candidates are all host names that the rule's words may stand for, and a hub
// that no rule knows.
func (e *explorer) candidates() []string {
	var hosts []string
	// Texts that DPS has another meaning for.
	taken := []string{"migrate", "reset", "never", "symmetrickey", "x509", "tpm", "none", "device-0001"}
	add := func(text string) {
		host, ok := hostOf(text)
		if ok && !slices.Contains(taken, strings.ToLower(text)) && !slices.ContainsFunc(hosts, func(other string) bool { return dps.SameHub(other, host) }) {
			hosts = append(hosts, host)
		}
	}
	for _, hub := range e.options.Hubs {
		add(hub)
	}
	places := []string{"/linkedHubs", "/deviceRuntimeContext/currentIotHubHostName"}
	for _, place := range places {
		words := e.analysis.At(place)
		for _, text := range texts(words, nil) {
			add(text)
		}
	}
	for _, text := range e.analysis.Hubs {
		for _, example := range globExamples(text) {
			add(example)
		}
	}
	hosts = spread(hosts, 200)
	if len(hosts) == 0 {
		hosts = []string{"hub-a.azure-devices.net", "hub-b.azure-devices.net"}
	}
	return append(hosts, otherHub)
}

// hubs finds out which hubs the rule has to do with: those that it is seen to
// choose, and those that the caller names.
func (e *explorer) hubs(s *space) []string {
	candidates := e.candidates()
	chosen := map[string]int{}
	for range probes {
		d := s.draft(s.random(e.chance))
		d.hubs = e.some(candidates)
		d.policy = policy{}
		if e.chance.IntN(2) == 0 {
			d.current = candidates[e.chance.IntN(len(candidates))]
		}
		// That a device stays says nothing of the rule.
		if a := e.decide(d.body()); a.assigned() && a.words != d.current {
			chosen[a.words]++
		}
	}
	score := func(host string) int {
		score := 0
		if slices.ContainsFunc(e.options.Hubs, func(hub string) bool { named, _ := hostOf(hub); return dps.SameHub(named, host) }) {
			score += 8
		}
		if host != otherHub && chosen[host] > 0 {
			score += 4
		}
		if slices.ContainsFunc(e.analysis.Hubs, func(text string) bool { return strings.EqualFold(text, host) }) {
			score += 3
		}
		if strings.Contains(host[:strings.IndexByte(host, '.')], "hub") {
			score++
		}
		return score
	}
	hubs := slices.DeleteFunc(slices.Clone(candidates), func(host string) bool { return host == otherHub || score(host) < 2 })
	slices.SortStableFunc(hubs, func(a, b string) int {
		return cmp.Or(score(b)-score(a), strings.Compare(a, b))
	})
	// A rule that takes whatever is linked has chosen among words that name no hub.
	const most = 40
	if everything := chosen[otherHub] > 0 && len(hubs) >= allSubsetsUpTo; everything || len(hubs) > most {
		keep := max(allSubsetsUpTo-1, len(e.options.Hubs))
		if !everything {
			keep = most
		}
		if len(hubs) > keep {
			s.note("%d of %d hubs that the rule may mean: name yours with --hubs", keep, len(hubs))
			hubs = hubs[:keep]
		}
	}
	for _, hub := range []string{"hub-a.azure-devices.net", "hub-b.azure-devices.net"} {
		// To a rule that takes what is linked, hubs without a name in it are as good.
		if few := len(hubs) < 2 || chosen[otherHub] > 0 && len(hubs) < 3; few && !slices.Contains(hubs, hub) {
			hubs = append(hubs, hub)
		}
	}
	return hubs
}

func (e *explorer) addHubs(s *space, named []string) {
	if !e.reads("/linkedHubs") {
		s.note("the rule does not read linkedHubs")
	}
	hubs := append(slices.Clone(named), otherHub)
	var sets [][]string
	add := func(set []string) {
		if len(set) > 0 && !slices.ContainsFunc(sets, func(other []string) bool { return slices.Equal(other, set) }) {
			sets = append(sets, set)
		}
	}
	without := func(i int) []string { return slices.Delete(slices.Clone(hubs), i, i+1) }
	add(hubs)
	if len(hubs) <= allSubsetsUpTo {
		for bits := 1; bits < 1<<len(hubs); bits++ {
			var set []string
			for i, hub := range hubs {
				if bits>>i&1 == 1 {
					set = append(set, hub)
				}
			}
			add(set)
		}
	} else {
		s.note("of the sets of %d hubs: each alone, each left out, 64 by chance", len(hubs))
		for i := range hubs {
			add(without(i))
			add(hubs[i : i+1])
		}
		for range 64 {
			add(e.some(hubs))
		}
	}
	values := make([]func(*draft), len(sets))
	for i, set := range sets {
		values[i] = func(d *draft) { d.hubs = set }
	}
	s.add("sets of linked hubs", values, "")
}

func (e *explorer) addCurrent(s *space, named []string) {
	states := []string{"", unlinkedHub}
	if e.reads("/deviceRuntimeContext/currentIotHubHostName", "/deviceRuntimeContext/currentDeviceId") {
		states = append(states, otherHub)
		states = append(states, named...)
	} else {
		states = append(states, named[0])
	}
	values := make([]func(*draft), len(states))
	for i, hub := range states {
		values[i] = func(d *draft) { d.current = hub }
	}
	s.add("current hubs", values, "")
}
