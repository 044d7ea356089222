package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/operate/azureauth"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// records keep each decision on record.
type records struct {
	recorder *decisionlog.Recorder // nil without sinks
	local    []*counted
	files    []*sink.File
	spools   []*spool.Spool
	unmade   atomic.Uint64 // records that could not be made
	alarms   alarms
}

// counted counts what a local sink takes.
type counted struct {
	decisionlog.Sink
	written, dropped atomic.Uint64
}

func (c *counted) Write(record []byte) error {
	err := c.Sink.Write(record)
	if err != nil {
		c.dropped.Add(1)
	} else {
		c.written.Add(1)
	}
	return err
}

// openRecords opens all sinks. Nothing is sent to one that is away yet, and it need
// not be there: its spool fills.
func openRecords(settings recordSettings, getenv func(string) string, stdout io.Writer, log *slog.Logger) (*records, error) {
	r := &records{alarms: alarms{log: log, last: map[string]*alarm{}}}
	if len(settings.Sinks) == 0 {
		return r, nil
	}
	var sinks []decisionlog.Sink
	for _, spec := range settings.Sinks {
		s, err := r.openSink(spec, settings, getenv, stdout)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("%s: %w", settingRecordSinks, err)
		}
		sinks = append(sinks, s)
	}
	var err error
	r.recorder, err = decisionlog.New(decisionlog.Options{
		Sinks: sinks, RegistrationIDs: settings.IDs, HashKey: []byte(settings.IDKey),
		Failed: func(name string, err error) {
			if name == "" {
				r.unmade.Add(1)
				name = "recorder"
			}
			r.alarms.raise("record lost", name, err)
		},
	})
	if err != nil {
		r.close()
		return nil, fmt.Errorf("%s: %w", settingRecordIDs, err)
	}
	return r, nil
}

func (r *records) openSink(spec sink.Spec, settings recordSettings, getenv func(string) string, stdout io.Writer) (decisionlog.Sink, error) {
	options := spool.Options{
		Name: string(spec.Kind), Folder: filepath.Join(settings.Spool, spoolFolder(spec)), MaxBytes: settings.SpoolBytes, Sync: settings.Sync,
		Failed: func(err error) {
			message := "records wait"
			if _, refused := errors.AsType[*spool.Refusal](err); refused {
				message = "record lost"
			}
			r.alarms.raise(message, string(spec.Kind), err)
		},
	}
	switch spec.Kind {
	case sink.KindBlob:
		credential, err := azureauth.Credential(getenv)
		if err != nil {
			return nil, err
		}
		blob, err := sink.NewBlob(sink.BlobOptions{Container: spec.Target, Credential: credential, Instance: instanceName(getenv)})
		if err != nil {
			return nil, err
		}
		options.Deliver, options.Linger = blob.Deliver, sink.BlobLinger
		options.BatchRecords, options.BatchBytes = 10_000, sink.BlobBatchBytes
	case sink.KindOTLP:
		collector, err := sink.NewOTLP(getenv)
		if err != nil {
			return nil, err
		}
		options.Deliver, options.Linger = collector.Deliver, sink.OTLPLinger
	case sink.KindFile:
		file, err := sink.OpenFile(sink.FileOptions{
			Path: spec.Target, MaxBytes: settings.FileBytes, MaxAge: settings.FileAge, Keep: settings.FileKeep, Sync: settings.Sync,
			Failed: func(err error) { r.alarms.raise("record file in trouble", spec.Target, err) },
		})
		if err != nil {
			return nil, err
		}
		r.files = append(r.files, file)
		return r.count(file), nil
	default:
		return r.count(sink.NewLines(string(spec.Kind), stdout)), nil
	}
	s, err := spool.Open(options)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, settingRecordSpool)
	}
	r.spools = append(r.spools, s)
	return s, nil
}

func (r *records) count(s decisionlog.Sink) *counted {
	c := &counted{Sink: s}
	r.local = append(r.local, c)
	return c
}

// instanceName tells the machines apart on which the webhook runs, and their processes: an
// identity that may append and no more is not told whether a blob of that name exists.
func instanceName(getenv func(string) string) string {
	name := getenv("WEBSITE_INSTANCE_ID") // Azure's; 64 digits
	if name == "" {
		name, _ = os.Hostname()
	}
	return name[:min(len(name), 16)] + "-" + strings.ToLower(rand.Text()[:8])
}

// observers record an allocation. Where no record goes to standard output, there is a log line
// for each in its place; but not where registration IDs are to be hidden, for it shows them.
func (r *records) observers(settings recordSettings, log *slog.Logger) []answer.Observer {
	observers := []answer.Observer{r.observe}
	if !settings.toStdout() && settings.IDs == decisionlog.Plain {
		observers = append(observers, answer.LogCalls(log))
	}
	return observers
}

// observe is a [answer.Observer], also of decisions that are not answered, such as those of shadow rules.
func (r *records) observe(ctx context.Context, a *answer.Call) {
	if r.recorder != nil {
		r.recorder.Observe(ctx, a)
	}
}

// states are for the metrics.
func (r *records) states() []telemetry.Records {
	var states []telemetry.Records
	for _, c := range r.local {
		states = append(states, telemetry.Records{Sink: c.Name(), Written: c.written.Load(), Dropped: c.dropped.Load()})
	}
	for _, s := range r.spools {
		stats := s.Stats()
		states = append(states, telemetry.Records{
			Sink: s.Name(), Written: uint64(stats.Written), Delivered: uint64(stats.Delivered),
			// All that is lost, whatever the reason.
			Dropped:  uint64(stats.Dropped + stats.Refused + stats.Damaged),
			Failures: uint64(stats.Failures), Spooled: uint64(max(0, stats.Pending)), Oldest: stats.OldestAge,
		})
	}
	if n := r.unmade.Load(); n > 0 {
		states = append(states, telemetry.Records{Sink: "recorder", Dropped: n})
	}
	return states
}

// recordsFlush is how long the end may wait for remote sinks. What they do not take by
// then stays in the spool.
const recordsFlush = 3 * time.Second

func (r *records) close() {
	ctx, cancel := context.WithTimeout(context.Background(), recordsFlush)
	defer cancel()
	for _, s := range r.spools {
		if err := s.Close(ctx); err != nil {
			r.alarms.raise("records wait", s.Name(), err)
		}
	}
	for _, f := range r.files {
		if err := f.Close(); err != nil {
			r.alarms.raise("record file in trouble", f.Name(), err)
		}
	}
}

// alarmInterval is how often the same trouble is told. Metrics count each.
const alarmInterval = time.Minute

// alarms tell of trouble at once, and then once in a while, however often it comes.
type alarms struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]*alarm
}

type alarm struct {
	told  time.Time
	times int // since then
}

func (a *alarms) raise(message, sink string, err error) {
	a.mu.Lock()
	key := message + "\x00" + sink
	if a.last[key] == nil {
		a.last[key] = new(alarm)
	}
	last := a.last[key]
	last.times++
	if !last.told.IsZero() && time.Since(last.told) < alarmInterval {
		a.mu.Unlock()
		return
	}
	times := last.times
	last.told, last.times = time.Now(), 0
	a.mu.Unlock()
	a.log.Error(message, "sink", sink, "error", err.Error(), "times", times)
}
