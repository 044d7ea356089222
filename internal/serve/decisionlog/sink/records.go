package sink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// Settings say what is recorded and where it goes.
type Settings struct {
	Sinks      []Spec // none: no records
	Sync       appender.Policy
	Spool      string // folder; empty without remote sinks
	SpoolBytes int64
	FileBytes  int64
	FileAge    time.Duration
	FileKeep   int
	IDs        decisionlog.IDMode
	IDKey      string // secret
}

// ToStdout reports whether records go to standard output.
func (s Settings) ToStdout() bool {
	return slices.ContainsFunc(s.Sinks, func(spec Spec) bool { return spec.Kind == KindStdout })
}

// RegistrationID returns how a device may be named outside of records: as it is in them.
func (s Settings) RegistrationID(id string) string {
	switch s.IDs {
	case decisionlog.Plain:
		return id
	case decisionlog.Hashed:
		return decisionlog.HashID([]byte(s.IDKey), id)
	default:
		return ""
	}
}

// Options configure [Open]. All of them are required.
type Options struct {
	Settings
	Log    *slog.Logger
	Stdout io.Writer
	// Getenv returns the environment variables of OpenTelemetry and of Azure.
	Getenv func(string) string
	// Credential is called for a sink in Blob Storage.
	Credential func() (azcore.TokenCredential, error)
}

// Records records each decision in all sinks, counts what the sinks take, and logs alarms.
type Records struct {
	recorder *decisionlog.Recorder // nil without sinks
	local    []*counted
	files    []*File
	spools   []*spool.Spool
	failed   atomic.Uint64 // records that could not be made
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

// Open opens all sinks. It calls no remote one, so none of them has to be reachable: its spool fills.
func Open(options Options) (*Records, error) {
	r := &Records{alarms: alarms{log: options.Log, last: map[string]*alarm{}}}
	if len(options.Sinks) == 0 {
		return r, nil
	}
	var sinks []decisionlog.Sink
	for _, spec := range options.Sinks {
		s, err := r.open(spec, options)
		if err != nil {
			r.Close()
			return nil, err
		}
		sinks = append(sinks, s)
	}
	var err error
	r.recorder, err = decisionlog.New(decisionlog.Options{
		Sinks: sinks, RegistrationIDs: options.IDs, HashKey: []byte(options.IDKey),
		Failed: func(name string, err error) {
			if name == "" {
				r.failed.Add(1)
				name = "recorder"
			}
			r.alarms.raise("record lost", name, err)
		},
	})
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Records) open(spec Spec, options Options) (decisionlog.Sink, error) {
	spooled := spool.Options{
		Name: string(spec.Kind), Folder: filepath.Join(options.Spool, spec.folder()), MaxBytes: options.SpoolBytes, Sync: options.Sync,
		Failed: func(err error) {
			message := "records wait"
			if _, refused := errors.AsType[*spool.Refusal](err); refused {
				message = "record lost"
			}
			r.alarms.raise(message, string(spec.Kind), err)
		},
	}
	switch spec.Kind {
	case KindBlob:
		credential, err := options.Credential()
		if err != nil {
			return nil, err
		}
		blob, err := NewBlob(BlobOptions{Container: spec.Target, Credential: credential, Instance: instanceName(options.Getenv)})
		if err != nil {
			return nil, err
		}
		spooled.Deliver, spooled.Linger = blob.Deliver, BlobLinger
		spooled.BatchRecords, spooled.BatchBytes = 10_000, BlobBatchBytes
	case KindOTLP:
		collector, err := NewOTLP(options.Getenv)
		if err != nil {
			return nil, err
		}
		spooled.Deliver, spooled.Linger = collector.Deliver, OTLPLinger
	case KindFile:
		file, err := OpenFile(FileOptions{
			Path: spec.Target, MaxBytes: options.FileBytes, MaxAge: options.FileAge, Keep: options.FileKeep, Sync: options.Sync,
			Failed: func(err error) { r.alarms.raise("record file in trouble", spec.Target, err) },
		})
		if err != nil {
			return nil, err
		}
		r.files = append(r.files, file)
		return r.count(file), nil
	default:
		return r.count(NewLines(string(spec.Kind), options.Stdout)), nil
	}
	s, err := spool.Open(spooled)
	if err != nil {
		return nil, fmt.Errorf("%w (USHER_RECORD_SPOOL)", err)
	}
	r.spools = append(r.spools, s)
	return s, nil
}

func (r *Records) count(s decisionlog.Sink) *counted {
	c := &counted{Sink: s}
	r.local = append(r.local, c)
	return c
}

// folder is the name of the sink's folder in that of the spools. Another target has another folder, so that its records
// do not go to the wrong place.
func (s Spec) folder() string {
	target := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' {
			return c
		}
		return '_'
	}, strings.ToLower(strings.TrimPrefix(s.Target, "https://")))
	return strings.TrimSuffix(string(s.Kind)+"-"+target, "-")
}

// instanceName distinguishes the machines on which the webhook runs, and their processes: an identity that may only
// append cannot see whether a blob of that name exists.
func instanceName(getenv func(string) string) string {
	name := getenv("WEBSITE_INSTANCE_ID") // Azure's; 64 digits
	if name == "" {
		name, _ = os.Hostname()
	}
	return name[:min(len(name), 16)] + "-" + strings.ToLower(rand.Text()[:8])
}

// Observe is an [answer.Observer]. It also records decisions that are not sent, such as those of shadow rules.
func (r *Records) Observe(ctx context.Context, call *answer.Call) {
	if r.recorder != nil {
		r.recorder.Observe(ctx, call)
	}
}

// States returns the state of each sink, for the metrics.
func (r *Records) States() []telemetry.Records {
	var states []telemetry.Records
	for _, c := range r.local {
		states = append(states, telemetry.Records{Sink: c.Name(), Written: c.written.Load(), Dropped: c.dropped.Load()})
	}
	for _, s := range r.spools {
		stats := s.Stats()
		states = append(states, telemetry.Records{
			Sink: s.Name(), Written: uint64(stats.Written), Delivered: uint64(stats.Delivered),
			// Everything that is lost, whatever the reason.
			Dropped:  uint64(stats.Dropped + stats.Refused + stats.Damaged),
			Failures: uint64(stats.Failures), Spooled: uint64(max(0, stats.Pending)), Oldest: stats.OldestAge,
		})
	}
	if n := r.failed.Load(); n > 0 {
		states = append(states, telemetry.Records{Sink: "recorder", Dropped: n})
	}
	return states
}

// closeTimeout bounds the wait for remote sinks at the end. What they have not taken by then stays in the spool.
const closeTimeout = 3 * time.Second

// Close delivers what waits, for a few seconds at most, and closes all sinks.
func (r *Records) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
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

// alarmInterval is how often the same alarm is logged. Metrics count each.
const alarmInterval = time.Minute

// alarms logs an alarm at once, and while it goes on once in a while.
type alarms struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]*alarm
}

type alarm struct {
	logged time.Time
	times  int // since then
}

func (a *alarms) raise(message, sink string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := message + "\x00" + sink
	if a.last[key] == nil {
		a.last[key] = new(alarm)
	}
	last := a.last[key]
	last.times++
	if now := time.Now(); last.logged.IsZero() || now.Sub(last.logged) >= alarmInterval {
		a.log.Error(message, "sink", sink, "error", err.Error(), "times", last.times)
		last.logged, last.times = now, 0
	}
}
