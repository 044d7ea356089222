package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// recording is a way to record decisions, with its measurements.
type recording struct {
	name, goal  string
	environment []string
	server      *server
	lines       atomic.Int64 // on standard output
	requests    int
	medians     []float64 // p50 of each round, in seconds
	tails       []float64 // p99 of each round, in seconds
	rates       []float64 // requests/s at full load
	cpu         float64   // in seconds, for the requests at full load
	made        int       // requests at full load
}

// Write receives standard output, as the Functions host does.
func (r *recording) Write(text []byte) (int, error) {
	r.lines.Add(int64(bytes.Count(text, []byte("\n"))))
	return len(text), nil
}

// records compares ways to record decisions. All servers run side by side. They get requests in turn, half a second
// each, and the medians of all turns count: whatever else the machine does affects them alike, and a p99 over all turns
// would be that of the worst moment.
func records(ctx context.Context, b bench) error {
	var collected atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		collected.Add(1)
	}))
	defer collector.Close()
	const quiet = "USHER_LOG_LEVEL=error"
	otlp := func(sync string) []string {
		return []string{quiet, "USHER_RECORD_SINKS=otlp", "USHER_RECORD_SYNC=" + sync, "USHER_RECORD_SPOOL=" + filepath.Join(b.scratch, sync),
			"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=" + collector.URL + "/v1/logs"}
	}
	ways := []*recording{
		{name: "none, and no log", environment: []string{quiet, "USHER_RECORD_SINKS=none"}},
		{name: "none, a log line each", environment: []string{"USHER_RECORD_SINKS=none"}},
		{name: "stdout", goal: "≤ 1.1", environment: []string{quiet, "USHER_RECORD_SINKS=stdout"}},
		{name: "file, interval", environment: []string{quiet, "USHER_RECORD_SINKS=file:" + filepath.Join(b.scratch, "records.ndjson")}},
		{name: "otlp, interval", environment: otlp("interval")},
		{name: "otlp, always", environment: otlp("always")},
	}
	body := b.requests["mediumt"]
	for _, way := range ways {
		var err error
		environment := append([]string{"USHER_RULES=" + b.rules, "GOMAXPROCS=1"}, way.environment...)
		if way.server, err = start(ctx, []string{b.handler}, environment, body, way); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		defer way.server.stop()
	}
	inTurn := func(rounds int, measure func(*recording) error) error {
		for round := range rounds {
			for i := range ways {
				way := ways[(i+round)%len(ways)]
				if err := measure(way); err != nil {
					return fmt.Errorf("%s: %w", way.name, err)
				}
			}
		}
		return nil
	}
	err := inTurn(2*b.rounds, func(way *recording) error {
		waits, err := way.server.openLoop(400, 500*time.Millisecond, body)
		if err != nil {
			return err
		}
		way.requests += len(waits)
		way.medians = append(way.medians, percentile(waits, 0.5).Seconds())
		way.tails = append(way.tails, percentile(waits, 0.99).Seconds())
		return nil
	})
	if err != nil {
		return err
	}
	err = inTurn(b.rounds, func(way *recording) error {
		begin := time.Now()
		made, cpu, err := way.server.fullLoad(500*time.Millisecond, body)
		way.rates = append(way.rates, float64(made)/time.Since(begin).Seconds())
		way.cpu, way.made = way.cpu+cpu, way.made+made
		return err
	})
	if err != nil {
		return err
	}
	t := newTable("Records (mediumt, one processor for the server), and ratios to the webhook without records but with a log line for each call: waiting times at 400 requests/s; requests/s and CPU per request of 16 connections",
		"records", "p50", "ratio", "p99", "ratio", "goal", "requests/s", "ratio", "CPU", "ratio")
	none := ways[1] // the setting USHER_RECORD_SINKS=none; no one runs without any log
	for _, way := range ways {
		to := func(of, floor []float64) string { return ratio(median(of) / median(floor)) }
		t.add(way.name, micro(median(way.medians)), to(way.medians, none.medians), micro(median(way.tails)), to(way.tails, none.tails), way.goal,
			fmt.Sprintf("%.0f", median(way.rates)), to(way.rates, none.rates),
			micro(way.cpu/float64(way.made)), ratio(way.cpu/float64(way.made)/(none.cpu/float64(none.made))))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if stdout := ways[2].lines.Load(); stdout < int64(ways[2].requests) || ways[0].lines.Load() > 10 || collected.Load() == 0 {
		return fmt.Errorf("of at least %d requests, %d records went to standard output; %d lines without records; %d deliveries to the collector",
			ways[2].requests, stdout, ways[0].lines.Load(), collected.Load())
	}
	return b.recordsAlone(ctx)
}

// nowhere is a sink that keeps nothing.
type nowhere struct{}

func (nowhere) Name() string       { return "nowhere" }
func (nowhere) Write([]byte) error { return nil }

// recordsAlone measures what it takes to make a record and to encode it.
func (b bench) recordsAlone(ctx context.Context) error {
	usher, err := newDecider(ctx, b.rules)
	if err != nil {
		return err
	}
	var failed error
	recorder, err := decisionlog.New(decisionlog.Options{Sinks: []decisionlog.Sink{nowhere{}}, Failed: func(_ string, err error) { failed = err }})
	if err != nil {
		return err
	}
	t := newTable("A record, without its sink", "rule", "CPU", "goal")
	for _, name := range workloads {
		call := answer.Call{DecisionID: "Z5HIA4GAFA4TITKKBIRXYQWRVI", Start: time.Now()}
		call.Request, call.Answer = usher.AllocateJSON(ctx, b.requests[name])
		cost, err := b.median(func() (float64, error) {
			return perCall(func() error {
				recorder.Observe(ctx, &call)
				return failed
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t.add(name, micro(cost), "≤ 6 µs")
	}
	return t.Flush()
}
