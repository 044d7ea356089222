package verify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Promise is a statement that must hold for every request.
type Promise struct {
	ID string
	// Statement is the promise in one sentence.
	Statement string
}

// Invariant is the ID of the promise that the author's invariants hold.
const Invariant = "invariant"

// IDs of the other promises.
const (
	assignsPromise = "assigns"
	outcomePromise = "outcome"
	onePromise     = "one-answer"
	hubPromise     = "linked-hub"
	twinPromise    = "twin"
	payloadPromise = "payload"
	errorPromise   = "no-error"
	settlesPromise = "settles"
	neverPromise   = "never"
	casePromise    = "case"
	orderPromise   = "order"
	unlinkPromise  = "unlink"
	stickyPromise  = "sticky"
	repeatPromise  = "repeat"
	faultsPromise  = "faults"
)

// Promises returns all promises.
func Promises() []Promise {
	return []Promise{
		{assignsPromise, "At least one device is assigned to a hub for the first time."},
		{outcomePromise, "Every request of an enrollment that the rule serves is assigned, rejected or held."},
		{onePromise, "Definitions never give the same request two different answers."},
		{hubPromise, "The hub is one of linkedHubs, whichever hubs are linked."},
		{twinPromise, "IoT Hub accepts the initial twin."},
		{payloadPromise, "The payload is an object."},
		{errorPromise, "No part of an answer is missing because a built-in function failed, and the rule stays within its time limit."},
		{settlesPromise, "A device that registers again stays on the hub that it was assigned to."},
		{neverPromise, "A device that may not be reprovisioned stays, is held, or is rejected."},
		{casePromise, "The letter case of registration IDs, enrollment names and hub names makes no difference."},
		{orderPromise, "The order of linkedHubs makes no difference."},
		{unlinkPromise, "Unlinking a hub moves only the devices that were on it."},
		{stickyPromise, "A device does not move because of what changes between registrations, such as an etag, a renewed certificate or an unknown member of the payload."},
		{repeatPromise, "The same request gets the same answer again."},
		{faultsPromise, "While the source of a look-up fails, no device is assigned that its row would keep out, and none by that row."},
		{Invariant, "Your own invariants, in *_invariants.rego, hold."},
	}
}

// broken is a promise that a request breaks.
type broken struct {
	promise string
	message string
	place   string // file:line; "" for the rule as a whole
	// kind distinguishes findings about the same promise.
	kind string
	body []byte // the request
	then []byte // the second request, if the promise is about two
	// known is what the rule looked up.
	known []answer.Lookup
	// world is what it looked up in, and asked what it found there.
	world *world
	asked []answer.Lookup
}

func (b *broken) key() string { return b.promise + "\x00" + b.kind }

// checker checks whether the answers of a rule keep the promises.
type checker struct {
	decider    *decider.Decider
	set        *ruleset.Ruleset
	rule       *ruleset.Rule
	analysis   *dataflow.Analysis
	invariants *invariants.Invariants
	wanted     map[string]bool
	memo       *memo
	// nondeterministic is set if the rule may give the same request two different answers.
	nondeterministic bool
	// thorough is set to try all variants of a follow-up request rather than one of each.
	thorough bool
	// known is what a rule that may read more than the request gets.
	known []answer.Lookup
	// world is what a rule that looks up gets; nil for other rules.
	world *world
}

// at returns a checker for the time and the rows of a draft.
func (c *checker) at(d *draft) *checker {
	if d.now == 0 && d.rows == nil {
		return c
	}
	copied := *c
	copied.known, copied.world = d.lookups(), d.world()
	return &copied
}

// decided is a request and its answer.
type decided struct {
	body    []byte
	key     [16]byte // of the memo
	request *dps.AllocationRequest
	answer.Answer
}

// invalid reports whether the body is not an AllocationRequest.
func (d *decided) invalid() bool {
	return d.Result == answer.InvalidRequest || d.Result == answer.Malformed
}

// brief is the part of an answer that is compared with that of a follow-up request.
type brief struct {
	result answer.Result
	words  string // the hub if assigned, otherwise the first reason or the detail
}

func briefOf(a *answer.Answer) brief {
	b := brief{result: a.Result, words: a.Response.IotHubHostName + a.Detail}
	if len(a.Reasons) > 0 {
		b.words = a.Reasons[0]
	}
	return b
}

func (b brief) assigned() bool { return b.result == answer.Assigned }

