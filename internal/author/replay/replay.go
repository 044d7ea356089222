// Package replay decides the requests of a log again and reports what rules change for the devices in it: who stays,
// who moves from hub to hub, who is refused, and what happens to twins and hubs.
//
// A [decider.Decider] makes every decision. Memory does not grow with the log, except by about 40 bytes for each
// decision record, and for each device if each counts once ([Options.ByDevice]).
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
	"sync/atomic"
	"unique"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// Options configure a replay.
type Options struct {
	// Rules decide again.
	Rules *decider.Decider
	// Baseline decides what was before. If it is nil, that is what a record says or, if it says nothing, the hub that
	// the request names as current.
	Baseline *decider.Decider
	// Workers decide at the same time; 0 means one for each processor.
	Workers int
	// Examples is how many devices of each kind the report names.
	Examples int
	// ByDevice counts each device once, by its last registration in the log. It keeps about 40 bytes for each device;
	// without it every registration counts.
	ByDevice bool
	// Tables are asked in place of the rows that the log records of their look-ups. Rules has them as its sources.
	Tables Tables
	// Shard is the share of the devices to replay. Its report is for [Merge], and has a [Part].
	Shard Shard
	// HubLimits are how many devices hubs may get; After is not used.
	HubLimits []HubLimit
	// List receives a line of JSON, a [Change], for each registration that changes, in the order of the log; may be
	// nil.
	List io.Writer
	// Progress, if set, receives now and then how many registrations were replayed, and how many bytes were read, as
	// stored.
	Progress func(registrations, read int64)
}

// Change is one registration as the report and the list name it.
type Change struct {
	Kind           Kind                  `json:"kind"`
	Place          string                `json:"place"`             // such as file:line
	Service        string                `json:"service,omitempty"` // the DPS instance, if the request names it
	RegistrationID string                `json:"registrationId"`
	EnrollmentKind dps.EnrollmentKind    `json:"enrollmentKind"`
	Enrollment     string                `json:"enrollment"`
	Rule           string                `json:"rule,omitempty"`
	Reprovision    dps.ReprovisionPolicy `json:"reprovision"`
	Before         State                 `json:"before"`
	After          State                 `json:"after"`
	Twin           Twin                  `json:"twin"`
	// Reasons are the rule's; Detail is that of a fault.
	Reasons []string `json:"reasons,omitempty"`
	Detail  string   `json:"detail,omitempty"`
	// Lines are the definitions of the new rules that decide what has changed, each before those of libraries behind
	// it.
	Lines []answer.Line `json:"lines,omitempty"`
}

// Problem is a place in a log that could not be used.
type Problem struct {
	Place   string `json:"place"` // such as file:line
	Problem string `json:"problem"`
}

// maxProblems is how many problems of a kind a report names; it counts them all.
const maxProblems = 10

// problems counts problems and keeps the first ones.
type problems struct {
	count int64
	first []Problem
	at    []int64 // the numbers of their items
}

func (p *problems) add(item *requestlog.Item, number int64, problem string) {
	p.count++
	if len(p.first) < maxProblems {
		p.first, p.at = append(p.first, Problem{item.Place(), problem}), append(p.at, number)
	}
}

// addAll adds those of the items that come after a number of others.
func (p *problems) addAll(more *problems, after int64) {
	p.count += more.count
	for i := range more.first[:min(len(more.first), maxProblems-len(p.first))] {
		p.first, p.at = append(p.first, more.first[i]), append(p.at, after+more.at[i])
	}
}

func (p *problems) reset() { *p = problems{first: p.first[:0], at: p.at[:0]} }

// counts are what a batch and all batches together count.
type counts struct {
	registrations, sameRules, passedOver, skipped, duplicates int64
	malformed, lacking                                        problems
}

func (c *counts) addAll(more *counts, after int64) {
	c.registrations += more.registrations
	c.sameRules += more.sameRules
	c.passedOver += more.passedOver
	c.skipped += more.skipped
	c.duplicates += more.duplicates
	c.malformed.addAll(&more.malformed, after)
	c.lacking.addAll(&more.lacking, after)
}

