// Command bench measures Usher and prints each figure next to its goal, as a ratio to a floor that it measures in the
// same run: times drift from machine to machine and from minute to minute, but ratios hold. `make bench` builds what it
// needs and runs it; -only selects sections.
//
// The exit status says only whether the measurement worked, not whether the goals were met.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
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
	handler    string // the handler's binary
	rules      string // a rules folder that includes the benchmark's own rules
	scratch    string
	rounds     int
	requests   map[string][]byte // by the names of the workloads
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
		{"verify", verifies},
		{"enrollments", enrollments},
		{"server", servers},
		{"latency", latencies},
		{"lookups", lookupsSection},
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
	flag.StringVar(&b.handler, "handler", "bin/handler", "the handler's binary, as `make build` builds it")
	flag.IntVar(&b.rounds, "rounds", 11, "number of rounds; the report shows their median")
	flag.Parse()
	debug.SetGCPercent(400) // the handler's own setting, for everything that is compared
	if _, err := os.Stat(b.handler); err != nil {
		return fmt.Errorf("%w; run `make build` first", err)
	}
	var err error
	if b.scratch, err = os.MkdirTemp("", "usher-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.scratch)
	b.rules = filepath.Join(b.scratch, "rules")
	if err := writeRules(b.repository, b.rules); err != nil {
		return err
	}
	if b.requests, err = readRequests(b.repository); err != nil {
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

// median measures in rounds and returns the median.
func (b bench) median(measure func() (float64, error)) (float64, error) {
	var values []float64
	for range b.rounds {
		value, err := measure()
		if err != nil {
			return 0, err
		}
		values = append(values, value)
	}
	return median(values), nil
}

// compare measures a floor and others in turn. It returns cells: the median of the floor, and for each of the others its
// median and the median of its ratios to the floor.
func (b bench) compare(floor func() (float64, error), others ...func() (float64, error)) ([]string, error) {
	var floors []float64
	values, ratios := make([][]float64, len(others)), make([][]float64, len(others))
	for range b.rounds {
		f, err := floor()
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		floors = append(floors, f)
		for i, other := range others {
			value, err := other()
			if err != nil {
				return nil, err
			}
			values[i], ratios[i] = append(values[i], value), append(ratios[i], value/f)
		}
	}
	cells := []string{micro(median(floors))}
	for i := range others {
		cells = append(cells, micro(median(values[i])), ratio(median(ratios[i])))
	}
	return cells, nil
}

// table aligns its columns when it is flushed.
type table struct{ *tabwriter.Writer }

func newTable(title string, headings ...string) table {
	fmt.Printf("\n%s\n", title)
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	t.add(headings...)
	return t
}

func (t table) add(cells ...string) { fmt.Fprintln(t, "  "+strings.Join(cells, "\t")) }

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