func (b brief) equals(other brief) bool {
	return b.result == other.result && (!b.assigned() || dps.SameHub(b.words, other.words))
}

func (b brief) String() string {
	switch {
	case b.assigned():
		return "goes to " + b.words
	case b.words != "":
		return fmt.Sprintf("is %s (%s)", b.result, b.words)
	default:
		return "is " + string(b.result)
	}
}

// memo remembers brief answers, because the follow-up of one request is often another request of the search.
type memo struct {
	mu      sync.Mutex
	answers map[[16]byte]brief
	failing atomic.Int64 // requests that were decided again while a source failed
}

const maxMemo = 1 << 19 // about 60 MB

func (m *memo) find(key [16]byte) (brief, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, ok := m.answers[key]
	return known, ok
}

// keep remembers the first answer to a request.
func (m *memo) keep(key [16]byte, b brief) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.answers[key]; !known && len(m.answers) < maxMemo {
		m.answers[key] = b
	}
}

func memoKey(body []byte, more ...[]byte) [16]byte {
	hash := sha256.New()
	hash.Write(body)
	for _, one := range more {
		hash.Write(one)
	}
	var sum [sha256.Size]byte
	return [16]byte(hash.Sum(sum[:0]))
}

func (c *checker) decide(ctx context.Context, body []byte) decided {
	return c.decideAs(ctx, body, c.memoKey(body))
}

func (c *checker) decideAs(ctx context.Context, body []byte, key [16]byte) decided {
	ctx = c.world.in(ctx)
	d := decided{body: body, key: key}
	if len(c.known) == 0 {
		d.request, d.Answer = c.decider.AllocateJSON(ctx, body)
	} else if request, err := dps.ParseAllocationRequest(body); err == nil {
		d.request, d.Answer = request, c.decider.Repeat(ctx, request, c.known)
	} else {
		d.Result = answer.Malformed
	}
	if !c.nondeterministic && ctx.Err() == nil {
		c.memo.keep(key, briefOf(&d.Answer))
	}
	return d
}

// memoKey tells requests apart, and what their rule looks up in.
func (c *checker) memoKey(body []byte) [16]byte {
	return memoKey(body, c.world.salt())
}

func (c *checker) decideBriefly(ctx context.Context, request *dps.Value) (brief, []byte) {
	body := request.AppendJSON(make([]byte, 0, usualSize))
	key := c.memoKey(body)
	if known, ok := c.memo.find(key); ok {
		return known, body
	}
	d := c.decideAs(ctx, body, key)
	return briefOf(&d.Answer), body
}

// check decides a request and its follow-up requests. A request that does not match the schema breaks no promise.
func (c *checker) check(ctx context.Context, body []byte) (decided, []broken) {
	ctx = c.world.in(ctx)
	a := c.decide(ctx, body)
	var found []broken
	if a.Result.IsOutcome() {
		found = c.checkOutcome(ctx, &a)
	} else {
		found = c.checkFault(&a.Answer)
	}
	for i := range found {
		found[i].body = body
	}
	if len(found) == 0 && a.Detail == "" && ctx.Err() == nil {
		for _, follow := range []func(context.Context, *decided) []broken{
			c.checkRepeat, c.checkSettles, c.checkCase, c.checkOrder, c.checkUnlink, c.checkSticky, c.checkFaults,
		} {
			found = append(found, follow(ctx, &a)...)
		}
	}
	if ctx.Err() != nil {
		return a, nil // what looks like a timeout may be the end of the search
	}
	for i := range found {
		found[i].known, found[i].world, found[i].asked = c.known, c.world, a.Lookups
	}
	return a, slices.DeleteFunc(found, func(b broken) bool { return !c.wanted[b.promise] })
}

