package verify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
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

// Hubs that no rule names.
const (
	otherHub    = "usher-other-hub.azure-devices.net"    // sometimes linked
	unlinkedHub = "usher-unlinked-hub.azure-devices.net" // never linked
)

// anyHubs are linked if a rule names no hubs.
var anyHubs = []string{"hub-a.azure-devices.net", "hub-b.azure-devices.net"}

const (
	registrationPlace = "/deviceRuntimeContext/registrationId"
	currentHubPlace   = "/deviceRuntimeContext/currentIotHubHostName"
	currentIDPlace    = "/deviceRuntimeContext/currentDeviceId"
	certificatePlace  = "/deviceRuntimeContext/x509/clientCertificate"
	payloadPlace      = "/deviceRuntimeContext/payload"
	servicePlace      = "/usher/service"
)

// notRead is why a dimension has only one value.
const notRead = "the rule does not read it"

// space is all requests that a rule can be tried with: the product of its dimensions.
type space struct {
	rule       *ruleset.Rule
	dimensions []dimension
	notes      []string
}

// dimension is one aspect of a request and its values.
type dimension struct {
	name   string
	values []func(*draft)
	single string // why there is only one value; "" if there are more
	fixed  int    // how many of the first values are never thinned out
}

func (s *space) add(name string, values []func(*draft), single string) {
	s.addThinned(name, values, len(values), single)
}

// addThinned adds a dimension that can be thinned out, except for its first values.
func (s *space) addThinned(name string, values []func(*draft), fixed int, single string) {
	if len(values) > 1 {
		single = ""
	}
	s.dimensions = append(s.dimensions, dimension{name, values, single, fixed})
}

// setters returns the values of a dimension: functions that set an element of the list.
func setters[T any](list []T, set func(*draft, T)) []func(*draft) {
	values := make([]func(*draft), len(list))
	for i, value := range list {
		values[i] = func(d *draft) { set(d, value) }
	}
	return values
}

func (s *space) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// sample returns at most n elements of the list, evenly chosen, and notes how many there were.
func sample[T any](s *space, list []T, n int, what string) []T {
	if len(list) > n {
		s.note("%d of %d %s", n, len(list), what)
	}
	return spread(list, n)
}

// spread chooses n elements evenly, including the first.
func spread[T any](list []T, n int) []T {
	if len(list) <= n {
		return list
	}
	chosen := make([]T, n)
	for i := range chosen {
		chosen[i] = list[i*len(list)/n]
	}
	return chosen
}

