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

// Promise is something that holds for every request, or that is broken.
type Promise struct {
	ID string
	// Says is the promise in a line.
	Says string
}

// Invariant is the ID of the promise that invariants of one's own hold.
const Invariant = invariantPromise

// IDs of the promises.
const (
	outcomePromise   = "outcome"
	onePromise       = "one-answer"
	hubPromise       = "linked-hub"
	twinPromise      = "twin"
	payloadPromise   = "payload"
	errorPromise     = "no-error"
	settlesPromise   = "settles"
	neverPromise     = "never"
	casePromise      = "case"
	orderPromise     = "order"
	unlinkPromise    = "unlink"
	stickyPromise    = "sticky"
	repeatPromise    = "repeat"
	invariantPromise = "invariant"
)

// Promises lists all of them.
func Promises() []Promise {
	return []Promise{
		{outcomePromise, "Every request of an enrollment that the rule serves is assigned, rejected or held."},
		{onePromise, "No two definitions give one request two different answers."},
		{hubPromise, "The hub is one of linkedHubs, whichever hubs are linked."},
		{twinPromise, "IoT Hub takes the initial twin."},
		{payloadPromise, "The payload is an object."},
		{errorPromise, "No built-in function fails so that an answer is missing, and the rule ends in time."},
		{settlesPromise, "A device that registers again stays on the hub that it was assigned to."},
		{neverPromise, "A device that may not be reprovisioned stays, is held, or is rejected."},
		{casePromise, "The case of registration ID, enrollment and hub names makes no difference."},
		{orderPromise, "The order of linkedHubs makes no difference."},
		{unlinkPromise, "A hub that is unlinked moves the devices that were on it and no others."},
		{stickyPromise, "What changes between two registrations, such as an etag, a renewed certificate or an unknown member of the payload, does not move a device."},
		{repeatPromise, "The same request gets the same answer again."},
		{invariantPromise, "The invariants of one's own, in *_invariants.rego, hold."},
	}
}

// broken is a promise that a request breaks.
type broken struct {
	promise string
	message string
	place   string // file:line, "" for the rule as a whole
	// kind tells apart what is worth a finding of its own within a promise.
	kind string
	body []byte // the request
	then []byte // the second request, where the promise is about two
}

func (b *broken) key() string { return b.promise + "\x00" + b.kind }

// checker asks a rule and holds its answers to the promises.
type checker struct {
	decider    *decider.Decider
	rule       *ruleset.Rule
	analysis   *dataflow.Analysis
	invariants *invariants.Invariants
	wanted     map[string]bool
	memo       *memo
	findRule   func(dps.Enrollment) *ruleset.Rule
	// chancy is set if the rule may answer the same request in two ways.
	chancy bool
	// thorough asks all variants of what follows a request, not one of each.
	thorough bool
}

// decided is a request and its answer.
type decided struct {
	request *dps.AllocationRequest
	answer.Answer
}

// invalid reports whether the body is not an AllocationRequest.
func (d *decided) invalid() bool {
	return d.Result == answer.InvalidRequest || d.Result == answer.Malformed
}

// brief is what follow-up requests compare.
type brief struct {
	result answer.Result
	words  string // the hub for Assigned, else the first reason or what is wrong
}

func briefOf(a *answer.Answer) brief {
	b := brief{result: a.Result, words: a.Response.IotHubHostName + a.Detail}
	if len(a.Reasons) > 0 {
		b.words = a.Reasons[0]
	}
	return b
}

func (b brief) assigned() bool { return b.result == answer.Assigned }