// checkOutcome checks the promises that are about one outcome.
func (c *checker) checkOutcome(ctx context.Context, a *decided) []broken {
	var found []broken
	undecided := slices.Contains(a.Overrides, answer.OnUndecided)
	if undecided {
		// The METADATA says what to do if the rule is silent, but not if it fails.
		if _, err := c.rule.Evaluate(ctx, a.request.Body(), ruleset.Outside{Known: c.known, Sources: sources{}}); err != nil && ctx.Err() == nil {
			found = append(found, brokenBy(err))
		}
	}
	if response := &a.Response; a.Result == answer.Assigned {
		if current := a.request.Device.CurrentIotHubHostName; current != "" &&
			a.request.Enrollment.Reprovision == dps.ReprovisionNever && !dps.SameHub(current, response.IotHubHostName) {
			found = append(found, broken{promise: neverPromise, message: "moves from " + current + " to " + response.IotHubHostName + " although the policy forbids it"})
		}
		for entry, missing := range map[string]bool{"initial_twin": response.InitialTwin == nil, "payload": response.Payload == nil} {
			if !missing || c.analysis.Entries[entry] == nil || undecided {
				continue
			}
			verdict, err := c.rule.Evaluate(ctx, a.request.Body(), ruleset.Outside{Known: c.known, Sources: sources{}})
			if err == nil && len(verdict.BuiltinErrors) > 0 {
				found = append(found, broken{promise: errorPromise, place: verdict.BuiltinErrors[0], kind: entry, message: fmt.Sprintf(
					"%s is left out: a built-in function failed at %s", entry, strings.Join(verdict.BuiltinErrors, ", "))})
			}
		}
	}
	if c.judges() {
		messages, err := c.invariants.Broken(ctx, c.rule.Package, a.input(), c.known...)
		if err != nil && ctx.Err() == nil {
			b := brokenBy(err)
			b.promise, b.message = Invariant, "the invariants fail: "+err.Error()
			found = append(found, b)
		}
		for _, message := range messages {
			found = append(found, broken{promise: Invariant, message: message, kind: message})
		}
	}
	return found
}

// checkFault returns the promise that a fault breaks, if it breaks one.
func (c *checker) checkFault(a *answer.Answer) []broken {
	switch a.Result {
	case answer.Malformed, answer.InvalidRequest, answer.Canceled, answer.NotReady, answer.LookupFailed:
		return nil // there was no request, or no time, or no row
	case answer.BadVerdict:
		promise := map[string]string{"initial_twin": twinPromise, "payload": payloadPromise}[a.Entry]
		return []broken{{promise: cmp.Or(promise, hubPromise), message: a.Detail}}
	case answer.Undecided:
		if a.Cause == nil {
			return []broken{{promise: outcomePromise, message: a.Detail + ", and rejects or holds nothing"}}
		}
		b := brokenBy(a.Cause)
		if b.place == "" { // a built-in function failed, not the rule as a whole
			b.message = a.Detail + ": " + b.message
			if len(a.BuiltinErrors) > 0 {
				b.place = a.BuiltinErrors[0]
			}
		}
		if !c.wanted[b.promise] {
			b.promise = outcomePromise
		}
		return []broken{b}
	default: // a timeout, or a bug in Usher
		return []broken{{promise: errorPromise, message: a.Detail}}
	}
}

// brokenBy returns the promise that an error of a rule breaks.
func brokenBy(err error) broken {
	b := broken{promise: errorPromise, message: err.Error(), kind: err.Error()}
	if e, ok := errors.AsType[*ruleset.EvalError](err); ok {
		b.place = e.Place
		if e.Conflict {
			b.promise = onePromise
		}
	}
	return b
}

// checkRepeat decides the same request again.
func (c *checker) checkRepeat(ctx context.Context, a *decided) []broken {
	if !c.wanted[repeatPromise] {
		return nil
	}
	// Only built-in functions that are off by default can give another result for the same request. Without them, one
	// request in 16 is repeated, to check that claim.
	if a.key[0]&15 != 0 && !c.nondeterministic {
		return nil
	}
	again := c.decide(ctx, a.body)
	if again.Result == a.Result &&
		bytes.Equal(again.Response.AppendJSON(nil), a.Response.AppendJSON(nil)) {
		return nil
	}
	return []broken{{promise: repeatPromise, body: a.body, then: a.body,
		message: fmt.Sprintf("for the same request, the device first %s and then %s, or its twin or payload differ", briefOf(&a.Answer), briefOf(&again.Answer))}}
}