// addNew appends the elements that the list does not contain yet.
func addNew[T comparable](list []T, more ...T) []T {
	for _, one := range more {
		if !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	return list
}

// size returns the number of requests in the space, at most MaxInt.
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

// draft returns the request with the chosen value of each dimension.
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

// random returns a random choice. It prefers the values that are specific to the rule, because the pairs already cover
// the others, which no rule expects.
func (s *space) random(random *rand.Rand) []int {
	choice := make([]int, len(s.dimensions))
	for i, d := range s.dimensions {
		first := 0
		if d.fixed < len(d.values) && random.IntN(2) == 0 {
			first = d.fixed
		}
		choice[i] = first + random.IntN(len(d.values)-first)
	}
	return choice
}

// explorer builds the space of a rule.
type explorer struct {
	options  Options
	set      *ruleset.Ruleset
	rule     *ruleset.Rule
	analysis *dataflow.Analysis
	random   *rand.Rand
	decide   func(body []byte) brief
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

// space returns nil if no request reaches the rule.
func (e *explorer) space() *space {
	s := &space{rule: e.rule}
	if e.addEnrollments(s); len(s.dimensions[0].values) == 0 {
		return nil
	}
	e.addAttestations(s)
	e.addPolicies(s)
	e.addRecord(s)
	e.addService(s)
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
	type enrollment struct {
		kind dps.EnrollmentKind
		id   string
	}
	var found []enrollment
	add := func(kind dps.EnrollmentKind, ids []string) {
		for _, id := range ids {
			if id != "" && e.set.Serving(dps.Enrollment{Kind: kind, ID: id}) == e.rule &&
				(kind == dps.EnrollmentGroup || registrationID.MatchString(id)) {
				found = addNew(found, enrollment{kind, id})
			}
		}
	}
	groups, individuals := e.rule.Groups, e.rule.Individuals
	if e.rule.IsDefault() {
		groups, individuals = []string{"usher-verify-*"}, []string{"usher-verify-*"}
	}
	addExamples := func(examples func(glob string) []string) {
		for _, name := range groups {
			add(dps.EnrollmentGroup, examples(name))
		}
		for _, name := range individuals {
			add(dps.IndividualEnrollment, examples(name))
		}
	}
	addExamples(globExamples)
	// The rule's constants can be names of enrollments too.
	for _, place := range []string{"/enrollmentGroup/enrollmentGroupId", "/individualEnrollment/registrationId"} {
		for _, text := range e.texts(place) {
			add(dps.EnrollmentGroup, []string{text})
			add(dps.IndividualEnrollment, []string{text})
		}
	}
	if len(found) == 0 {
		addExamples(moreExamples)
	}
	found = sample(s, found, maxEnrollments, "names of enrollments")
	s.add("enrollments", setters(found, func(d *draft, one enrollment) { d.kind, d.enrollment = one.kind, one.id }), "")
}

func (e *explorer) addAttestations(s *space) {
	all := []attestation{{kind: "symmetricKey"}}
	if e.readsRecord("attestation") || e.reads("/deviceRuntimeContext/symmetricKey", "/deviceRuntimeContext/x509", "/deviceRuntimeContext/tpm") {
		all = append(all, attestation{}, attestation{kind: "tpm"}, attestation{kind: "x509"}, attestation{kind: "x509", reference: true})
	}
	if e.reads(certificatePlace) {
		all = append(all, attestation{kind: "x509", certificate: "bm90IGEgY2VydGlmaWNhdGU="})
		for _, subject := range e.subjects(s) {
			if certificate := certificateOf(subject, 2); certificate != "" {
				all = append(all, attestation{kind: "x509", certificate: certificate})
			}
		}
	}
	s.addThinned("attestations", setters(all, func(d *draft, one attestation) { d.attestation = one }), min(6, len(all)), notRead)
}

// subjects returns the subjects of certificates: each constant that the rule uses with the certificate, in the
// attributes that the rule reads.
func (e *explorer) subjects(s *space) []subject {
	names := slices.DeleteFunc(e.texts(certificatePlace), func(text string) bool { return text == "" || len(text) > 64 })
	names = sample(s, names, maxMined, "names for certificates")
	attributes := []string{"/subject/organization", "/subject/organizationalUnit", "/subject/commonName", "/dnsNames"}
	seen := func(attribute string) bool {
		return slices.ContainsFunc(e.analysis.Reads, func(read string) bool { return strings.HasPrefix(read, certificatePlace+attribute) })
	}
	named := slices.ContainsFunc(attributes, seen)
	reads := func(attribute string) bool {
		// If the analysis shows that the rule reads one attribute, it shows all that it reads.
		return !named || seen(attribute)
	}
	subjects := []subject{{commonName: "device-0001"}, {organizations: []string{"Usher Other"}, commonName: "device-0001"}}
	for n := range variants { // with other serial numbers and thumbprints
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
	all := []policy{{}, {true, false, false}} // never is always tried, because Usher itself acts on it
	if e.readsRecord("reprovisionPolicy") {
		all = append(all, policy{true, true, true}, policy{true, true, false}, policy{true, false, true})
	}
	s.add("reprovision policies", setters(all, func(d *draft, one policy) { d.policy = one }), "")
}

// addRecord adds the other members of the enrollment that the rule reads.
func (e *explorer) addRecord(s *space) {
	// A value of nil leaves the member out.
	add := func(name, place string, values ...any) {
		s.add(name, setters(values, func(d *draft, value any) {
			if value != nil {
				d.record[place] = value
			}
		}), "")
	}
	if e.readsRecord("initialTwin") {
		number := json.Number("1")
		add("enrollment twins", "/initialTwin",
			nil,
			map[string]any{"tags": map[string]any{"site": "a"}, "properties": map[string]any{"desired": map[string]any{"interval": json.Number("60")}}},
			// As tools leave it behind.
			map[string]any{"tags": map[string]any{"$version": number, "site": "a"}, "additional_properties": nil,
				"properties": map[string]any{"desired": map[string]any{"$version": number, "$metadata": map[string]any{}}}},
			map[string]any{},
		)
	}
	if e.readsRecord("capabilities") {
		add("edge capabilities", "/capabilities", nil, map[string]any{"iotEdge": true}, map[string]any{"iotEdge": false})
	}
	known := []string{"registrationId", "enrollmentGroupId", "attestation", "reprovisionPolicy", "initialTwin", "capabilities"}
	var places []string
	for _, read := range e.analysis.Reads {
		for _, kind := range []dps.EnrollmentKind{dps.EnrollmentGroup, dps.IndividualEnrollment} {
			place, ok := strings.CutPrefix(read, "/"+string(kind)+"/")
			place, _, _ = strings.Cut(place, "/"+dataflow.AnyMember)
			if member, _, _ := strings.Cut(place, "/"); ok && !slices.Contains(known, member) {
				places = addNew(places, "/"+place)
			}
		}
	}
	for _, place := range spread(places, 8) {
		values := []any{nil, "usher-other"}
		for _, literal := range slices.Concat(e.analysis.At("/enrollmentGroup"+place), e.analysis.At("/individualEnrollment"+place)) {
			if len(values) < maxRecordValues {
				values = addNew(values, literal.Value)
			}
		}
		add("values of the enrollment's "+place, place, values...)
	}
}

func (e *explorer) addService(s *space) {
	if !e.reads(servicePlace) {
		return
	}
	named := slices.DeleteFunc(e.texts(servicePlace), func(name string) bool { return !dps.ValidService(name) })
	names := addNew([]string{"", "usher-other"}, sample(s, named, maxRecordValues, "names of DPS instances")...)
	s.add("names of DPS instances", setters(names, func(d *draft, name string) { d.service = name }), "")
}

func (e *explorer) addPayload(s *space) {
	without := func(d *draft) { d.noPayload = true }
	if !e.reads(payloadPlace) {
		s.add("payloads", []func(*draft){without}, notRead)
		return
	}
	absent := func(*draft) {}
	s.add("payload or none", []func(*draft){absent, without}, "")
	keys := e.payloadKeys()
	if len(keys) > maxPayloadKeys {
		s.note("%d of %d members of the payload: %s", maxPayloadKeys, len(keys), strings.Join(keys[:maxPayloadKeys], " "))
		keys = keys[:maxPayloadKeys]
	}
	if len(keys) == 0 {
		// The rule reads the payload as a whole, perhaps to choose a share of all devices.
		values := []func(*draft){absent}
		for n := range variants {
			values = append(values, func(d *draft) { d.payload["/usherVerify"] = fmt.Sprint("any ", n) })
		}
		s.addThinned("payloads", values, 1, "")
	}
	for _, key := range keys {
		list, fixed := e.payloadValues(s, key)
		values := setters(list, func(d *draft, value any) { d.payload[key] = value })
		s.addThinned("values of payload"+key, slices.Insert(values, 0, absent), 1+fixed, "")
	}
}

// payloadKeys returns the members of the payload that the rule reads or the schema of the payload names, as JSON
// pointers relative to the payload.
func (e *explorer) payloadKeys() []string {
	var keys []string
	for _, read := range e.analysis.Reads {
		if key, ok := strings.CutPrefix(read, payloadPlace); ok {
			key, _, _ = strings.Cut(key, "/"+dataflow.AnyMember)
			keys = addNew(keys, key)
		}
	}
	for _, field := range e.options.PayloadSchema {
		keys = addNew(keys, field.Pointer)
	}
	return slices.DeleteFunc(keys, func(key string) bool {
		// If the rule reads a member below another, the other is an object.
		return key == "" || key == "/" || slices.ContainsFunc(keys, func(other string) bool { return strings.HasPrefix(other, key+"/") })
	})
}

// payloadValues returns the values of a member of the payload, and how many of them must stay.
func (e *explorer) payloadValues(s *space, key string) (values []any, fixed int) {
	literals := append(e.analysis.At(payloadPlace+key), e.analysis.Compared[payloadPlace]...)
	add := func(list ...any) {
		for _, value := range list {
			if !slices.ContainsFunc(values, func(other any) bool { return reflect.DeepEqual(other, value) }) {
				values = append(values, value)
			}
		}
	}
	// Values that no one expects.
	add("usher-other", "", json.Number("7"), nil, true, map[string]any{}, []any{})
	for _, field := range e.options.PayloadSchema {
		if field.Pointer == key {
			add(field.Values...)
		}
	}
	fixed = len(values)
	for _, text := range sample(s, texts(literals, separatorsOf(literals)), maxMined, "texts for payload"+key) {
		add(text, strings.ToUpper(text), strings.ToLower(text))
	}
	for _, literal := range literals {
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
	add := func(ids []string, fixed int, single string) {
		s.addThinned("registration IDs", setters(ids, func(d *draft, id string) { d.registration = id }), fixed, single)
	}
	if !e.reads(registrationPlace, currentIDPlace) {
		add([]string{"device-0001"}, 1, notRead)
		return
	}
	ids := []string{"device-0001", "a", "0001", "-", "a.b_c:d-E", strings.Repeat("x", 128)}
	fixed := len(ids)
	mined := slices.DeleteFunc(e.texts(registrationPlace), func(id string) bool { return !registrationID.MatchString(id) })
	ids = addNew(ids, sample(s, mined, maxMined, "registration IDs from the rule's constants")...)
	// Shares and weights send ordinary devices to different hubs.
	for n := range ordinaryDevices {
		ids = addNew(ids, fmt.Sprintf("device-%04d", n+2))
	}
	add(ids, fixed, "")
}

// thin removes values from a dimension that make no difference: it keeps only a few of those that get the same answers
// in the same requests.
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
	var kept []func(*draft)
	for n, value := range d.values {
		var answer strings.Builder
		for m, context := range contexts {
			context[i] = n
			request := s.draft(context)
			request.hubs = hubs[m]
			request.policy = policy{}
			answer.WriteString(e.decide(request.body()).String() + "\n")
		}
		if answers[answer.String()]++; n < d.fixed || answers[answer.String()] <= sameAnswer {
			kept = append(kept, value)
		}
	}
	switch before := len(d.values); {
	case len(kept) > max(maxValues, d.fixed):
		kept = append(slices.Clone(kept[:d.fixed]), spread(kept[d.fixed:], max(maxValues-d.fixed, 1))...)
		s.note("%s: %d of %d", d.name, len(kept), before)
	case len(kept) < before:
		s.note("%s: %d of %d; the others get the same answers", d.name, len(kept), before)
	}
	d.values = kept
}

// some returns about half of a list, but never an empty list.
func (e *explorer) some(list []string) []string {
	var chosen []string
	for _, one := range list {
		if e.random.IntN(2) == 0 {
			chosen = append(chosen, one)
		}
	}
	if len(chosen) == 0 {
		return list
	}
	return chosen
}

// candidates returns all host names that the rule's constants may stand for, and a hub that no rule knows.
func (e *explorer) candidates() []string {
	var hosts []string
	// Texts that mean something else to DPS.
	reserved := []string{"migrate", "reset", "never", "symmetrickey", "x509", "tpm", "none", "device-0001"}
	add := func(texts []string) {
		for _, text := range texts {
			host, ok := hostOf(text)
			if ok && !slices.Contains(reserved, strings.ToLower(text)) && !slices.ContainsFunc(hosts, func(other string) bool { return dps.SameHub(other, host) }) {
				hosts = append(hosts, host)
			}
		}
	}
	add(e.options.Hubs)
	for _, place := range []string{"/linkedHubs", currentHubPlace} {
		add(texts(e.analysis.At(place), nil))
	}
	for _, text := range e.analysis.Hubs {
		add(globExamples(text))
	}
	hosts = spread(hosts, 200)
	if len(hosts) == 0 {
		hosts = slices.Clone(anyHubs)
	}
	return append(hosts, otherHub)
}

// hubs returns the hubs that the rule deals with: those that it chooses in a number of requests, and those that the
// caller names.
func (e *explorer) hubs(s *space) []string {
	candidates := e.candidates()
	chosen := map[string]int{}
	for range probes {
		d := s.draft(s.random(e.random))
		d.hubs = e.some(candidates)
		d.policy = policy{}
		if e.random.IntN(2) == 0 {
			d.current = candidates[e.random.IntN(len(candidates))]
		}
		// If a device stays, that says nothing about the rule.
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
		if slices.ContainsFunc(e.analysis.Hubs, func(text string) bool { return dps.SameHub(text, host) }) {
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
	keep := maxHubs
	if chosen[otherHub] > 0 && len(hubs) >= allSubsetsUpTo {
		// The rule takes whatever is linked, so it also chose constants that are not names of hubs.
		keep = max(allSubsetsUpTo-1, len(e.options.Hubs))
	}
	if len(hubs) > keep {
		s.note("%d of %d possible hubs: name yours with --hubs", keep, len(hubs))
		hubs = hubs[:keep]
	}
	for _, hub := range anyHubs {
		// A rule that takes whatever is linked needs three hubs.
		if len(hubs) < 2 || chosen[otherHub] > 0 && len(hubs) < 3 {
			hubs = addNew(hubs, hub)
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
		s.note("sets of %d hubs: each hub alone, each hub left out, and 64 random sets", len(hubs))
		for i := range hubs {
			add(slices.Delete(slices.Clone(hubs), i, i+1))
			add(hubs[i : i+1])
		}
		for range 64 {
			add(e.some(hubs))
		}
	}
	s.add("sets of linked hubs", setters(sets, func(d *draft, set []string) { d.hubs = set }), "")
}

func (e *explorer) addCurrent(s *space, named []string) {
	current := []string{"", unlinkedHub}
	if e.reads(currentHubPlace, currentIDPlace) {
		current = append(append(current, otherHub), named...)
	} else {
		current = append(current, named[0])
	}
	s.add("current hubs", setters(current, func(d *draft, hub string) { d.current = hub }), "")
}
