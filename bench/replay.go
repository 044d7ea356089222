package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// requestLog returns a log with n lines that it generates while it is read, the same each time: the request of a
// workload, each time for another device, three quarters of which are on a hub.
func requestLog(body []byte, n int) (io.Reader, error) {
	const id = `"registrationId":"breakroom499-contoso-tstrsd-007"`
	before, after, found := bytes.Cut(body, []byte(id))
	if !found {
		return nil, fmt.Errorf("the workload's request has no %s", id)
	}
	reader, pipe := io.Pipe()
	go func() {
		log := bufio.NewWriterSize(pipe, 1<<16)
		var line []byte
		for i := range n {
			line = append(append(line[:0], before...), `"registrationId":"device-`...)
			line = append(strconv.AppendInt(line, int64(i), 10), '"')
			if i%4 != 0 {
				line = append(append(append(line, `,"currentIotHubHostName":"`...), hubLabels[i/4%4]...), hubSuffix+`"`...)
			}
			line = append(append(line, after...), '\n')
			_, _ = log.Write(line)
		}
		pipe.CloseWithError(log.Flush())
	}()
	return reader, nil
}

// memory is the median of the live heap that the collector found, and the most that the process held. The second varies
// with the timing of the collector, and more so the longer a run is: the first shows whether memory is flat.
type memory struct{ live, resident float64 }

func watchMemory() (stop func() memory) {
	ended, result := make(chan struct{}), make(chan memory)
	go func() {
		used := memory{}
		var lives []float64
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			metrics.Read(sample)
			lives = append(lives, float64(sample[0].Value.Uint64()))
			if resident, _, err := residentMemory(os.Getpid()); err == nil {
				used.resident = max(used.resident, float64(resident))
			}
			select {
			case <-ended:
				used.live = median(lives)
				result <- used
				return
			case <-ticker.C:
			}
		}
	}()
	return func() memory {
		close(ended)
		return <-result
	}
}

// replays compares a replay with only the evaluation of the rule, which no replay can do without.
func replays(ctx context.Context, b bench) error {
	usher, err := newDecider(ctx, b.rules)
	if err != nil {
		return err
	}
	rules, err := ruleset.Load(ctx, os.DirFS(b.rules), ruleset.Options{})
	if err != nil {
		return err
	}
	t := newTable("usher replay of generated requests, all processors",
		"rule", "registrations", "per second", "goal", "CPU of one", "of the bare rule", "ratio", "live heap", "resident at most")
	for _, c := range []struct {
		workload, goal string
		registrations  int
		byDevice       bool
	}{
		{"trivial", "", 100_000, false},
		{"mediumt", "", 100_000, false},
		{"mediumt", "≥ 110000, memory flat", 1_000_000, false},
		{"mediumt", "(--by-device)", 1_000_000, true},
		{"larget", "", 100_000, false},
	} {
		body := b.requests[c.workload]
		request, err := dps.ParseAllocationRequest(body)
		if err != nil {
			return err
		}
		rule := rules.Serving(request.Enrollment)
		bare, err := b.median(func() (float64, error) {
			return perCall(func() error { _, err := rule.Evaluate(ctx, request.Body(), ruleset.Outside{}); return err })
		})
		if err != nil {
			return err
		}
		log, err := requestLog(body, c.registrations)
		if err != nil {
			return err
		}
		debug.FreeOSMemory()
		stop := watchMemory()
		start, used := time.Now(), cpuSeconds()
		report, err := replay.Run(ctx, []requestlog.Log{requestlog.Stream("generated", log)},
			replay.Options{Rules: usher, Examples: 10, ByDevice: c.byDevice})
		took := time.Since(start)
		used = cpuSeconds() - used
		held := stop()
		if err != nil {
			return err
		}
		if got := report.Registrations; got != int64(c.registrations) || report.Malformed > 0 {
			return fmt.Errorf("%s: %d of %d registrations were replayed; malformed: %v", c.workload, got, c.registrations, report.MalformedFirst)
		}
		each := used / float64(c.registrations)
		megabytes := func(bytes float64) string { return fmt.Sprintf("%.1f MB", bytes/1e6) }
		t.add(c.workload, fmt.Sprint(c.registrations), fmt.Sprintf("%.0f", float64(c.registrations)/took.Seconds()), c.goal,
			micro(each), micro(bare), ratio(each/bare), megabytes(held.live), megabytes(held.resident))
	}
	return t.Flush()
}

// verifies searches the starter rules, as `usher verify` does: those without look-ups, which the goal is about, and all.
func verifies(ctx context.Context, b bench) error {
	t := newTable("usher verify of the starter rules, all processors", "rules", "requests", "time", "goal", "CPU", "of a request", "broken promises", "goal")
	for _, c := range []struct {
		name, goal string
		all        bool
	}{{"without look-ups", "≤ 2 s", false}, {"all", "", true}} {
		files := os.DirFS(filepath.Join(b.repository, "rules"))
		start, used := time.Now(), cpuSeconds()
		rules, err := decider.LoadRules(ctx, files, decider.RulesOptions{Name: "rules"})
		if err != nil {
			return err
		}
		var only []string
		for _, rule := range rules.All() {
			if c.all || !rule.LooksUp() {
				only = append(only, rule.Package)
			}
		}
		report, err := verify.Run(ctx, verify.Options{Rules: rules, Files: files, Only: only, Seed: 1})
		if err != nil {
			return err
		}
		took := time.Since(start)
		used = cpuSeconds() - used
		requests := 0
		for _, rule := range report.Rules {
			requests += rule.Space.Asked
		}
		t.add(fmt.Sprintf("%d, %s", len(only), c.name), fmt.Sprint(requests), fmt.Sprintf("%.1f s", took.Seconds()), c.goal, fmt.Sprintf("%.1f s", used),
			micro(used/float64(requests)), fmt.Sprint(report.Broken()), "0")
	}
	return t.Flush()
}
