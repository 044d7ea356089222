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
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

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
	values []any
	set    func(*draft, any)
	get    func(*draft) any
	single string // why there is only one value; "" if there are more
	// The first fixed values are never thinned out. The next are words: constants of the rule, as many as there is room
	// for. The others stay only if they get other answers.
	fixed, words int
	// part is set for a member of the payload, which makes no difference if there is no payload.
	part bool
}

// dimensionOf returns a dimension of values of one type. All values are fixed.
func dimensionOf[T any](name string, values []T, set func(*draft, T), get func(*draft) T) dimension {
	d := dimension{name: name, fixed: len(values),
		set: func(d *draft, value any) {
			v, _ := value.(T) // T may be any, and the value nil
			set(d, v)
		},
		get: func(d *draft) any { return get(d) },
	}
	for _, value := range values {
		d.values = append(d.values, value)
	}
	return d
}

// unread says why a dimension has only one value, if it has.
func (d dimension) unread() dimension {
	if len(d.values) == 1 {
		d.single = notRead
	}
	return d
}

func (s *space) add(d dimension) { s.dimensions = append(s.dimensions, d) }

// payloadOrNone is the name of the dimension whose second value is a request without payload.
const payloadOrNone = "payload or none"

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
		dimension.set(d, dimension.values[choice[i]])
	}
	return d
}

// learn adds the values that a draft has to the dimensions, as values that stay.
func (s *space) learn(d *draft) {
	for i := range s.dimensions {
		dimension := &s.dimensions[i]
		value := dimension.get(d)
		if len(dimension.values) == 1 && dimension.single != "" || dimension.fixed >= maxValues || contains(dimension.values[:dimension.fixed], value) {
			continue
		}
		fixed, rest := dimension.values[:dimension.fixed], dimension.values[dimension.fixed:]
		if i := slices.IndexFunc(rest, func(other any) bool { return reflect.DeepEqual(other, value) }); i >= 0 {
			rest = slices.Delete(slices.Clone(rest), i, i+1)
			if i < dimension.words {
				dimension.words--
			}
		}
		dimension.values = slices.Concat(fixed, []any{value}, rest)
		dimension.fixed++
	}
}

