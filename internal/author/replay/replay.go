// Package replay puts a log of AllocationRequests to rules and tells what they
// change for the devices in it: who stays, who moves from hub to hub, who is
// refused, and what becomes of twins and hubs.
//
// Every decision is made by an [decider.Decider]. Memory does not grow with
// the log, unless each device is to count once ([Options.ByDevice]).
package replay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// Options say what a log is replayed through.
type Options struct {
	// Rules decide anew.
	Rules *decider.Decider
	// Baseline decides what was before. If nil, that is what a record says was
	// decided or, in want of that, the hub that the request names as current.
	Baseline *decider.Decider
	// Workers decide at the same time; 0 means one for each processor.
	Workers int
	// Examples is how many devices of each kind the report names.
	Examples int
	// ByDevice counts each device once, by its last registration in the log. It
	// keeps some 40 bytes for each device; without it every registration counts.
	ByDevice bool
	// List is written a line of JSON, a [Change], for each registration that
	// changes, in the order of the log; nil for none.
	List io.Writer
	// Progress is kept up to date; nil for none.
	Progress *Progress
}

// Change is one registration as the report and the list name it.
type Change struct {
	Kind           Kind                  `json:"kind"`
	Place          string                `json:"place"` // file:line in the log
	RegistrationID string                `json:"registrationId"`
	EnrollmentKind dps.EnrollmentKind    `json:"enrollmentKind"`
	Enrollment     string                `json:"enrollment"`
	Rule           string                `json:"rule,omitempty"`
	Reprovision    dps.ReprovisionPolicy `json:"reprovision"`
	Before         State                 `json:"before"`
	After          State                 `json:"after"`
	Twin           Twin                  `json:"twin"`
	// Reasons are the rule's, Detail is of a fault.
	Reasons []string `json:"reasons,omitempty"`
	Detail  string   `json:"detail,omitempty"`
}

// Problem is a place in a log that could not be used.
type Problem struct {
	Place   string `json:"place"` // file:line
	Problem string `json:"problem"`
}

// maxProblems is how many problems a report names; it counts them all.
const maxProblems = 10

// batch is a block with what became of it.
type batch struct {
	block
	log  int
	name string
	// endErr is set in place of a block where a log could not be read on.
	endErr error

	lines         int64
	registrations int64
	tally         tally
	entries       []entry // in the order of lines, for ByDevice
	examples      []Change
	malformed     int64
	problems      []Problem
	passedOver    int64
	lacking       int64
	lackingFirst  []Problem
	list          bytes.Buffer
	done          chan struct{}
}

// entry is a registration of a device.
type entry struct {
	device deviceKey
	cell   int // of the batch's tally
}

