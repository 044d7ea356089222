package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// cpuSeconds returns the CPU time that this process has used so far, including the garbage collector's.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// perCall returns the CPU seconds of one call. It calls until it has used at least 100 ms.
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

func newDecider(ctx context.Context, folder string) (*decider.Decider, error) {
	rules, err := decider.LoadRules(ctx, os.DirFS(folder), decider.RulesOptions{Name: folder})
	if err != nil {
		return nil, err
	}
	return decider.New(decider.Options{Rules: rules})
}

// decide makes a whole decision, bytes in and bytes out.
func decide(ctx context.Context, d *decider.Decider, body []byte) error {
	_, decided := d.AllocateJSON(ctx, body)
	if decided.Result != answer.Assigned {
		return errors.New(decided.Summary())
	}
	var few [2048]byte
	_ = decided.Response.AppendJSON(few[:0])
	return nil
}

// decisions compares the whole decision with the naive one.
func decisions(ctx context.Context, b bench) error {
	usher, err := newDecider(ctx, b.rules)
	if err != nil {
		return err
	}
	floor, err := newNaive(b.rules)
	if err != nil {
		return err
	}
	goals := map[string]string{"trivial": "≤ 0.07", "tutorial": "≤ 0.10", "mediumt": "≤ 0.09", "large": "≤ 0.20", "larget": "≤ 0.13"}
	made := map[string]string{"mediumt": "≤ 60"}
	t := newTable("The whole decision, CPU, as a ratio to a naive use of the same libraries",
		"rule", "naive", "usher", "ratio", "goal", "allocations", "goal")
	for _, name := range workloads {
		body := b.requests[name]
		cells, err := b.compare(
			func() (float64, error) {
				return perCall(func() error { _, err := floor.decide(ctx, body); return err })
			},
			func() (float64, error) {
				return perCall(func() error { return decide(ctx, usher, body) })
			})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		allocations := testing.AllocsPerRun(1000, func() { err = decide(ctx, usher, body) })
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t.add(name, cells[0], cells[1], cells[2], goals[name], fmt.Sprint(allocations), made[name])
	}
	return t.Flush()
}

// library measures decisions per second on all processors, in the way that replay and verify make them.
func library(ctx context.Context, b bench) error {
	usher, err := newDecider(ctx, b.rules)
	if err != nil {
		return err
	}
	goals := map[string]string{"mediumt": "≥ 24000"}
	t := newTable("Decisions by the library, all processors", "rule", "decisions/s", "goal", "memory after a tenth", "memory at the end")
	for _, name := range workloads {
		body := b.requests[name]
		memory := func() string {
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return megabytes(stats.Sys - stats.HeapReleased)
		}
		const length = 3 * time.Second
		start := time.Now()
		var made atomic.Int64
		var group errgroup.Group
		for range runtime.NumCPU() {
			group.Go(func() error {
				for time.Since(start) < length {
					if err := decide(ctx, usher, body); err != nil {
						return err
					}
					made.Add(1)
				}
				return nil
			})
		}
		time.Sleep(length / 10)
		early := memory()
		if err := group.Wait(); err != nil {
			return err
		}
		t.add(name, fmt.Sprintf("%.0f", float64(made.Load())/time.Since(start).Seconds()), goals[name], early, memory())
	}
	return t.Flush()
}

// writeManyRules writes n rule packages, each of which serves its own enrollment group, and returns a request for each.
func writeManyRules(b bench, folder string, n int) ([][]byte, error) {
	const text = `# METADATA
# title: Rule %[1]d
# custom:
#   enrollment_groups: [group-%[1]d]
package allocation.rule%[1]d

hub := input.linkedHubs[%[2]d] if input.deviceRuntimeContext.payload.site != "site-%[1]d"

initial_twin := {"tags": {"rule": %[1]d}}
`
	requests := make([][]byte, n)
	for i := range requests {
		if err := writeFile(filepath.Join(folder, fmt.Sprintf("rule%d/rule.rego", i)), fmt.Appendf(nil, text, i, i%4)); err != nil {
			return nil, err
		}
		requests[i] = []byte(strings.ReplaceAll(string(b.requests["trivial"]), "bench-trivial", fmt.Sprintf("group-%d", i)))
	}
	return requests, nil
}

// enrollments shows how the cost of a decision grows with the number of rules.
func enrollments(ctx context.Context, b bench) error {
	t := newTable("Enrollments with their own rule packages, CPU of a decision as a ratio to that with one",
		"rules", "decision", "ratio", "goal", "load", "load, compiling on first use")
	var floor float64
	for _, n := range []int{1, 100, 1000, 10000} {
		// A real folder, because thousands of files in a map are slow to list.
		folder := filepath.Join(b.scratch, fmt.Sprintf("rules-%d", n))
		requests, err := writeManyRules(b, folder, n)
		if err != nil {
			return err
		}
		fsys := os.DirFS(folder)
		start := time.Now()
		if _, err := decider.LoadRules(ctx, fsys, decider.RulesOptions{Lazy: true}); err != nil {
			return err
		}
		lazily := time.Since(start)
		start = time.Now()
		rules, err := decider.LoadRules(ctx, fsys, decider.RulesOptions{})
		if err != nil {
			return err
		}
		eagerly := time.Since(start)
		usher, err := decider.New(decider.Options{Rules: rules})
		if err != nil {
			return err
		}
		next := 0
		call := func() error {
			next = (next + 7919) % n // a prime, so that it visits all of them in an order that defeats caches
			return decide(ctx, usher, requests[next])
		}
		for range n {
			if err := call(); err != nil {
				return err
			}
		}
		cost, err := b.median(func() (float64, error) { return perCall(call) })
		if err != nil {
			return err
		}
		goal := ""
		switch n {
		case 1:
			floor = cost
		case 10000:
			goal = "≤ 1.3"
		}
		t.add(fmt.Sprint(n), micro(cost), ratio(cost/floor), goal, milli(eagerly), milli(lazily))
	}
	return t.Flush()
}
