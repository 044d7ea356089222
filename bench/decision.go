package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// cpuSeconds is what this process has used so far, the collector included.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}

// perCall returns the CPU seconds of one call, over at least 100 ms of them.
func perCall(call func() error) (float64, error) {
	runtime.GC()
	start := cpuSeconds()
	for n := 1; ; n++ {
		if err := call(); err != nil {
			return 0, err
		}
		if n%64 == 0 {
			if used := cpuSeconds() - start; used > 0.1 {
				return used / float64(n), nil
			}
		}
	}
}

func newAllocator(ctx context.Context, folder string, lazy bool) (*decider.Decider, error) {
	rules, err := decider.LoadRules(ctx, os.DirFS(folder), decider.RulesOptions{Name: folder, Lazy: lazy})
	if err != nil {
		return nil, err
	}
	return decider.New(decider.Options{Rules: rules})
}

// decide is a whole decision, bytes in and bytes out.
func decide(ctx context.Context, a *decider.Decider, body []byte) error {
	_, decided := a.AllocateJSON(ctx, body)
	if decided.Result != answer.Assigned {
		return errors.New(decided.Summary())
	}
	var few [2048]byte
	_ = decided.Response.AppendJSON(few[:0])
	return nil
}

// decisions compares the whole decision with the naive one.
func decisions(ctx context.Context, b bench) error {
	allocator, err := newAllocator(ctx, b.rules, false)
	if err != nil {
		return err
	}
	floor, err := newNaive(b.rules)
	if err != nil {
		return err
	}
	goals := map[string]float64{"tutorial": 0.35, "mediumt": 0.35, "large": 0.55}
	t := table{title: "The whole decision, CPU, as a ratio to the same libraries used naively"}
	t.add("rule", "naive", "usher", "ratio", "goal")
	for _, w := range b.workloads {
		var naives, ours, ratios []float64
		for range b.rounds {
			n, err := perCall(func() error { _, err := floor.decide(ctx, w.body); return err })
			if err != nil {
				return fmt.Errorf("naive %s: %w", w.name, err)
			}
			u, err := perCall(func() error { return decide(ctx, allocator, w.body) })
			if err != nil {
				return fmt.Errorf("usher %s: %w", w.name, err)
			}
			naives, ours, ratios = append(naives, n), append(ours, u), append(ratios, u/n)
		}
		goal := ""
		if g, ok := goals[w.name]; ok {
			goal = atMost(g)
		}
		t.add(w.name, micro(median(naives)), micro(median(ours)), ratio(median(ratios)), goal)
	}
	t.print()
	return nil
}

// library measures decisions per second on all processors, as replay and
// verify make them.
func library(ctx context.Context, b bench) error {
	allocator, err := newAllocator(ctx, b.rules, false)
	if err != nil {
		return err
	}
	t := table{title: "Straight through the library, all processors"}
	t.add("rule", "decisions/s", "goal", "memory after a tenth", "memory at the end")
	for _, w := range b.workloads {
		var made atomic.Int64
		var failure atomic.Pointer[error]
		memory := func() string {
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return fmt.Sprintf("%.0f MB", float64(stats.Sys-stats.HeapReleased)/(1<<20))
		}
		const length = 3 * time.Second
		start := time.Now()
		var group sync.WaitGroup
		for range runtime.NumCPU() {
			group.Go(func() {
				for time.Since(start) < length {
					if err := decide(ctx, allocator, w.body); err != nil {
						failure.Store(&err)
						return
					}
					made.Add(1)
				}
			})
		}
		time.Sleep(length / 10)
		early := memory()
		group.Wait()
		if failed := failure.Load(); failed != nil {
			return *failed
		}
		goal := ""
		if w.name == "mediumt" {
			goal = "≥ 24000"
		}
		t.add(w.name, fmt.Sprintf("%.0f", float64(made.Load())/time.Since(start).Seconds()), goal, early, memory())
	}
	t.print()
	return nil
}

// manyRules lays out n packages, each serving an enrollment group of its own.
func manyRules(n int) map[string][]byte {
	const text = `# METADATA
# title: Rule %[1]d
# custom:
#   enrollment_groups: [group-%[1]d]
package allocation.rule%[1]d

hub := input.linkedHubs[%[2]d] if input.deviceRuntimeContext.payload.site != "site-%[1]d"

initial_twin := {"tags": {"rule": %[1]d}}
`
	files := map[string][]byte{}
	for i := range n {
		files[fmt.Sprintf("rule%d/rule.rego", i)] = fmt.Appendf(nil, text, i, i%4)
	}
	return files
}

// bodiesFor makes requests of many enrollments, out of the trivial one.
func bodiesFor(b bench, n int) [][]byte {
	bodies := make([][]byte, 0, n)
	template := string(b.workloads[0].body)
	for i := range n {
		bodies = append(bodies, []byte(strings.ReplaceAll(template, "bench-trivial", fmt.Sprintf("group-%d", i))))
	}
	return bodies
}

// enrollments shows how the cost of a decision grows with the rules.
func enrollments(ctx context.Context, b bench) error {
	t := table{title: "Enrollments with a rule package each, CPU of a decision as a ratio to that with one"}
	t.add("rules", "decision", "ratio", "goal", "load", "load, compiling when first asked")
	var floor float64
	for _, n := range []int{1, 100, 1000, 10000} {
		// A real folder: a thousand files in a map are slow to list.
		folder := filepath.Join(b.scratch, fmt.Sprintf("rules-%d", n))
		if err := writeMany(folder, n); err != nil {
			return err
		}
		fsys := os.DirFS(folder)
		load := func(lazy bool) (*decider.Rules, time.Duration, error) {
			start := time.Now()
			rules, err := decider.LoadRules(ctx, fsys, decider.RulesOptions{Lazy: lazy})
			return rules, time.Since(start), err
		}
		_, lazily, err := load(true)
		if err != nil {
			return err
		}
		rules, eagerly, err := load(false)
		if err != nil {
			return err
		}
		allocator, err := decider.New(decider.Options{Rules: rules})
		if err != nil {
			return err
		}
		bodies := bodiesFor(b, n)
		next := 0
		call := func() error {
			next = (next + 7919) % n // a prime: all of them, in no order that a cache likes
			return decide(ctx, allocator, bodies[next])
		}
		for range n {
			if err := call(); err != nil {
				return err
			}
		}
		var costs []float64
		for range b.rounds {
			cost, err := perCall(call)
			if err != nil {
				return err
			}
			costs = append(costs, cost)
		}
		cost := median(costs)
		if n == 1 {
			floor = cost
		}
		goal := ""
		if n == 10000 {
			goal = "flat"
		}
		t.add(fmt.Sprint(n), micro(cost), ratio(cost/floor), goal, milli(eagerly), milli(lazily))
	}
	t.print()
	return nil
}

// writeMany writes many rule packages to a folder.
func writeMany(folder string, n int) error {
	for name, text := range manyRules(n) {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