// Run replays logs one after the other. When ctx ends it returns at once, with
// the report on what was done by then. The error is of the List or of Options; a
// log that cannot be read is in the report.
func Run(ctx context.Context, logs []Log, options Options) (*Report, error) {
	if options.Rules == nil || options.Rules.Rules() == nil {
		return nil, errors.New("there are no rules to replay through")
	}
	r := &run{Options: options, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	r.Workers = cmp.Or(max(options.Workers, 0), runtime.GOMAXPROCS(0))
	return r.run(ctx, logs)
}

type run struct {
	Options
	seeds [2]maphash.Seed
	// full tells of which kinds there are examples enough. The goroutine that
	// merges sets it, so what workers leave out comes later in the log.
	full [kindCount]flag
}

func (r *run) run(ctx context.Context, logs []Log) (*Report, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// So many batches are there and no more: the reader waits for one to come
	// back. The channels have room for all of them, so nobody else ever waits.
	batches := 4 * r.Workers
	free, work, order := make(chan *batch, batches), make(chan *batch, batches), make(chan *batch, batches)
	for range batches {
		free <- &batch{done: make(chan struct{}, 1)}
	}
	go func() {
		defer close(order)
		defer close(work)
		r.read(ctx, logs, free, work, order)
	}()
	var workers sync.WaitGroup
	for range r.Workers {
		workers.Go(func() {
			w := &worker{run: r, interned: map[string]string{}}
			for b := range work {
				w.replay(ctx, b)
				b.done <- struct{}{}
			}
		})
	}
	m := newMerger(r, logs)
	for {
		var b *batch
		select {
		case b = <-order:
		case <-ctx.Done():
			// The reader may be waiting for input that never comes: take what it
			// has handed over by now.
			select {
			case b = <-order:
			default:
			}
		}
		if b == nil {
			break
		}
		<-b.done
		if err := m.merge(b); err != nil {
			stop(err)
			return nil, err
		}
		free <- b
	}
	return m.report(ctx.Err() != nil), nil
}

// read cuts the logs into batches.
func (r *run) read(ctx context.Context, logs []Log, free <-chan *batch, work, order chan<- *batch) {
	next := func(i int) *batch {
		select {
		case b := <-free:
			b.reset(i, logs[i].Name)
			return b
		case <-ctx.Done():
			return nil
		}
	}
	hand := func(b *batch) {
		order <- b
		work <- b
	}
	for i, log := range logs {
		in, err := log.open(ctx, r.Progress)
		if err == nil {
			cut := newBlocks(in)
			for err == nil {
				b := next(i)
				if b == nil {
					break
				}
				b.block, err = cut.read(b.data)
				if err != nil && err != io.EOF && ctx.Err() == nil {
					b.first, b.endErr = cut.next, err
				}
				hand(b)
			}
			in.close()
		} else if b := next(i); b != nil {
			b.endErr = err
			hand(b)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (b *batch) reset(log int, name string) {
	b.log, b.name, b.endErr = log, name, nil
	b.block = block{data: b.data[:0]}
	b.lines, b.registrations, b.malformed, b.passedOver, b.lacking = 0, 0, 0, 0, 0
	b.tally.reset()
	b.entries, b.examples, b.problems, b.lackingFirst = b.entries[:0], b.examples[:0], b.problems[:0], b.lackingFirst[:0]
	b.list.Reset()
}

func (b *batch) place(line int) string { return fmt.Sprintf("%s:%d", b.name, line) }

// worker decides. It belongs to one goroutine.
type worker struct {
	*run
	interned map[string]string
	examples [kindCount]int // of the batch in hand
}

func (w *worker) replay(ctx context.Context, b *batch) {
	w.examples = [kindCount]int{}
	switch {
	case b.endErr != nil:
		return
	case b.tooLong:
		b.lines++
		b.refuse(b.first, tooLong)
		return
	case b.whole:
		b.lines++
		w.line(ctx, b, b.first, bytes.TrimSpace(b.data))
		return
	}
	number := b.first
	for data := b.data; len(data) > 0 && ctx.Err() == nil; number++ {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		if len(line) > maxLine {
			b.lines++
			b.refuse(number, tooLong)
			continue
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			b.lines++
			w.line(ctx, b, number, line)
		}
	}
}

var tooLong = fmt.Sprintf("the line is longer than %d MiB", maxLine>>20)

func (b *batch) refuse(line int, problem string) {
	b.malformed++
	if len(b.problems) < maxProblems {
		b.problems = append(b.problems, Problem{b.place(line), problem})
	}
}

// line decides one line.
func (w *worker) line(ctx context.Context, b *batch, number int, line []byte) {
	split, err := split(line)
	if err != nil {
		b.refuse(number, err.Error())
		return
	}
	if split.aside {
		return
	}
	if split.passed { // no device was answered with it
		b.passedOver++
		return
	}
	recorded := split.recorded
	request, err := dps.ParseAllocationRequest(split.body)
	if err != nil {
		b.refuse(number, problemOf(&answer.Answer{Detail: err.Error()}, line, b.whole))
		return
	}
	after := w.Rules.Repeat(ctx, request, split.lookups)
	if after.Result == answer.InvalidRequest {
		b.refuse(number, problemOf(&after, line, b.whole))
		return
	}
	if needed := w.needs(ctx, request, &split, &after); len(needed) > 0 {
		b.lacks(number, needed)
		return
	}
	before := State{}
	switch {
	case w.Baseline != nil:
		a := w.Baseline.Allocate(ctx, request)
		before = stateOf(&a)
	case recorded != nil:
		before = *recorded
	case !request.FirstAssignment():
		before = State{Result: string(answer.Assigned), Hub: request.Device.CurrentIotHubHostName}
	}
	c := compare(ctx, w.Rules, request, before, after)
	if ctx.Err() != nil {
		b.lines-- // a fault Canceled may be among the answers
		return
	}
	b.registrations++
	if w.Progress != nil {
		w.Progress.registrations.Add(1)
	}
	cell := b.tally.add(w.cell(request, c), 1)
	if w.ByDevice {
		name := request.Device.RegistrationID
		if name == decisionlog.MaskedID { // nobody knows which of them are one device
			name = cmp.Or(split.decisionID, b.place(number))
		}
		b.entries = append(b.entries, entry{w.device(name), cell})
	}
	w.tell(b, number, request, c)
}

// needs tells what is masked in a record and counts for a decision. Where the rules
// are those of the record and decide as they did then, nothing is wanting.
func (w *worker) needs(ctx context.Context, request *dps.AllocationRequest, l *line, after *answer.Answer) []string {
	if len(l.masked) == 0 {
		return nil
	}
	rules := w.Rules.Rules()
	if w.Baseline == nil && l.recorded != nil && l.rules == rules.Digest() && kindOf(*l.recorded, stateOf(after)).same() {
		return nil
	}
	needed := rules.Needs(ctx, request, l.masked)
	if w.Baseline != nil {
		if before := w.Baseline.Rules(); before != nil && len(needed) == 0 {
			needed = before.Needs(ctx, request, l.masked)
		}
	}
	return needed
}

// lacks notes that a record cannot be decided anew for want of what is masked in it.
func (b *batch) lacks(line int, needed []string) {
	b.lacking++
	if len(b.lackingFirst) == maxProblems {
		return
	}
	names := slices.Clone(needed)
	for i, name := range names {
		if name == maskedBeyond {
			names[i] = "one that it does not name"
		}
	}
	b.lackingFirst = append(b.lackingFirst, Problem{b.place(line), "masked, and the rules look at it: " + strings.Join(names, ", ")})
}

// problemOf words the fault of a line, with the mend where there is a usual one.
func problemOf(fault *answer.Answer, line []byte, whole bool) string {
	if len(fault.Violations) > 0 {
		v := fault.Violations[0]
		text := fmt.Sprintf("not an AllocationRequest: %s: %s", cmp.Or(v.Pointer, "/"), v.Problem)
		if more := len(fault.Violations) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
		return text
	}
	text := strings.ReplaceAll(fault.Detail, "the body", "the line")
	switch {
	case whole:
		return strings.ReplaceAll(fault.Detail, "the body", "the file")
	case line[0] == '[':
		return text + ": write one object to a line, as `jq -c '.[]'` does"
	case line[0] == '{' && bytes.Count(line, []byte{'{'}) > bytes.Count(line, []byte{'}'}):
		return text + ": write one object to a line, as `jq -c .` does"
	}
	return text
}

// cell names what a registration is counted under.
func (w *worker) cell(request *dps.AllocationRequest, c comparison) cell {
	result := cell{
		kind: c.kind, enrollmentKind: request.Enrollment.Kind, rule: c.after.PackageName(),
		reprovision: request.Enrollment.Reprovision,
		before:      State{w.intern(c.before.Result), w.intern(c.before.Hub)},
		after:       State{string(c.after.Result), w.intern(c.after.Response.IotHubHostName)},
		on:          w.intern(c.on), twin: c.twin, use: c.use,
	}
	// An individual enrollment is a single device: they count as one, or the
	// report would be as long as the log.
	if request.Enrollment.Kind == dps.EnrollmentGroup {
		result.enrollment = w.intern(request.Enrollment.ID)
	}
	return result
}

// maxInterned bounds the names that a worker keeps.
const maxInterned = 1 << 14

// intern returns a name in lower case, as DPS and DNS compare, in memory that is
// not part of a whole request.
func (w *worker) intern(name string) string {
	if known, ok := w.interned[name]; ok {
		return known
	}
	if len(w.interned) == maxInterned {
		clear(w.interned)
	}
	own := strings.ToLower(strings.Clone(name))
	w.interned[strings.Clone(name)] = own
	return own
}

// deviceKey stands for a registration ID. With 96 bits the chance that any two of
// a hundred million devices share one is 1 to 10^13.
type deviceKey [3]uint32

func (w *worker) device(registrationID string) deviceKey {
	folded := strings.ToLower(registrationID)
	a, b := maphash.String(w.seeds[0], folded), maphash.String(w.seeds[1], folded)
	return deviceKey{uint32(a), uint32(a >> 32), uint32(b)}
}

// tell keeps a registration for the list and the examples.
func (w *worker) tell(b *batch, number int, request *dps.AllocationRequest, c comparison) {
	kind := kindIndex(c.kind)
	listed := w.List != nil && c.kind.Change()
	example := c.kind != Stayed && w.examples[kind] < w.Examples && !w.full[kind].isSet() &&
		!exemplified(b.examples, c.kind, request.Device.RegistrationID)
	if !listed && !example {
		return
	}
	change := Change{
		Kind: c.kind, Place: b.place(number),
		RegistrationID: strings.Clone(request.Device.RegistrationID),
		EnrollmentKind: request.Enrollment.Kind, Enrollment: strings.Clone(request.Enrollment.ID),
		Rule: c.after.PackageName(), Reprovision: request.Enrollment.Reprovision,
		Before: State{c.before.Result, strings.Clone(c.before.Hub)}, After: State{string(c.after.Result), strings.Clone(c.after.Response.IotHubHostName)},
		Twin: c.twin, Reasons: c.after.Reasons,
	}
	if c.after.Detail != "" {
		change.Detail = c.after.Detail
		if c.after.Cause != nil {
			change.Detail += ": " + c.after.Cause.Error()
		}
	}
	if listed {
		encoder := json.NewEncoder(&b.list)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(change) // strings alone, into memory
	}
	if example {
		w.examples[kind]++
		b.examples = append(b.examples, change)
	}
}
