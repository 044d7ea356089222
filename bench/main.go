// Command bench measures Usher and prints each figure beside its goal, as a
// ratio to a floor that was measured in the same run: times drift from machine to
// machine and from minute to minute, ratios hold. `make bench` builds what it
// needs and runs it; -only picks sections.
//
// It measures, it does not judge: the exit status says only whether measuring
// worked.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// section is one part of the report.
type section struct {
	name string
	run  func(context.Context, bench) error
}

// bench is what all sections need.
type bench struct {
	repository string // root of the checkout
	handler    string // the built handler
	rules      string // a rules folder with the benchmark's own rules
	scratch    string
	rounds     int
	workloads  []workload
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == echoCommand {
		runEcho()
		return
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sections := []section{
		{"decision", decisions},
		{"library", library},
		{"replay", replays},
		{"enrollments", enrollments},
		{"server", servers},
		{"latency", latencies},
		{"records", records},
		{"start", starts},
		{"swap", swaps},
	}
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	b := bench{}
	only := flag.String("only", "", "sections to run, separated by commas: "+strings.Join(names, ", "))
	flag.StringVar(&b.repository, "repository", ".", "root of the checkout")
	flag.StringVar(&b.handler, "handler", "bin/handler", "the handler, built as `make build` does")
	flag.IntVar(&b.rounds, "rounds", 11, "rounds, of which the median counts")
	flag.Parse()
	debug.SetGCPercent(400) // as the handler tunes it, for all that is compared
	if _, err := os.Stat(b.handler); err != nil {
		return fmt.Errorf("%w; run `make build` first", err)
	}
	var err error
	if b.scratch, err = os.MkdirTemp("", "usher-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.scratch)
	b.rules = b.scratch + "/rules"
	if err := writeRules(b.repository, b.rules); err != nil {
		return err
	}
	if b.workloads, err = workloads(b.repository); err != nil {
		return err
	}
	fmt.Printf("%s, %d processors, %s, medians of %d rounds\n", runtime.Version(), runtime.NumCPU(), time.Now().UTC().Format("2006-01-02"), b.rounds)
	for _, s := range sections {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// table prints rows under a title, columns aligned.
type table struct {
	title string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print() {
	fmt.Printf("\n%s\n", t.title)
	width := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for _, row := range t.rows {
		line := ""
		for i, cell := range row {
			line += "  " + cell + strings.Repeat(" ", width[i]-len([]rune(cell)))
		}
		fmt.Println(strings.TrimRight(line, " "))
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(int(float64(len(sorted))*p), len(sorted)-1)]
}

func micro(seconds float64) string { return fmt.Sprintf("%.0f µs", seconds*1e6) }
func ratio(value float64) string   { return fmt.Sprintf("%.2f", value) }
func milli(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
func atMost(goal float64) string   { return fmt.Sprintf("≤ %.4g", goal) }
