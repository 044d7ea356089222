// Package fleet keeps the registrations of logs in memory: which device went to which hub, by which rule. It finds and
// counts them, decides those that the log has no answer to, and replays edited rules against them.
//
// The texts are kept compressed, in the order of the logs, so that a hundred thousand registrations take a few dozen
// megabytes.
package fleet

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/requestlog"
)

// MaxRegistrations bounds how many registrations are kept, at about 300 bytes each. usher replay has no such bound.
const MaxRegistrations = 1_000_000

// maxProblems is how many problems are kept; all are counted.
const maxProblems = 50

// Problem is a place in a log that could not be used.
type Problem struct {
	Place   string `json:"place"` // such as file:line
	Problem string `json:"problem"`
}

// Fleet is what was read of logs. It is safe for concurrent use. Close it.
type Fleet struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	seed    maphash.Seed

	reading sync.Mutex // guards sources and their logs
	sources []Source
	broken  map[int]string // what a source said last, so that it is told once

	deciding chan struct{} // holds a value while Decide works

	mu                  sync.RWMutex // guards what follows
	rows                []row
	chunks              []chunk
	names               []string // what rows have numbers of
	numbers             map[string]uint32
	devices             map[key]int32 // the last row of each device
	records             map[key]struct{}
	read                []Log
	problems            []Problem
	count               int  // of problems
	undecided, recorded int  // registrations
	begun               bool // all sources were read once
	full                bool
	changed             chan struct{} // closed at the next change
}

// Log says what was read of a source.
type Log struct {
	Name          string `json:"name"`
	Registrations int    `json:"registrations"`
	// Missing counts the entries that the source no longer had when they were to be read.
	Missing uint64 `json:"missing"`
}

// row is one registration. Names are numbers in Fleet.names.
type row struct {
	id                               string
	key                              key
	at                               int64 // nanoseconds since 1970; 0 if the log does not say
	chunk, start, end                uint32
	place                            string
	individual                       bool
	masked                           bool // the log lacks a part of the request
	decided                          bool // by Decide, and not in the log
	service, enrollment, before, hub uint32
	result, rule                     uint32
	rules                            uint32 // the digest of those that decided
}

// chunk has the texts of some rows, one after the other.
type chunk struct {
	first, end int // rows
	packed     []byte
}

// key stands for a device at a DPS instance, or for a decision.
type key uint64

// New returns a fleet that has read nothing yet.
func New(sources ...Source) (*Fleet, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	f := &Fleet{encoder: encoder, decoder: decoder, seed: maphash.MakeSeed(), sources: sources, broken: map[int]string{},
		numbers: map[string]uint32{}, devices: map[key]int32{}, records: map[key]struct{}{}, changed: make(chan struct{}), deciding: make(chan struct{}, 1)}
	for _, source := range sources {
		f.read = append(f.read, Log{Name: source.Name()})
	}
	f.number("")
	return f, nil
}

// Close closes the sources.
func (f *Fleet) Close() error {
	f.reading.Lock()
	defer f.reading.Unlock()
	var problems []error
	for _, source := range f.sources {
		problems = append(problems, source.Close())
	}
	f.sources = nil
	return errors.Join(problems...)
}

// Follow reads what there is, and again whenever it gets a tick, until ctx ends.
func (f *Fleet) Follow(ctx context.Context, ticks <-chan time.Time) {
	for ctx.Err() == nil {
		f.Refresh(ctx)
		select {
		case <-ctx.Done():
		case <-ticks:
		}
	}
}

// Changed returns a channel that is closed at the next change.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.changed
}

