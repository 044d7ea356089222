package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/requestlog"
)

// maxCounted bounds the names that a summary counts separately. Reasons can contain values of requests.
const maxCounted = 1000

// otherNames stands for the names beyond the bound.
const otherNames = "(others)"

// recordSummary counts records.
type recordSummary struct {
	records                int
	from, to               time.Time
	results, hubs, reasons map[string]int
}

func newRecordSummary() *recordSummary {
	return &recordSummary{results: map[string]int{}, hubs: map[string]int{}, reasons: map[string]int{}}
}

func (s *recordSummary) add(item *requestlog.Item) error {
	r, then := item.Record, item.Then
	if s.records++; s.from.IsZero() || r.Time.Before(s.from) {
		s.from = r.Time
	}
	if r.Time.After(s.to) {
		s.to = r.Time
	}
	countName(s.results, resultOf(r))
	switch {
	case r.Source == answer.SourceShadow: // no device got this answer
	case then.Result == answer.Assigned:
		countName(s.hubs, dps.HubName(r.Decision.Hub))
	case then.Result.IsOutcome():
		for _, reason := range then.Reasons {
			countName(s.reasons, string(then.Result)+": "+reason)
		}
	default:
		countName(s.reasons, strings.TrimSuffix(string(then.Result)+": "+then.Detail, ": "))
	}
	return nil
}

func countName(counts map[string]int, name string) {
	if _, known := counts[name]; !known && len(counts) >= maxCounted {
		name = otherNames
	}
	counts[name]++
}

// named is a name with the number of records that have it.
type named struct {
	Name    string `json:"name"`
	Records int    `json:"records"`
}

// mostFirst sorts by number, and then by name.
func mostFirst(counts map[string]int) []named {
	list := []named{}
	for name, records := range maps.All(counts) {
		list = append(list, named{name, records})
	}
	slices.SortFunc(list, func(a, b named) int { return cmp.Or(b.Records-a.Records, cmp.Compare(a.Name, b.Name)) })
	return list
}

func (s *recordSummary) write(w io.Writer, format string) error {
	found := struct {
		Records int     `json:"records"`
		Results []named `json:"results"`
		Hubs    []named `json:"hubs"`
		Reasons []named `json:"reasons"`
	}{s.records, mostFirst(s.results), mostFirst(s.hubs), mostFirst(s.reasons)}
	if format == "json" {
		return writeJSON(w, found)
	}
	if s.records == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "%s from %s to %s\n", plural(s.records, "record"), recordTime(s.from), recordTime(s.to)); err != nil {
		return err
	}
	for _, table := range []struct {
		head string
		list []named
	}{{"result", found.Results}, {"hub", found.Hubs}, {"reason", found.Reasons}} {
		if len(table.list) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "\nrecords  %s\n", table.head); err != nil {
			return err
		}
		for _, n := range table.list {
			if _, err := fmt.Fprintf(w, "%*d  %s\n", len("records"), n.Records, printableCell(n.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func recordTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }
