package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// recording is one way to keep decisions on record, and what was measured of it.
type recording struct {
	name, goal  string
	environment []string
	server      *server
	lines       atomic.Int64 // on standard output
	asked       int
	halves      []float64 // p50 of each round, in seconds
	tails       []float64 // p99 likewise
	rates       []float64
	cpu         float64 // in seconds, of the requests made at full load
	made        int
}

// Write takes standard output, as the Functions host does.
func (r *recording) Write(text []byte) (int, error) {
	r.lines.Add(int64(bytes.Count(text, []byte("\n"))))
	return len(text), nil
}

// records compares ways to keep decisions on record. All servers run side by side, and
// are asked in turn, half a second each, and the medians of all turns count: whatever else the
// machine does hits them alike, and a p99 over all turns would be that of its worst moment.
func records(ctx context.Context, b bench) error {
	var collected atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		collected.Add(1)
	}))
	defer collector.Close()
	otlp := func(folder, sync string) []string {
		return []string{"USHER_LOG_LEVEL=error", "USHER_RECORD_SINKS=otlp", "USHER_RECORD_SYNC=" + sync, "USHER_RECORD_SPOOL=" + filepath.Join(b.scratch, folder),
			"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=" + collector.URL + "/v1/logs"}
	}
	ways := []*recording{
		{name: "none, and no log", environment: []string{"USHER_LOG_LEVEL=error", "USHER_RECORD_SINKS=none"}},
		{name: "none, a log line each", environment: []string{"USHER_RECORD_SINKS=none"}},
		{name: "stdout", goal: atMost(1.1), environment: []string{"USHER_LOG_LEVEL=error", "USHER_RECORD_SINKS=stdout"}},
		{name: "file, interval", environment: []string{"USHER_LOG_LEVEL=error", "USHER_RECORD_SINKS=file:" + filepath.Join(b.scratch, "records.ndjson")}},
		{name: "otlp, interval", environment: otlp("interval", "interval")},
		{name: "otlp, always", environment: otlp("always", "always")},
	}
	w := b.workloads[slices.Index(workloadNames, "mediumt")]
	for _, way := range ways {
		var err error
		environment := append([]string{"USHER_RULES=" + b.rules, "GOMAXPROCS=1"}, way.environment...)
		if way.server, err = launch(ctx, []string{b.handler}, environment, w.body, way); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		defer way.server.stop()
	}
	for round := range 2 * b.rounds {
		for i := range ways {
			way := ways[(i+round)%len(ways)]
			waits, err := way.server.open(400, 500*time.Millisecond, w.body)
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			way.asked += len(waits)
			way.halves = append(way.halves, percentile(waits, 0.5).Seconds())
			way.tails = append(way.tails, percentile(waits, 0.99).Seconds())
		}
	}
	for round := range b.rounds {
		for i := range ways {
			way := ways[(i+round)%len(ways)]
			before, err := way.server.cpu()
			if err != nil {
				return err
			}
			begin := time.Now()
			made, err := way.server.closed(16, 500*time.Millisecond, w.body)
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			way.rates = append(way.rates, float64(made)/time.Since(begin).Seconds())
			after, err := way.server.cpu()
			if err != nil {
				return err
			}
			way.cpu, way.made = way.cpu+after-before, way.made+made
		}
	}
	t := table{title: "Records (mediumt, one processor for the server), and ratios to none as it can be set, with a log line for each call: waiting times at 400 requests/s; requests/s and CPU per request of 16 connections"}
	t.add("records", "p50", "ratio", "p99", "ratio", "goal", "requests/s", "ratio", "CPU", "ratio")
	none := ways[1] // what USHER_RECORD_SINKS=none gives; no log at all is less than anybody runs with
	for _, way := range ways {
		to := func(of, floor []float64) string { return ratio(median(of) / median(floor)) }
		t.add(way.name, micro(median(way.halves)), to(way.halves, none.halves), micro(median(way.tails)), to(way.tails, none.tails), way.goal,
			fmt.Sprintf("%.0f", median(way.rates)), to(way.rates, none.rates),
			micro(way.cpu/float64(way.made)), ratio(way.cpu/float64(way.made)/(none.cpu/float64(none.made))))
	}
	t.print()
	if stdout := ways[2].lines.Load(); stdout < int64(ways[2].asked) || ways[0].lines.Load() > 10 || collected.Load() == 0 {
		return fmt.Errorf("of %d requests at least, %d records went to standard output; %d lines without records; %d deliveries to the collector",
			ways[2].asked, stdout, ways[0].lines.Load(), collected.Load())
	}
	return nil
}