// Refresh reads what the sources got since the last time. What cannot be read is among the problems.
func (f *Fleet) Refresh(ctx context.Context) {
	f.reading.Lock()
	defer f.reading.Unlock()
	for i, source := range f.sources {
		for ctx.Err() == nil && !f.isFull() {
			log, more, err := source.More(ctx)
			switch {
			case ctx.Err() != nil:
			case err != nil && f.broken[i] != err.Error():
				f.broken[i] = err.Error()
				f.addProblems(1, Problem{source.Name(), err.Error()})
			case err == nil:
				delete(f.broken, i)
			}
			if !more || err != nil {
				break
			}
			f.noteMissing(i, source.Missing())
			f.readLog(ctx, i, log)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() == nil && !f.begun {
		f.begun = true
		f.tell()
	}
}

// tell says that something changed. The caller holds mu.
func (f *Fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fleet) isFull() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.full
}

func (f *Fleet) noteMissing(source int, entries uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.read[source].Missing != entries {
		f.read[source].Missing = entries
		f.tell()
	}
}

func (f *Fleet) addProblems(count int, problems ...Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keepProblems(count, problems)
	f.tell()
}

func (f *Fleet) keepProblems(count int, problems []Problem) {
	f.count += count
	f.problems = append(f.problems, problems[:min(len(problems), maxProblems-len(f.problems))]...)
}

// batch is a block of a log and what is in it.
type batch struct {
	block    requestlog.Block
	found    []found
	packed   []byte
	problems []Problem
	count    int
	done     chan struct{}
}

// found is a row whose names have no numbers yet.
type found struct {
	row
	decision                                       string // the ID of a record's
	service, enrollment, before, hub, result, rule string
	rules                                          string
}

// readLog reads a log: one goroutine cuts it into blocks, others read these, and this one puts them together in order.
func (f *Fleet) readLog(ctx context.Context, source int, log requestlog.Log) {
	reader, err := log.Reader(ctx, nil)
	if err != nil {
		if ctx.Err() == nil {
			f.addProblems(1, Problem{log.Name, err.Error()})
		}
		return
	}
	defer reader.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	order := make(chan *batch, 2*runtime.GOMAXPROCS(0)) // bounds how many blocks there are
	var unread *Problem
	go func() {
		defer close(order)
		for ctx.Err() == nil {
			b := &batch{done: make(chan struct{})}
			if err := reader.Next(&b.block); err != nil {
				if err != io.EOF && ctx.Err() == nil {
					unread = &Problem{b.block.Place(), err.Error()}
				}
				return
			}
			order <- b
			go func() {
				defer close(b.done)
				f.readBlock(ctx, b)
			}()
		}
	}()
	for b := range order {
		<-b.done
		if ctx.Err() == nil && !f.add(source, b) {
			stop()
		}
	}
	if unread != nil {
		f.addProblems(1, *unread)
	}
}

// readBlock finds the registrations in a block.
func (f *Fleet) readBlock(ctx context.Context, b *batch) {
	var texts []byte
	refuse := func(item *requestlog.Item, problem string) {
		if b.count++; len(b.problems) < maxProblems {
			b.problems = append(b.problems, Problem{item.Place(), clip(problem)})
		}
	}
	for item := range b.block.Items() {
		if ctx.Err() != nil {
			return
		}
		switch {
		case item.Kind == requestlog.OtherCall, item.Kind == requestlog.Other && item.InExport(), item.Unanswered() && item.Err == nil:
			continue
		case item.Err != nil:
			refuse(&item, item.Err.Error())
			continue
		}
		one, problem := f.find(&item)
		if problem != "" {
			refuse(&item, problem)
			continue
		}
		one.start = uint32(len(texts))
		texts = append(texts, item.Text...)
		one.end = uint32(len(texts))
		b.found = append(b.found, one)
	}
	if len(texts) > 0 {
		b.packed = bytes.Clone(f.encoder.EncodeAll(texts, make([]byte, 0, len(texts)/4)))
	}
}

// find reads what a row has of an item, in memory of its own.
func (f *Fleet) find(item *requestlog.Item) (found, string) {
	request, err := item.Parse()
	switch {
	case err != nil:
		return found{}, err.Error()
	case request.Device.RegistrationID == "":
		return found{}, "not an AllocationRequest: /deviceRuntimeContext/registrationId is missing"
	case request.Enrollment.ID == "":
		return found{}, "not an AllocationRequest: it names no enrollment"
	}
	one := found{service: clip(request.Service), enrollment: clip(request.Enrollment.ID), before: hubName(request.Device.CurrentIotHubHostName)}
	one.id = clip(request.Device.RegistrationID)
	one.key, one.place = f.keyOf(item.Device(request)), item.Place()
	one.individual, one.masked = request.Enrollment.Kind == dps.IndividualEnrollment, len(item.Masked) > 0
	if at := item.Time(); !at.IsZero() {
		one.at = at.UnixNano()
	}
	if item.Record != nil {
		one.decision = item.Record.DecisionID
	}
	if item.Then != nil {
		one.result, one.hub = string(item.Then.Result), hubName(item.Then.Response.IotHubHostName)
		one.rule, one.rules = clip(item.Then.PackageName()), clip(item.Then.Rules)
	}
	return one, ""
}

// longest bounds a name, in bytes. DPS's own are shorter.
const longest = 256

// clip returns a text in memory of its own, and the start of one that is too long.
func clip(text string) string {
	if len(text) > longest {
		return strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return strings.Clone(text)
}

// hubName is the name of a hub by which it is counted.
func hubName(host string) string { return clip(dps.HubName(host)) }

func (f *Fleet) keyOf(name string) key { return key(maphash.String(f.seed, name)) }

// add puts a batch after those before it. It reports whether there is room for more.
func (f *Fleet) add(source int, b *batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keepProblems(b.count, b.problems)
	defer f.tell()
	part := chunk{first: len(f.rows), packed: b.packed}
	for _, one := range b.found {
		if one.decision != "" {
			decision := f.keyOf(one.decision)
			if _, again := f.records[decision]; again {
				continue
			}
			f.records[decision] = struct{}{}
		}
		if len(f.rows) == MaxRegistrations {
			f.full = true
			f.keepProblems(1, []Problem{{one.place, "this is where reading ends: usher play shows no more than a million registrations, and usher replay any number"}})
			break
		}
		r := one.row
		r.chunk = uint32(len(f.chunks))
		r.service, r.enrollment = f.number(one.service), f.number(one.enrollment)
		r.before, r.hub = f.number(one.before), f.number(one.hub)
		r.result, r.rule, r.rules = f.number(one.result), f.number(one.rule), f.number(one.rules)
		f.devices[r.key] = int32(len(f.rows))
		f.rows = append(f.rows, r)
		if r.result == 0 {
			f.undecided++
		} else {
			f.recorded++
		}
		f.read[source].Registrations++
	}
	if part.end = len(f.rows); part.end > part.first {
		f.chunks = append(f.chunks, part)
	}
	return !f.full
}

// number returns the number of a name.
func (f *Fleet) number(name string) uint32 {
	n, known := f.numbers[name]
	if !known {
		n = uint32(len(f.names))
		f.names, f.numbers[name] = append(f.names, name), n
	}
	return n
}
