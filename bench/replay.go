package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// requestLog generates a log as it is read, the same each time: the request of a
// workload, line by line for another device, three of four of them on a hub.
type requestLog struct {
	before, after []byte // around the registration ID and the current hub
	next, end     int
	line          []byte // what is left of the current one
	buffer        []byte
}

func newRequestLog(body []byte, n int) (*requestLog, error) {
	const id = `"registrationId":"breakroom499-contoso-tstrsd-007"`
	before, after, found := bytes.Cut(body, []byte(id))
	if !found {
		return nil, fmt.Errorf("the workload's request has no %s", id)
	}
	return &requestLog{before: append(bytes.Clone(before), `"registrationId":"`...), after: append(bytes.Clone(after), '\n'), end: n}, nil
}

func (l *requestLog) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(l.line) == 0 {
			if l.next == l.end {
				break
			}
			l.line = l.write()
		}
		copied := copy(p[n:], l.line)
		l.line = l.line[copied:]
		n += copied
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// write makes the next line.
func (l *requestLog) write() []byte {
	line := append(append(l.buffer[:0], l.before...), "device-"...)
	line = append(strconv.AppendInt(line, int64(l.next), 10), '"')
	if l.next%4 != 0 {
		line = append(append(append(line, `,"currentIotHubHostName":"`...), hubLabel(l.next/4%4)...), hubSuffix+`"`...)
	}
	l.buffer = append(line, l.after...)
	l.next++
	return l.buffer
}

// memory is what the collector found in use, the median of all samples, and the
// most that the process held. The second swings with the collector's timing, and
// the more the longer a run is: whether memory is flat, the first tells.
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
			used.resident = max(used.resident, residentBytes())
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

// residentBytes is what this process has in memory, 0 where the system does not tell.
func residentBytes() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, value, _ := strings.Cut(string(status), "VmRSS:")
	var kilobytes float64
	if _, err := fmt.Sscan(value, &kilobytes); err != nil {
		return 0
	}
	return kilobytes * 1024
}

// replays measures a replay beside the evaluation of the rule alone, which is
// what no replay can do without.
func replays(ctx context.Context, b bench) error {
	allocator, err := newAllocator(ctx, b.rules, false)
	if err != nil {
		return err
	}
	rules, err := ruleset.Load(ctx, os.DirFS(b.rules), ruleset.Options{})
	if err != nil {
		return err
	}
	t := table{title: "usher replay of generated requests, all processors"}
	t.add("rule", "registrations", "per second", "goal", "CPU of one", "of the bare rule", "ratio", "goal", "live heap", "resident at most")
	for _, c := range []struct {
		workload, goal, ratio string
		registrations         int
		byDevice              bool
	}{
		{"trivial", "", "", 100_000, false},
		{"mediumt", "≥ 24000", "≤ 1.9", 100_000, false},
		{"mediumt", "≥ 24000, memory flat", "≤ 1.9", 1_000_000, false},
		{"mediumt", "(--by-device)", "", 1_000_000, true},
		{"larget", "", "", 100_000, false},
	} {
		body, err := b.body(c.workload)
		if err != nil {
			return err
		}
		request, err := dps.ParseAllocationRequest(body)
		if err != nil {
			return err
		}
		rule := rules.ForGroup(request.Enrollment.ID)
		var bares []float64
		for range b.rounds {
			bare, err := perCall(func() error { _, err := rule.Evaluate(ctx, request.Document); return err })
			if err != nil {
				return err
			}
			bares = append(bares, bare)
		}
		log, err := newRequestLog(body, c.registrations)
		if err != nil {
			return err
		}
		debug.FreeOSMemory()
		stop := watchMemory()
		start, used := time.Now(), cpuSeconds()
		report, err := replay.Run(ctx, []requestlog.Log{requestlog.Stream("generated", log)},
			replay.Options{Rules: allocator, Examples: 10, ByDevice: c.byDevice})
		took := time.Since(start)
		used = cpuSeconds() - used
		held := stop()
		if err != nil {
			return err
		}
		if got := report.Registrations; got != int64(c.registrations) || report.Malformed > 0 {
			return fmt.Errorf("%s: %d of %d registrations were replayed; malformed: %v", c.workload, got, c.registrations, report.MalformedFirst)
		}
		each, bare := used/float64(c.registrations), median(bares)
		megabytes := func(bytes float64) string { return fmt.Sprintf("%.1f MB", bytes/1e6) }
		t.add(c.workload, fmt.Sprint(c.registrations), fmt.Sprintf("%.0f", float64(c.registrations)/took.Seconds()), c.goal,
			micro(each), micro(bare), ratio(each/bare), c.ratio, megabytes(held.live), megabytes(held.resident))
	}
	t.print()
	return nil
}

// body is the request of a workload.
func (b bench) body(name string) ([]byte, error) {
	for _, w := range b.workloads {
		if w.name == name {
			return w.body, nil
		}
	}
	return nil, fmt.Errorf("there is no workload %s", name)
}