// batch is a block of a log and what was found in it.
type batch struct {
	requestlog.Block
	log int
	// unread is set instead of the block if the log could not be read on.
	unread *Problem

	counts
	items    int64 // how many it holds
	lines    int64 // how many of them were replayed
	tally    tally
	linked   linked  // also by the batches that were in this memory before; only with HubLimits
	entries  []entry // in the order of the log, for ByDevice
	examples []Change
	// examplesAt are the numbers of their items in the batch.
	examplesAt []int64
	list       bytes.Buffer
	done       chan struct{}
	// before is closed when the batches before this one have said which records they hold, and said when this one has.
	before, said chan struct{}
}

// entry is a registration of a device.
type entry struct {
	device key
	cell   int // of the batch's tally
}

// Run replays logs one after the other. When ctx ends it returns at once, with a report on what was done until then.
// The error is that of List or of wrong options; logs that cannot be read are in the report.
func Run(ctx context.Context, logs []requestlog.Log, options Options) (*Report, error) {
	if options.Rules == nil || options.Rules.Rules() == nil {
		return nil, errors.New("there are no rules to replay through")
	}
	r := &run{Options: options, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, records: map[key]struct{}{}}
	r.Workers = cmp.Or(max(options.Workers, 0), runtime.GOMAXPROCS(0))
	return r.run(ctx, logs)
}

type run struct {
	Options
	seeds [2]maphash.Seed
	read  atomic.Int64 // bytes, as stored
	// full is set for the kinds that have enough examples. The goroutine that merges sets it, so what workers leave out
	// comes later in the log.
	full [kindCount]atomic.Bool
	// records are those that were read, by their decisionId. One batch after the other uses it.
	records map[key]struct{}
}