func (b brief) same(other brief) bool {
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

// memo remembers brief answers: the follow-up of one request is often a request of its own.
type memo struct {
	answers sync.Map // [16]byte to brief
	size    atomic.Int64
}

const maxMemo = 1 << 19 // some 60 MB

func memoKey(body []byte) [16]byte {
	sum := sha256.Sum256(body)
	return [16]byte(sum[:16])
}

func (c *checker) decide(ctx context.Context, body []byte) decided {
	var d decided
	d.request, d.Answer = c.decider.AllocateJSON(ctx, body)
	if !c.chancy && c.memo.size.Load() < maxMemo && ctx.Err() == nil {
		if _, known := c.memo.answers.LoadOrStore(memoKey(body), briefOf(&d.Answer)); !known {
			c.memo.size.Add(1)
		}
	}
	return d
}

func (c *checker) decideBriefly(ctx context.Context, document map[string]any) (brief, []byte) {
	body := dps.AppendValue(nil, document)
	if known, ok := c.memo.answers.Load(memoKey(body)); ok {
		return known.(brief), body
	}
	d := c.decide(ctx, body)
	return briefOf(&d.Answer), body
}

// check asks one request and what follows from it. A request that is none, by the
// schema, breaks nothing.
func (c *checker) check(ctx context.Context, body []byte) (decided, []broken) {
	a := c.decide(ctx, body)
	found := c.single(ctx, &a, body)
	if ctx.Err() != nil {
		return a, nil // what looks like a timeout may be the end of the search
	}
	if len(found) > 0 || !a.Result.IsOutcome() {
		return a, c.keep(found)
	}
	for _, follow := range []func(context.Context, *decided, []byte) []broken{
		c.repeats, c.settles, c.casing, c.ordering, c.unlinking, c.sticking,
	} {
		found = append(found, follow(ctx, &a, body)...)
	}
	if ctx.Err() != nil {
		return a, nil // half answered
	}
	return a, c.keep(found)
}

func (c *checker) keep(found []broken) []broken {
	return slices.DeleteFunc(found, func(b broken) bool { return !c.wanted[b.promise] })
}

// single are the promises about one request.
func (c *checker) single(ctx context.Context, a *decided, body []byte) []broken {
	if !a.Result.IsOutcome() {
		if b, ok := c.ofFault(&a.Answer); ok {
			b.body = body
			return []broken{b}
		}
		return nil
	}
	var found []broken
	add := func(b broken) {
		b.body = body
		found = append(found, b)
	}
	if slices.Contains(a.Overrides, answer.OnUndecided) {
		// The author has said what becomes of silence, not of a failure.
		if _, err := c.rule.Evaluate(ctx, a.request.Document); err != nil && ctx.Err() == nil {
			add(c.ofError(err))
		}
	}
	response := &a.Response
	if a.Result == answer.Assigned {
		if current := a.request.Device.CurrentIotHubHostName; current != "" &&
			a.request.Enrollment.Reprovision == dps.ReprovisionNever && !dps.SameHub(current, response.IotHubHostName) {
			add(broken{promise: neverPromise, message: "moves from " + current + " to " + response.IotHubHostName + " though the policy forbids it"})
		}
		for entry, missing := range map[string]bool{"initial_twin": response.InitialTwin == nil, "payload": response.Payload == nil} {
			if !missing || c.analysis.Entries[entry] == nil || slices.Contains(a.Overrides, answer.OnUndecided) {
				continue
			}
			verdict, err := c.rule.Evaluate(ctx, a.request.Document)
			if err == nil && len(verdict.BuiltinErrors) > 0 {
				add(broken{promise: errorPromise, place: verdict.BuiltinErrors[0], kind: entry, message: fmt.Sprintf(
					"%s is left out: a built-in function failed at %s", entry, strings.Join(verdict.BuiltinErrors, ", "))})
			}
		}
	}
	if c.wanted[invariantPromise] && c.invariants.Has(c.rule.Package) {
		messages, err := c.invariants.Broken(ctx, c.rule.Package, map[string]any{"request": a.request.Document, "decision": decisionDocument(&a.Answer)})
		if err != nil && ctx.Err() == nil {
			e, _ := errors.AsType[*ruleset.EvalError](err)
			b := broken{promise: invariantPromise, message: "the invariants fail: " + err.Error(), kind: err.Error()}
			if e != nil {
				b.place = e.Place
			}
			add(b)
		}
		for _, message := range messages {
			add(broken{promise: invariantPromise, message: message, kind: message})
		}
	}
	return found
}

// decisionDocument is what invariants see of a decision.
func decisionDocument(a *answer.Answer) map[string]any {
	document := map[string]any{}
	for _, member := range a.Document("outcome", "hub", "initialTwin", "payload", "reasons") {
		document[member.Name] = member.Value
	}
	return document
}

func (c *checker) ofFault(a *answer.Answer) (broken, bool) {
	switch a.Result {
	case answer.Malformed, answer.InvalidRequest, answer.Canceled, answer.NotReady:
		return broken{}, false // no request, or no time
	case answer.BadVerdict:
		promise := map[string]string{"initial_twin": twinPromise, "payload": payloadPromise}[a.Entry]
		return broken{promise: cmp.Or(promise, hubPromise), message: a.Detail}, true
	case answer.Undecided:
		if a.Cause == nil {
			return broken{promise: outcomePromise, message: a.Detail + ", and rejects or holds nothing"}, true
		}
		b := c.ofError(a.Cause)
		if b.place == "" { // a built-in that failed, not the rule as a whole
			b.message = a.Detail + ": " + b.message
			if len(a.BuiltinErrors) > 0 {
				b.place = a.BuiltinErrors[0]
			}
		}
		if !c.wanted[b.promise] {
			b.promise = outcomePromise
		}
		return b, true
	default: // a timeout, or a bug of Usher's own
		return broken{promise: errorPromise, message: a.Detail}, true
	}
}

// ofError tells a conflict from other failures of a rule.
func (c *checker) ofError(err error) broken {
	b := broken{promise: errorPromise, message: err.Error(), kind: err.Error()}
	e, ok := errors.AsType[*ruleset.EvalError](err)
	if !ok {
		return b
	}
	b.place = e.Place
	if e.Conflict {
		b.promise = onePromise
	}
	return b
}

// repeats asks the same again.
func (c *checker) repeats(ctx context.Context, a *decided, body []byte) []broken {
	if !c.wanted[repeatPromise] {
		return nil
	}
	// Without a built-in that is off by default, nothing that a rule can reach
	// changes from call to call; a look at one request in 16 is for that claim itself.
	if memoKey(body)[0]&15 != 0 && !c.chancy {
		return nil
	}
	again := c.decide(ctx, body)
	if again.Result == a.Result &&
		bytes.Equal(again.Response.AppendJSON(nil), a.Response.AppendJSON(nil)) {
		return nil
	}
	return []broken{{promise: repeatPromise, body: body, then: body,
		message: fmt.Sprintf("asked again, the device %s; at first it %s, or twin or payload differ", briefOf(&again.Answer), briefOf(&a.Answer))}}
}

// settles lets an assigned device register again, from the hub that it was given.
func (c *checker) settles(ctx context.Context, a *decided, body []byte) []broken {
	hub := a.Response.IotHubHostName
	if !c.wanted[settlesPromise] || hub == "" || dps.SameHub(hub, a.request.Device.CurrentIotHubHostName) ||
		!c.analysis.ReadsAt("/deviceRuntimeContext/currentIotHubHostName") && !c.analysis.ReadsAt("/deviceRuntimeContext/currentDeviceId") {
		return nil
	}
	path := []string{hub}
	var then []byte
	for range 3 {
		document := clone(a.request.Document).(map[string]any)
		device := document["deviceRuntimeContext"].(map[string]any)
		device["currentIotHubHostName"] = path[len(path)-1]
		device["currentDeviceId"] = device["registrationId"]
		next, asked := c.decideBriefly(ctx, document)
		if then == nil {
			then = asked
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
	return []broken{{promise: settlesPromise, message: message, body: body, then: then}}
}

// differs asks a changed request and reports another answer. With moves, only
// another hub counts.
func (c *checker) differs(ctx context.Context, promise string, a *decided, body []byte, how string, moves bool, change func(document map[string]any) bool) []broken {
	document := clone(a.request.Document).(map[string]any)
	if !change(document) {
		return nil
	}
	next, asked := c.decideBriefly(ctx, document)
	now := briefOf(&a.Answer)
	if ctx.Err() != nil || now.same(next) || moves && (!now.assigned() || !next.assigned()) {
		return nil
	}
	return []broken{{promise: promise, message: fmt.Sprintf("%s; %s it %s", now, how, next), body: body, then: asked}}
}

// casing writes names in another case, all at once, and apart if that matters.
func (c *checker) casing(ctx context.Context, a *decided, body []byte) []broken {
	if !c.wanted[casePromise] {
		return nil
	}
	changes := []struct {
		how    string
		change func(document map[string]any) bool
	}{
		{"with the registration ID in another case", func(d map[string]any) bool {
			return otherCase(d["deviceRuntimeContext"].(map[string]any), "registrationId")
		}},
		{"with the enrollment's name in another case", func(d map[string]any) bool {
			if group, ok := d["enrollmentGroup"].(map[string]any); ok {
				return otherCase(group, "enrollmentGroupId")
			}
			return otherCase(d["individualEnrollment"].(map[string]any), "registrationId")
		}},
		{"with linkedHubs in another case", func(d map[string]any) bool {
			hubs := d["linkedHubs"].([]any)
			for i, hub := range hubs {
				hubs[i] = swapCase(hub.(string))
			}
			return true
		}},
		{"with the current hub in another case", func(d map[string]any) bool {
			return otherCase(d["deviceRuntimeContext"].(map[string]any), "currentIotHubHostName")
		}},
	}
	all := func(d map[string]any) bool {
		for _, one := range changes {
			one.change(d)
		}
		return true
	}
	together := c.differs(ctx, casePromise, a, body, "with all names in another case", false, all)
	// Two hosts in the same other case could hide that one alone makes a difference.
	apart := c.differs(ctx, casePromise, a, body, changes[3].how, false, changes[3].change)
	if len(together)+len(apart) == 0 {
		return nil
	}
	for _, one := range changes {
		if found := c.differs(ctx, casePromise, a, body, one.how, false, one.change); len(found) > 0 {
			found[0].kind = one.how
			return found
		}
	}
	return together
}

func otherCase(object map[string]any, name string) bool {
	text, ok := object[name].(string)
	if !ok || swapCase(text) == text {
		return false
	}
	object[name] = swapCase(text)
	return true
}

func swapCase(text string) string {
	if upper := strings.ToUpper(text); upper != text {
		return upper
	}
	return strings.ToLower(text)
}

// ordering turns linkedHubs round.
func (c *checker) ordering(ctx context.Context, a *decided, body []byte) []broken {
	if !c.wanted[orderPromise] || len(a.request.LinkedHubs) < 2 {
		return nil
	}
	return c.differs(ctx, orderPromise, a, body, "with linkedHubs the other way round", false, func(d map[string]any) bool {
		slices.Reverse(d["linkedHubs"].([]any))
		return true
	})
}

// unlinking takes away hubs that the device is not on.
func (c *checker) unlinking(ctx context.Context, a *decided, body []byte) []broken {
	hub := a.Response.IotHubHostName
	if !c.wanted[unlinkPromise] || hub == "" || len(a.request.LinkedHubs) < 2 {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(a.request.LinkedHubs), func(other string) bool { return dps.SameHub(other, hub) })
	if !c.thorough && len(others) > 1 {
		key := memoKey(body)
		others = others[int(key[1])%len(others):][:1]
	}
	for _, other := range others {
		found := c.differs(ctx, unlinkPromise, a, body, "with "+other+" no longer linked", true, func(d map[string]any) bool {
			d["linkedHubs"] = slices.DeleteFunc(d["linkedHubs"].([]any), func(hub any) bool { return hub == any(other) })
			return true
		})
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// sticking changes what changes between two registrations of one device.
func (c *checker) sticking(ctx context.Context, a *decided, body []byte) []broken {
	if !c.wanted[stickyPromise] || a.Response.IotHubHostName == "" {
		return nil
	}
	kind := string(a.request.Enrollment.Kind)
	changes := []struct {
		how    string
		reads  []string
		change func(document map[string]any, n int) bool
	}{
		{"with another etag and date in the enrollment", []string{"/" + kind + "/etag", "/" + kind + "/lastUpdatedDateTimeUtc"},
			func(d map[string]any, n int) bool {
				record := d[kind].(map[string]any)
				record["etag"] = fmt.Sprintf("\"usher-verify-%d\"", n)
				record["lastUpdatedDateTimeUtc"] = fmt.Sprintf("%d-01-01T00:00:00Z", 2031+n)
				return true
			}},
		{"with an unknown member in the payload", []string{payloadPlace}, func(d map[string]any, n int) bool {
			payload, ok := d["deviceRuntimeContext"].(map[string]any)["payload"].(map[string]any)
			if ok {
				payload["usherVerify"] = fmt.Sprint("unknown ", n)
			}
			return ok
		}},
		{"with its certificate renewed", []string{"/deviceRuntimeContext/x509/clientCertificate"}, func(d map[string]any, n int) bool {
			x509, ok := d["deviceRuntimeContext"].(map[string]any)["x509"].(map[string]any)
			if !ok {
				return false
			}
			text, _ := x509["clientCertificate"].(string)
			again, ok := renewed(text, n)
			x509["clientCertificate"] = again
			return ok
		}},
	}
	// A change that comes to the same by chance, as of a share, may not do so in
	// another variant. Each request gets one; all of them together get all.
	first, last := int(memoKey(body)[2])%variants, 0
	if last = first; c.thorough {
		first, last = 0, variants-1
	}
	for _, one := range changes {
		if !slices.ContainsFunc(one.reads, c.analysis.ReadsAt) {
			continue
		}
		for n := first; n <= last; n++ {
			found := c.differs(ctx, stickyPromise, a, body, one.how, true, func(d map[string]any) bool { return one.change(d, n) })
			if len(found) > 0 {
				found[0].kind = one.how
				return found
			}
		}
	}
	return nil
}

// clone copies a document as deep as it goes.
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
