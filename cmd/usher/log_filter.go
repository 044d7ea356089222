package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// recordFilter reports whether a record matches.
type recordFilter func(*decisionlog.Record) bool

// filter checks the command line, and returns what records must match.
func (flags *logFlags) filter(args []string, now time.Time) (recordFilter, error) {
	switch {
	case flags.follow && len(args) > 1:
		return nil, usageError(errors.New("--follow is for one file"))
	case flags.follow && flags.summary:
		return nil, usageError(errors.New("--follow does not end, and --summary counts at the end: choose one"))
	case flags.limit < 0:
		return nil, usageError(fmt.Errorf("--limit must not be below 0, and is %d", flags.limit))
	case flags.keyFile != "" && flags.device == "" && flags.enrollment == "":
		return nil, usageError(errors.New("--id-key-file is for --device or --enrollment"))
	}
	var filters []recordFilter
	for _, make := range []func() (recordFilter, error){
		flags.byDevice, flags.byEnrollment, flags.byRule, flags.bySource, flags.byResult,
		func() (recordFilter, error) { return flags.byTime(now) },
	} {
		filter, err := make()
		if err != nil {
			return nil, err
		}
		if filter != nil {
			filters = append(filters, filter)
		}
	}
	return func(r *decisionlog.Record) bool {
		return (!flags.alarm || r.NeedsAttention()) &&
			(flags.service == "" || strings.EqualFold(r.Service, flags.service)) &&
			(len(flags.hubs) == 0 || flags.hubs.has(r.Decision.Hub)) &&
			(flags.id == "" || strings.EqualFold(r.DecisionID, flags.id) || strings.EqualFold(r.ShadowOf, flags.id)) &&
			!slices.ContainsFunc(filters, func(matches recordFilter) bool { return !matches(r) })
	}, nil
}

// hashed is a registration ID as records hold it if they hash it; empty if no key is given.
func (flags *logFlags) hashed(id string) (string, error) {
	if flags.keyFile == "" {
		return "", nil
	}
	key, err := os.ReadFile(flags.keyFile)
	if key = bytes.TrimSpace(key); err == nil && len(key) == 0 {
		err = fmt.Errorf("%s is empty: it must hold the key of USHER_RECORD_ID_KEY", flags.keyFile)
	}
	return decisionlog.HashID(key, id), err
}

func (flags *logFlags) byDevice() (recordFilter, error) {
	if flags.device == "" {
		return nil, nil
	}
	hash, err := flags.hashed(flags.device)
	return func(r *decisionlog.Record) bool {
		return r.RegistrationID != "" && (strings.EqualFold(r.RegistrationID, flags.device) || r.RegistrationID == hash)
	}, err
}

func (flags *logFlags) byEnrollment() (recordFilter, error) {
	if flags.enrollment == "" {
		return nil, nil
	}
	pattern := strings.ToLower(flags.enrollment)
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, usageError(fmt.Errorf("--enrollment is %q, which is not a pattern", flags.enrollment))
	}
	hash, err := flags.hashed(flags.enrollment)
	return func(r *decisionlog.Record) bool {
		if r.Enrollment == nil || r.Enrollment.ID == "" {
			return false
		}
		matches, _ := path.Match(pattern, strings.ToLower(r.Enrollment.ID))
		return matches || r.Enrollment.ID == hash
	}, err
}

func (flags *logFlags) byRule() (recordFilter, error) {
	if flags.rule == "" {
		return nil, nil
	}
	name := strings.TrimPrefix(flags.rule, "data.")
	return func(r *decisionlog.Record) bool {
		return r.Rule != nil && (r.Rule.Package == name || strings.HasSuffix(r.Rule.Package, "."+name) || r.Rule.File == flags.rule)
	}, nil
}

func (flags *logFlags) bySource() (recordFilter, error) {
	switch source := answer.Source(flags.source); source {
	case "":
		return nil, nil
	case answer.SourceCurrent, answer.SourceCanary, answer.SourceShadow:
		return func(r *decisionlog.Record) bool {
			return r.Source == source || r.Source == "" && source == answer.SourceCurrent
		}, nil
	}
	return nil, usageError(fmt.Errorf("--source is %q: use current, canary or shadow", flags.source))
}

func (flags *logFlags) byResult() (recordFilter, error) {
	faults := slices.DeleteFunc(answer.Results(), answer.Result.IsOutcome)
	wanted := map[answer.Result]bool{}
	for _, name := range flags.outcomes {
		if !answer.Result(name).IsOutcome() {
			return nil, usageError(fmt.Errorf("--outcome is %q: use assigned, rejected or held, or --fault", name))
		}
		wanted[answer.Result(name)] = true
	}
	for _, name := range flags.faults {
		switch {
		case name == "any":
			for _, fault := range faults {
				wanted[fault] = true
			}
		case slices.Contains(faults, answer.Result(name)):
			wanted[answer.Result(name)] = true
		default:
			return nil, usageError(fmt.Errorf("--fault is %q: use any, or one of %v", name, faults))
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	return func(r *decisionlog.Record) bool { return wanted[answer.Result(r.Decision.Result())] }, nil
}

func (flags *logFlags) byTime(now time.Time) (recordFilter, error) {
	since, err := parseTime("since", flags.since, now)
	if err != nil {
		return nil, err
	}
	until, err := parseTime("until", flags.until, now)
	if err != nil {
		return nil, err
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return nil, usageError(errors.New("--since is not before --until"))
	}
	return func(r *decisionlog.Record) bool {
		return !r.Time.Before(since) && (until.IsZero() || r.Time.Before(until))
	}, nil
}

func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError(fmt.Errorf("--%s is %q: use a time such as 2026-11-22T09:30:00Z, a day such as 2026-11-22 (in UTC), or how long ago, such as 2h", flag, text))
}