// checkSettles lets an assigned device register again from the hub that it was assigned to.
func (c *checker) checkSettles(ctx context.Context, a *decided) []broken {
	hub := a.Response.IotHubHostName
	if !c.wanted[settlesPromise] || hub == "" || dps.SameHub(hub, a.request.Device.CurrentIotHubHostName) ||
		!c.analysis.ReadsAt(currentHubPlace) && !c.analysis.ReadsAt(currentIDPlace) {
		return nil
	}
	path := []string{hub}
	var then []byte
	for range 3 {
		hub := path[len(path)-1]
		again := a.request.RegisteredOn(hub, a.request.Device.RegistrationID).Body()
		if a.request.Enrollment.Reprovision == dps.ReprovisionNever {
			again = again.With(linkedHubs, textArray(hub)) // DPS then names no other
		}
		next, body := c.decideBriefly(ctx, again)
		if then == nil {
			then = body
		}
		if !next.assigned() || dps.SameHub(next.words, path[len(path)-1]) {
			break
		}
		back := slices.Contains(path, next.words)
		if path = append(path, next.words); back {
			break
		}
	}
	if len(path) == 1 {
		return nil
	}
	message := fmt.Sprintf("goes to %s, and when it registers again from there to %s", path[0], path[1])
	for i, hub := range path[2:] {
		if message += ", then "; slices.Contains(path[:i+2], hub) {
			message += "back "
		}
		message += "to " + hub
	}
	return []broken{{promise: settlesPromise, message: message, body: a.body, then: then}}
}

// change is a change to a request that must not change the answer.
type change struct {
	how, kind string
	apply     func(request *dps.Value) *dps.Value // returns a changed copy; nil if there is nothing to change
}

// compare tries changes to a request until one changes the answer. If moves is set, only a move to another hub counts.
func (c *checker) compare(ctx context.Context, promise string, a *decided, moves bool, changes ...change) []broken {
	now := briefOf(&a.Answer)
	for _, one := range changes {
		changed := one.apply(a.request.Body())
		if changed == nil {
			continue
		}
		next, then := c.decideBriefly(ctx, changed)
		if next.result == answer.Timeout {
			continue // that is found as a fault of its own, if it is not by chance
		}
		if ctx.Err() == nil && !now.equals(next) && (!moves || now.assigned() && next.assigned()) {
			return []broken{{promise: promise, kind: one.kind, body: a.body, then: then, message: fmt.Sprintf("%s; %s it %s", now, one.how, next)}}
		}
	}
	return nil
}

// checkCase changes the letter case of names, all at once and then, if that changes the answer, one after the other.
func (c *checker) checkCase(ctx context.Context, a *decided) []broken {
	if !c.wanted[casePromise] {
		return nil
	}
	id := "registrationId"
	if a.request.Enrollment.Kind == dps.EnrollmentGroup {
		id = "enrollmentGroupId"
	}
	changes := []change{
		{"with the registration ID in another case", "", otherCase(device, "registrationId")},
		{"with the enrollment's name in another case", "", otherCase(string(a.request.Enrollment.Kind), id)},
		{"with linkedHubs in another case", "", otherHubs(func(hubs []string) []string {
			for i, hub := range hubs {
				hubs[i] = swapCase(hub)
			}
			return hubs
		})},
		{"with the current hub in another case", "", otherCase(device, "currentIotHubHostName")},
	}
	all := change{"with all names in another case", "", func(request *dps.Value) *dps.Value {
		for i := range changes {
			request = cmp.Or(changes[i].apply(request), request)
		}
		return request
	}}
	together := c.compare(ctx, casePromise, a, false, all)
	// If the hosts are all in the same other case, that can hide a difference.
	currentHub := c.compare(ctx, casePromise, a, false, changes[3])
	if len(together)+len(currentHub) == 0 {
		return nil
	}
	for i := range changes {
		changes[i].kind = changes[i].how
	}
	if found := c.compare(ctx, casePromise, a, false, changes...); len(found) > 0 {
		return found
	}
	return together
}

// The members of a request that are changed.
const (
	device     = "deviceRuntimeContext"
	linkedHubs = "linkedHubs"
)

// otherCase changes the letter case of a member of an object of the request.
func otherCase(object, name string) func(request *dps.Value) *dps.Value {
	return func(request *dps.Value) *dps.Value {
		members := request.Get(object)
		text := members.Get(name).Text()
		if swapCase(text) == text {
			return nil
		}
		return request.With(object, *members.With(name, dps.StringValue(swapCase(text))))
	}
}

// otherHubs changes the linked hubs.
func otherHubs(to func([]string) []string) func(request *dps.Value) *dps.Value {
	return func(request *dps.Value) *dps.Value {
		now := request.Get(linkedHubs)
		hubs := make([]string, now.Len())
		for i := range hubs {
			hubs[i] = now.At(i).Text()
		}
		return request.With(linkedHubs, textArray(to(hubs)...))
	}
}