func (r *run) run(ctx context.Context, logs []requestlog.Log) (*Report, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// There are this many batches and no more: the reader waits until one comes back. The channels have room for all of
	// them, so nothing else ever waits.
	batches := 4 * r.Workers
	free, work, order := make(chan *batch, batches), make(chan *batch, batches), make(chan *batch, batches)
	for range batches {
		free <- &batch{done: make(chan struct{}, 1), linked: linked{}}
	}
	go func() {
		defer close(order)
		defer close(work)
		r.readLogs(ctx, logs, free, work, order)
	}()
	var workers sync.WaitGroup
	for range r.Workers {
		workers.Go(func() {
			for b := range work {
				r.replay(ctx, b)
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
			// The reader may wait for input that never comes: use what it has handed over until now.
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
		if r.Progress != nil {
			r.Progress(m.registrations, r.read.Load())
		}
		free <- b
	}
	return m.report(ctx.Err() != nil), nil
}

// readLogs cuts the logs into batches.
func (r *run) readLogs(ctx context.Context, logs []requestlog.Log, free <-chan *batch, work, order chan<- *batch) {
	said := make(chan struct{})
	close(said)
	for i, log := range logs {
		reader, err := log.Reader(ctx, &r.read)
		for ended := false; !ended; {
			var b *batch
			select {
			case b = <-free:
				b.reset(i)
			case <-ctx.Done():
			}
			if b == nil {
				break
			}
			if err != nil {
				b.unread, ended = &Problem{log.Name, err.Error()}, true
			} else if nextErr := reader.Next(&b.Block); nextErr != nil {
				ended = true
				if nextErr != io.EOF && ctx.Err() == nil {
					b.unread = &Problem{b.Place(), nextErr.Error()}
				}
			}
			b.before, b.said = said, make(chan struct{})
			said = b.said
			order <- b
			work <- b
		}
		if err == nil {
			reader.Close()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (b *batch) reset(log int) {
	b.log, b.unread, b.items, b.lines = log, nil, 0, 0
	b.counts = counts{malformed: b.malformed, lacking: b.lacking}
	b.malformed.reset()
	b.lacking.reset()
	b.tally.reset()
	b.entries, b.examples, b.examplesAt = b.entries[:0], b.examples[:0], b.examplesAt[:0]
	b.list.Reset()
}

func (r *run) replay(ctx context.Context, b *batch) {
	var items []requestlog.Item
	if b.unread == nil {
		items = slices.Collect(b.Items())
	}
	b.items = int64(len(items))
	again := r.readBefore(b, items)
	for i := range items {
		if ctx.Err() != nil {
			return
		}
		b.lines++
		if !again[i] {
			r.replayItem(ctx, b, &items[i], int64(i))
		} else if r.Shard.hasRest() {
			b.duplicates++
		}
	}
}

// readBefore reports which items are records that the log already has. Batches take turns, in the order of the log, so
// that it is always the first one that counts.
func (r *run) readBefore(b *batch, items []requestlog.Item) []bool {
	<-b.before
	defer close(b.said)
	again := make([]bool, len(items))
	for i := range items {
		if item := &items[i]; item.Record != nil && item.Record.DecisionID != "" && !item.Unanswered() {
			decision := r.key(item.Record.DecisionID)
			_, again[i] = r.records[decision]
			r.records[decision] = struct{}{}
		}
	}
	return again
}

// replayItem replays the item with this number in the batch, if the shard has its device.
func (r *run) replayItem(ctx context.Context, b *batch, item *requestlog.Item, number int64) {
	var request *dps.AllocationRequest
	err := item.Err
	if item.Kind != requestlog.OtherCall && (item.Kind != requestlog.Other || !item.InExport()) && err == nil && !item.Unanswered() {
		request, err = item.Parse()
	}
	if request == nil {
		if r.Shard.hasRest() {
			b.countRest(item, number, err)
		}
		return
	}
	device := item.Device(request)
	if !r.Shard.has(device) {
		return
	}
	known := r.Tables.others(item.Lookups)
	after := r.Rules.Repeat(ctx, request, known)
	if after.Result == answer.InvalidRequest {
		b.malformed.add(item, number, describeViolations(after.Violations))
		return
	}
	if len(r.HubLimits) > 0 {
		b.linked.add(request.LinkedHubs...)
	}
	if needed := r.neededOf(ctx, request, item, &after); len(needed) > 0 {
		b.lacking.add(item, number, "masked, and the rules look at it: "+strings.Join(needed, ", "))
		return
	}
	var before State
	var then answer.Answer // the baseline's, if there is one
	switch {
	case r.Baseline != nil:
		then = r.Baseline.Repeat(ctx, request, item.Lookups)
		before = stateOf(&then)
	case item.Then != nil:
		before = stateOf(item.Then)
	case !request.FirstAssignment():
		before = State{answer.Assigned, request.Device.CurrentIotHubHostName}
	}
	c := compare(ctx, r.Rules, request, known, before, after)
	unknown := cmp.Or(unknownRow(known, &after), unknownRow(known, &c.after), unknownRow(item.Lookups, &then))
	if unknown != "" && ctx.Err() == nil {
		b.lacking.add(item, number, "the rules look up a row that is neither recorded nor in a fixture: "+unknown)
		return
	}
	switch {
	case c.kind != Stayed: // what a device that moves is sent is not compared
	case r.Baseline != nil:
		c.kind = sameHub(answer.Compare(&then, &after))
	case item.Then != nil:
		c.kind = sameHub(sinceRecorded(item.Record, &after))
	}
	if ctx.Err() != nil {
		b.lines-- // one of the answers may be Canceled
		return
	}
	b.registrations++
	if r.bySameRules(item) {
		b.sameRules++
	}
	cell := b.tally.add(r.cell(request, c), 1)
	if r.ByDevice {
		b.entries = append(b.entries, entry{r.key(device), cell})
	}
	r.addChange(b, item, number, request, c)
}

// countRest counts an item that is not replayed, because it is of no device that is known.
func (b *batch) countRest(item *requestlog.Item, number int64, err error) {
	switch {
	case item.Kind == requestlog.OtherCall:
	case item.Kind == requestlog.Other && item.InExport():
		b.skipped++
	case err != nil:
		b.malformed.add(item, number, err.Error())
	default:
		b.passedOver++
	}
}

// bySameRules reports whether what was before is what these same rules decided.
func (r *run) bySameRules(item *requestlog.Item) bool {
	digest := r.Rules.Rules().Digest()
	if r.Baseline != nil {
		return r.Baseline.Rules() != nil && r.Baseline.Rules().Digest() == digest
	}
	return item.Then != nil && item.Then.Rules == digest
}

// sinceRecorded compares the twin and the payload of an answer with those of a record, which may be nil.
func sinceRecorded(record *decisionlog.Record, after *answer.Answer) (differences []answer.Difference) {
	if record == nil {
		return nil
	}
	if record.Decision.InitialTwin.Differs(after.Response.InitialTwin) {
		differences = append(differences, answer.InTwin)
	}
	if record.Decision.Payload.Differs(after.Response.Payload) {
		differences = append(differences, answer.InPayload)
	}
	return differences
}

// neededOf lists what is masked in a record although the rules look at it. If the rules are those of the record and
// decide as they did then, they need nothing.
func (r *run) neededOf(ctx context.Context, request *dps.AllocationRequest, item *requestlog.Item, after *answer.Answer) []string {
	if len(item.Masked) == 0 {
		return nil
	}
	rules := r.Rules.Rules()
	if r.Baseline == nil && len(r.Tables) == 0 && item.Then.Rules == rules.Digest() && kindOf(stateOf(item.Then), stateOf(after)).same() {
		return nil
	}
	needed := rules.Needs(ctx, request, r.Tables.unanswered(item.Masked))
	if len(needed) == 0 && r.Baseline != nil && r.Baseline.Rules() != nil {
		needed = r.Baseline.Rules().Needs(ctx, request, item.Masked)
	}
	for i, name := range needed {
		needed[i] = cmp.Or(name, "one that it does not name")
	}
	return needed
}

// unknownRow is the function whose look-up failed, unless it failed then as well; empty if none did. There is no source in
// a replay, so its fault is not the rules' decision.
func unknownRow(recorded []answer.Lookup, after *answer.Answer) string {
	at := slices.IndexFunc(after.Lookups, func(l answer.Lookup) bool { return l.Fault != "" && !l.Undefined && l.Result == nil })
	if after.Result != answer.LookupFailed || at < 0 {
		return ""
	}
	failed := &after.Lookups[at]
	for i := range recorded {
		if recorded[i].Builtin == failed.Builtin && slices.Equal(recorded[i].Arguments, failed.Arguments) {
			return ""
		}
	}
	return failed.Builtin
}

func describeViolations(violations []answer.Violation) string {
	first := violations[0]
	text := fmt.Sprintf("not an AllocationRequest: %s: %s", cmp.Or(first.Pointer, "/"), first.Problem)
	if more := len(violations) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// cell is what a registration is counted under.
func (r *run) cell(request *dps.AllocationRequest, c comparison) cell {
	result := cell{
		kind: c.kind, enrollmentKind: request.Enrollment.Kind, rule: c.after.PackageName(),
		reprovision: request.Enrollment.Reprovision,
		before:      State{c.before.Result, intern(dps.HubName(c.before.Hub))},
		after:       State{c.after.Result, intern(dps.HubName(c.after.Response.IotHubHostName))},
		on:          intern(dps.HubName(c.on)), twin: c.twin, use: c.use,
	}
	// An individual enrollment is a single device: all of them count as one, or the report would be as long as the log.
	if request.Enrollment.Kind == dps.EnrollmentGroup {
		result.enrollment = intern(request.Enrollment.ID)
	}
	return result
}

// intern returns a name in lower case, as DPS and DNS compare, in memory that is not part of a whole request.
func intern(name string) string { return unique.Make(strings.ToLower(name)).Value() }

// key stands for a registration ID at a DPS instance, or for the ID of a decision. With 96 bits the probability that
// any two of a hundred million share one is 1 in 10^13.
type key [3]uint32

func (r *run) key(text string) key {
	a, b := maphash.String(r.seeds[0], text), maphash.String(r.seeds[1], text)
	return key{uint32(a), uint32(a >> 32), uint32(b)}
}

// addChange keeps a registration for the list and the examples.
func (r *run) addChange(b *batch, item *requestlog.Item, number int64, request *dps.AllocationRequest, c comparison) {
	listed := r.List != nil && c.kind.Change()
	example := c.kind != Stayed && !r.full[kindIndex(c.kind)].Load() && wantsExample(b.examples, c.kind, request.Device.RegistrationID, r.Examples)
	if !listed && !example {
		return
	}
	change := Change{
		Kind: c.kind, Place: item.Place(), Service: strings.Clone(request.Service),
		RegistrationID: strings.Clone(request.Device.RegistrationID),
		EnrollmentKind: request.Enrollment.Kind, Enrollment: strings.Clone(request.Enrollment.ID),
		Rule: c.after.PackageName(), Reprovision: request.Enrollment.Reprovision,
		Before: State{c.before.Result, strings.Clone(c.before.Hub)},
		After:  State{c.after.Result, strings.Clone(c.after.Response.IotHubHostName)},
		Twin:   c.twin, Reasons: c.after.Reasons, Lines: decisiveLines(c.kind, c.after.Lines),
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
		_ = encoder.Encode(change) // only strings, into memory
	}
	if example {
		b.examples, b.examplesAt = append(b.examples, change), append(b.examplesAt, number)
	}
}