func contains(list []any, value any) bool {
	return slices.ContainsFunc(list, func(other any) bool { return reflect.DeepEqual(other, value) })
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

// random returns a random choice. A request without payload is rare among them, because it has no members to vary.
func (s *space) random(random *rand.Rand) []int {
	const rare = 16
	choice := make([]int, len(s.dimensions))
	for i, d := range s.dimensions {
		if choice[i] = random.IntN(len(d.values)); d.name == payloadOrNone && random.IntN(rare) > 0 {
			choice[i] = 0
		}
	}
	return choice
}

// explorer builds the space of a rule.
type explorer struct {
	options  Options
	set      *ruleset.Ruleset
	rule     *ruleset.Rule
	analysis *dataflow.Analysis // of the rule and its invariants
	branches *branches
	random   *rand.Rand
	decide   func(*draft) brief
	// follow evaluates a request for the search by paths.
	follow func(*draft) evaluated
	// isHome reports whether an expression is outside the library.
	isHome func(*ast.Expr) bool
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
	s := &space{rule: e.rule}
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
	s.add(dimensionOf("enrollments", found,
		func(d *draft, one enrollment) { d.kind, d.enrollment = one.kind, one.id },
		func(d *draft) enrollment { return enrollment{d.kind, d.enrollment} }))
}

func (e *explorer) addAttestations(s *space) {
	all := []attestation{{kind: "symmetricKey"}}
	if e.readsRecord("attestation") || e.reads("/deviceRuntimeContext/symmetricKey", "/deviceRuntimeContext/x509", "/deviceRuntimeContext/tpm") {
		all = append(all, attestation{}, attestation{kind: "tpm"}, attestation{kind: "x509"}, attestation{kind: "x509", enrolled: byReference})
	}
	if e.readsRecord("attestation/x509") {
		all = append(all, attestation{kind: "x509", enrolled: bySecondary}, attestation{kind: "x509", enrolled: byBoth})
	}
	fixed := len(all)
	if e.reads(certificatePlace) {
		all = append(all, attestation{kind: "x509", certificate: "bm90IGEgY2VydGlmaWNhdGU="})
		subjects := e.subjects(s)
		for _, subject := range subjects {
			if one := certified(subject); one.certificate != "" {
				all = append(all, one)
			}
		}
		fixed = min(fixed+1+plainSubjects, len(all))
	}
	d := dimensionOf("attestations", all, func(d *draft, one attestation) { d.attestation = one }, func(d *draft) attestation { return d.attestation })
	d.fixed, d.words = fixed, len(d.values)-fixed
	s.add(d.unread())
}

// plainSubjects is how many subjects come first that do not depend on the rule's constants: one for each attribute, so
// that there are always certificates that can be read.
const plainSubjects = 5

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
	const name = "device-0001"
	subjects := []subject{
		{commonName: name},
		{commonName: name, organizations: []string{"Usher Other"}},
		{commonName: name, units: []string{"Usher Unit"}},
		{commonName: name, dnsNames: []string{"usher-other.example"}},
		{commonName: name, organizations: []string{"Usher Other"}, units: []string{"Usher Unit"}, expired: true},
	}
	for n := range variants { // with other serial numbers and thumbprints
		subjects = append(subjects, subject{commonName: fmt.Sprintf("device-%04d", n+2)})
	}
	for i, name := range names {
		if reads(attributes[0]) {
			subjects = append(subjects, subject{organizations: []string{name}, commonName: "device-0001"},
				subject{organizations: []string{name}, commonName: "device-0001", expired: true})
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
	s.add(dimensionOf("reprovision policies", all, func(d *draft, one policy) { d.policy = one }, func(d *draft) policy { return d.policy }))
}

// addRecord adds the other members of the enrollment that the rule reads.
func (e *explorer) addRecord(s *space) {
	add := func(name string, place jsontext.Pointer, values ...any) {
		set := func(d *draft, value any) {
			if value != any(removed{}) {
				put(d.record, place, clone(value))
			}
		}
		s.add(dimensionOf(name, values, set, func(d *draft) any { return memberOf(d.record, place) }))
	}
	if e.readsRecord("initialTwin") {
		number := json.Number("1")
		add("enrollment twins", "/initialTwin",
			removed{},
			map[string]any{"tags": map[string]any{"site": "a"}, "properties": map[string]any{"desired": map[string]any{"interval": json.Number("60")}}},
			// As tools leave it behind.
			map[string]any{"tags": map[string]any{"$version": number, "site": "a"}, "additional_properties": nil,
				"properties": map[string]any{"desired": map[string]any{"$version": number, "$metadata": map[string]any{}}}},
			map[string]any{},
		)
	}
	if e.readsRecord("capabilities") {
		add("edge capabilities", "/capabilities", removed{}, map[string]any{"iotEdge": true}, map[string]any{"iotEdge": false})
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
		values := []any{removed{}, "usher-other"}
		if isDate(string(jsontext.Pointer(place).LastToken())) {
			values[1] = "2024-02-29T12:34:56.7890123Z"
		}
		for _, literal := range slices.Concat(e.analysis.At("/enrollmentGroup"+place), e.analysis.At("/individualEnrollment"+place)) {
			if last := string(jsontext.Pointer(place).LastToken()); len(values) < maxRecordValues && (!isDate(last) || isForm([]string{last}, values[1], literal.Value)) {
				values = addNew(values, literal.Value)
			}
		}
		add("values of the enrollment's "+place, jsontext.Pointer(place), values...)
	}
}

// memberOf returns the value at a JSON pointer, and removed{} if there is none.
func memberOf(object map[string]any, place jsontext.Pointer) any {
	if value, ok := get(object, place); ok {
		return value
	}
	return removed{}
}

func (e *explorer) addService(s *space) {
	if !e.reads(servicePlace) {
		return
	}
	named := slices.DeleteFunc(e.texts(servicePlace), func(name string) bool { return !dps.ValidService(name) })
	names := addNew([]string{"", "usher-other"}, sample(s, named, maxRecordValues, "names of DPS instances")...)
	s.add(dimensionOf("names of DPS instances", names, func(d *draft, name string) { d.service = name }, func(d *draft) string { return d.service }))
}

func (e *explorer) addPayload(s *space) {
	set := func(d *draft, has bool) {
		if !has {
			d.payload = nil
		}
	}
	has := func(d *draft) bool { return d.payload != nil }
	if !e.reads(payloadPlace) {
		s.add(dimensionOf("payloads", []bool{false}, set, has).unread())
		return
	}
	s.add(dimensionOf(payloadOrNone, []bool{true, false}, set, has))
	keys := e.payloadKeys()
	if len(keys) > maxPayloadKeys {
		s.note("%d of %d members of the payload: %s", maxPayloadKeys, len(keys), strings.Join(keys[:maxPayloadKeys], " "))
		keys = keys[:maxPayloadKeys]
	}
	add := func(name string, key string, values []any, fixed int) {
		place := jsontext.Pointer(key)
		set := func(d *draft, value any) {
			if d.payload != nil && value != any(removed{}) {
				put(d.payload, place, clone(value))
			}
		}
		s.add(dimension{name: name, values: slices.Insert(values, 0, any(removed{})), fixed: 1 + fixed, words: len(values) - fixed, part: true,
			set: set, get: func(d *draft) any { return memberOf(d.payload, place) }})
	}
	if len(keys) == 0 {
		// The rule reads the payload as a whole, perhaps to choose a share of all devices.
		var values []any
		for n := range variants {
			values = append(values, fmt.Sprint("any ", n))
		}
		fixed := 0
		if e.inTwin("") {
			values = slices.Concat(hostile(), values)
			fixed = len(values)
			add("payloads with an unusual name", "/$usher", []any{true}, 1)
		}
		add("payloads", "/usherVerify", values, fixed)
	}
	for _, key := range keys {
		list, fixed := e.payloadValues(s, key)
		add("values of payload"+key, key, list, fixed)
	}
}

// inTwin reports whether a member of the payload can get into the initial twin.
func (e *explorer) inTwin(key string) bool {
	found := false
	var walk func(dataflow.Alternatives)
	walk = func(in dataflow.Alternatives) {
		for _, v := range in {
			places := []string{}
			if v.Request != nil {
				places = append(places, "/"+strings.Join(v.Request, "/"))
			}
			for _, source := range v.Sources {
				places = append(places, source.Pointer)
			}
			found = found || slices.ContainsFunc(places, func(place string) bool {
				return place == payloadPlace || place == payloadPlace+key || key != "" && strings.HasPrefix(place, payloadPlace+key+"/")
			})
			for _, member := range v.Members {
				walk(member)
			}
			walk(v.Rest)
		}
	}
	walk(e.analysis.Entries["initial_twin"])
	return found
}

// hostile are values that IoT Hub refuses in a twin, and an array, which it accepts.
func hostile() []any {
	deep := map[string]any{"usher": "deep"}
	for range 11 {
		deep = map[string]any{"usher": deep}
	}
	return []any{
		strings.Repeat("x", 4097), json.Number("9007199254740992"), deep,
		map[string]any{"$usher": true}, map[string]any{"usher.other": true}, map[string]any{"usher other": true}, []any{"usher"},
	}
}

// payloadKeys returns the members of the payload that the rule reads or the schema of the payload names, as JSON
// pointers relative to the payload. A member whose elements the rule reads is one key.
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
	add := func(list ...any) {
		for _, value := range list {
			if !contains(values, value) {
				values = append(values, value)
			}
		}
	}
	// Values that no one expects. The text and the number are those of this member only, so that the search by paths
	// recognizes what a rule makes of them.
	number := json.Number(fmt.Sprint(1000 + len(s.dimensions)))
	add("usher-other"+strings.ReplaceAll(key, "/", "-"), "", number, nil, true, map[string]any{}, []any{})
	if e.inTwin(key) {
		add(hostile()...)
	}
	for _, field := range e.options.PayloadSchema {
		if field.Pointer == key {
			add(field.Values...)
		}
	}
	elements := e.elements(key)
	add(elements...)
	fixed = len(values)
	literals := append(e.analysis.At(payloadPlace+key), e.analysis.Compared[payloadPlace]...)
	words := texts(literals, separatorsOf(literals))
	if len(elements) > 0 {
		for _, text := range words[:min(len(words), maxRecordValues)] {
			add([]any{text}, []any{"usher-other", text})
		}
	}
	for _, text := range sample(s, words, maxMined, "texts for payload"+key) {
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

// elements returns arrays for a member of the payload whose elements the rule reads: with an element that has what it
// reads of them, with one that has other values, with both, and with one that lacks it.
func (e *explorer) elements(key string) []any {
	one, other := map[string]any{}, map[string]any{}
	read := false
	for _, place := range e.analysis.Reads {
		below, ok := strings.CutPrefix(place, payloadPlace+key+"/"+dataflow.AnyMember)
		if !ok {
			continue
		}
		read = true
		if below, _, _ = strings.Cut(below, "/"+dataflow.AnyMember); below != "" {
			var value any = "usher-element"
			if literals := e.analysis.At(place); len(literals) > 0 {
				value = literals[0].Value
			}
			put(one, jsontext.Pointer(below), value)
			put(other, jsontext.Pointer(below), others(value)[0])
		}
	}
	switch {
	case !read:
		return nil
	case len(one) > 0:
		return []any{[]any{one}, []any{one, other}, []any{other}, []any{one, map[string]any{}}, []any{"usher-element"}}
	default:
		return []any{[]any{"usher-element"}, []any{json.Number("7"), true}}
	}
}

func (e *explorer) addDevices(s *space) {
	ids := []string{"device-0001"}
	fixed, words := 1, 0
	if e.reads(registrationPlace, currentIDPlace) {
		ids = append(ids, "a", "0001", "a.b_c:d-E", strings.Repeat("x", 128))
		fixed = len(ids)
		mined := slices.DeleteFunc(e.texts(registrationPlace), func(id string) bool { return !registrationID.MatchString(id) })
		ids = addNew(ids, sample(s, mined, maxMined, "registration IDs from the rule's constants")...)
		words = len(ids) - fixed
		// Shares and weights send ordinary devices to different hubs.
		for n := range ordinaryDevices {
			ids = addNew(ids, fmt.Sprintf("device-%04d", n+2))
		}
	}
	d := dimensionOf("registration IDs", ids, func(d *draft, id string) { d.registration = id }, func(d *draft) string { return d.registration })
	d.fixed, d.words = fixed, words
	s.add(d.unread())
}

// addTimes adds times of the decision, if the rule can read it: some of each day of the week.
func (e *explorer) addTimes(s *space) {
	if !slices.ContainsFunc(e.rule.RestrictedCalls(), func(call *ast.Expr) bool { return call.Operator().String() == nowBuiltin }) {
		return
	}
	var times []int64
	start := time.Date(2026, 1, 1, 3, 30, 0, 0, time.UTC)
	for n := range 14 {
		times = append(times, start.Add(time.Duration(n)*33*time.Hour).UnixNano())
	}
	s.add(dimensionOf("times of the decision", times, func(d *draft, now int64) { d.now = now }, func(d *draft) int64 { return d.now }))
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
			answer.WriteString(e.decide(request).String() + "\n")
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

// hubs returns the hubs that the rule deals with: those that it names or chooses, and those that the caller names.
func (e *explorer) hubs(s *space, paths *paths) []string {
	candidates := e.candidates()
	for _, hub := range paths.hubs {
		if !containsHub(candidates, hub) {
			candidates = append(candidates, hub)
		}
	}
	chosen := map[string]int{}
	for range probes {
		d := s.draft(s.random(e.random))
		d.hubs = e.some(candidates)
		d.policy = policy{}
		if e.random.IntN(2) == 0 {
			d.current = candidates[e.random.IntN(len(candidates))]
		}
		// If a device stays, that says nothing about the rule.
		if a := e.decide(d); a.assigned() && a.words != d.current {
			chosen[a.words]++
		}
	}
	compared := append(texts(e.analysis.At("/linkedHubs"), nil), texts(e.analysis.At(currentHubPlace), nil)...)
	score := func(host string) int {
		isHost := func(text string) bool { named, _ := hostOf(text); return dps.SameHub(named, host) }
		score := 0
		if slices.ContainsFunc(e.options.Hubs, isHost) {
			score += 8
		}
		if host != otherHub && chosen[host] > 0 || containsHub(paths.hubs, host) {
			score += 4
		}
		if slices.ContainsFunc(e.analysis.Hubs, func(text string) bool { return dps.SameHub(text, host) }) {
			score += 3
		}
		if slices.ContainsFunc(compared, isHost) {
			score += 2
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

func containsHub(list []string, hub string) bool {
	return slices.ContainsFunc(list, func(other string) bool { return dps.SameHub(other, hub) })
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
	s.add(dimensionOf("sets of linked hubs", sets, func(d *draft, set []string) { d.hubs = slices.Clone(set) }, func(d *draft) []string { return d.hubs }))
}

func (e *explorer) addCurrent(s *space, named []string) {
	current := []string{"", unlinkedHub}
	if e.reads(currentHubPlace, currentIDPlace) {
		current = append(append(current, otherHub), named...)
	} else {
		current = append(current, named[0])
	}
	s.add(dimensionOf("current hubs", current, func(d *draft, hub string) { d.current = hub }, func(d *draft) string { return d.current }))
}