func textArray(texts ...string) dps.Value {
	elements := make([]dps.Value, len(texts))
	for i, text := range texts {
		elements[i] = dps.StringValue(text)
	}
	return dps.ArrayValue(elements)
}

func swapCase(text string) string {
	if upper := strings.ToUpper(text); upper != text {
		return upper
	}
	return strings.ToLower(text)
}

// checkOrder reverses linkedHubs.
func (c *checker) checkOrder(ctx context.Context, a *decided) []broken {
	if !c.wanted[orderPromise] || len(a.request.LinkedHubs) < 2 {
		return nil
	}
	return c.compare(ctx, orderPromise, a, false, change{"with linkedHubs in reverse order", "", otherHubs(func(hubs []string) []string {
		slices.Reverse(hubs)
		return hubs
	})})
}

// checkUnlink removes linked hubs that the device is not on.
func (c *checker) checkUnlink(ctx context.Context, a *decided) []broken {
	hub := a.Response.IotHubHostName
	if !c.wanted[unlinkPromise] || hub == "" || len(a.request.LinkedHubs) < 2 {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(a.request.LinkedHubs), func(other string) bool { return dps.SameHub(other, hub) })
	if !c.thorough && len(others) > 1 {
		others = others[int(a.key[1])%len(others):][:1]
	}
	var changes []change
	for _, other := range others {
		changes = append(changes, change{"with " + other + " no longer linked", "", otherHubs(func(hubs []string) []string {
			return slices.DeleteFunc(hubs, func(hub string) bool { return hub == other })
		})})
	}
	return c.compare(ctx, unlinkPromise, a, true, changes...)
}

// checkSticky changes what can change between two registrations of a device.
func (c *checker) checkSticky(ctx context.Context, a *decided) []broken {
	if !c.wanted[stickyPromise] || a.Response.IotHubHostName == "" {
		return nil
	}
	// A share may come out the same by chance for one variant of a change but not for another. So each request gets one
	// variant, and all requests together get all of them.
	first, last := 0, variants-1
	if !c.thorough {
		first = int(a.key[2]) % variants
		last = first
	}
	var changes []change
	add := func(how string, apply func(request *dps.Value, n int) *dps.Value, reads ...string) {
		if !slices.ContainsFunc(reads, c.analysis.ReadsAt) {
			return
		}
		for n := first; n <= last; n++ {
			changes = append(changes, change{how, how, func(request *dps.Value) *dps.Value { return apply(request, n) }})
		}
	}
	kind := string(a.request.Enrollment.Kind)
	add("with another etag and date in the enrollment", func(request *dps.Value, n int) *dps.Value {
		record := request.Get(kind).
			With("etag", dps.StringValue(fmt.Sprintf("\"usher-verify-%d\"", n))).
			With("lastUpdatedDateTimeUtc", dps.StringValue(fmt.Sprintf("%d-01-01T00:00:00Z", 2031+n)))
		return request.With(kind, *record)
	}, "/"+kind+"/etag", "/"+kind+"/lastUpdatedDateTimeUtc")
	add("with an unknown member in the payload", func(request *dps.Value, n int) *dps.Value {
		payload := request.Get(device).Get("payload")
		if payload.Kind() != dps.Object {
			return nil
		}
		payload = payload.With("usherVerify", dps.StringValue(fmt.Sprint("unknown ", n)))
		return request.With(device, *request.Get(device).With("payload", *payload))
	}, payloadPlace)
	add("with its certificate renewed", func(request *dps.Value, n int) *dps.Value {
		x509 := request.Get(device).Get("x509")
		again, ok := renewed(x509.Get("clientCertificate").Text(), n)
		if !ok {
			return nil
		}
		x509 = x509.With("clientCertificate", dps.StringValue(again))
		return request.With(device, *request.Get(device).With("x509", *x509))
	}, certificatePlace)
	return c.compare(ctx, stickyPromise, a, true, changes...)
}

// clone returns a deep copy of a document.
func clone(value any) any {
	switch v := value.(type) {
	case map[string]any:
		copied := make(map[string]any, len(v))
		for name, member := range v {
			copied[name] = clone(member)
		}
		return copied
	case []any:
		copied := make([]any, len(v))
		for i, element := range v {
			copied[i] = clone(element)
		}
		return copied
	default:
		return value
	}
}
