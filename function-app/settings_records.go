package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
)

// Names of the settings of decision records.
const (
	settingRecordSinks      = "USHER_RECORD_SINKS"
	settingRecordSync       = "USHER_RECORD_SYNC"
	settingRecordSpool      = "USHER_RECORD_SPOOL"
	settingRecordSpoolBytes = "USHER_RECORD_SPOOL_BYTES"
	settingRecordFileBytes  = "USHER_RECORD_FILE_BYTES"
	settingRecordFileAge    = "USHER_RECORD_FILE_AGE"
	settingRecordFileKeep   = "USHER_RECORD_FILE_KEEP"
	settingRecordIDs        = "USHER_RECORD_REGISTRATION_IDS"
	settingRecordIDKey      = "USHER_RECORD_ID_KEY"
)

// recordSettings say what is recorded, and where it goes.
type recordSettings struct {
	Sinks      []sink.Spec // none: no records
	Sync       appender.Policy
	Spool      string // folder; empty without remote sinks
	SpoolBytes int64
	FileBytes  int64
	FileAge    time.Duration
	FileKeep   int
	IDs        decisionlog.IDMode
	IDKey      string // secret
}

// toStdout reports whether records go to standard output.
func (r recordSettings) toStdout() bool {
	return slices.ContainsFunc(r.Sinks, func(s sink.Spec) bool { return s.Kind == sink.KindStdout })
}

func (s *settings) readRecords(get func(name, fallback string) string, wrong func(name, format string, args ...any)) {
	r := &s.records
	inRoot := func(path string) string {
		if root := get(settingAppRoot, ""); path != "" && !filepath.IsAbs(path) && root != "" {
			path = filepath.Join(root, path)
		}
		return path
	}
	number := func(name string, fallback, least, most int64) int64 {
		n, err := strconv.ParseInt(get(name, strconv.FormatInt(fallback, 10)), 10, 64)
		if err != nil || n < least || n > most {
			wrong(name, "not a number from %d to %d", least, most)
		}
		return n
	}
	var err error
	if r.Sinks, err = sink.Parse(get(settingRecordSinks, string(sink.KindStdout))); err != nil {
		for problem := range strings.Lines(err.Error()) {
			wrong(settingRecordSinks, "%s", strings.TrimSpace(problem))
		}
	}
	for i, spec := range r.Sinks {
		if spec.Kind == sink.KindFile {
			r.Sinks[i].Target = inRoot(spec.Target)
		}
	}
	if r.Sync = appender.Policy(get(settingRecordSync, string(appender.Interval))); !r.Sync.Valid() {
		wrong(settingRecordSync, "none of always, interval, never")
	}
	r.Spool = inRoot(get(settingRecordSpool, ""))
	if remote := slices.IndexFunc(r.Sinks, func(s sink.Spec) bool { return s.Kind.Remote() }); remote >= 0 && r.Spool == "" {
		wrong(settingRecordSpool, "empty, and %s has %s: name a folder on a disk of this machine, such as /var/lib/usher/spool, "+
			"or /tmp/usher-spool on Azure Functions", settingRecordSinks, r.Sinks[remote].Kind)
	}
	r.SpoolBytes = number(settingRecordSpoolBytes, spool.DefaultBytes, spool.MinBytes, 1<<40)
	r.FileBytes = number(settingRecordFileBytes, sink.DefaultFileBytes, 1<<20, 1<<40)
	r.FileKeep = int(number(settingRecordFileKeep, sink.DefaultFileKeep, 1, 10_000))
	if r.FileAge, err = time.ParseDuration(get(settingRecordFileAge, "24h")); err != nil || r.FileAge < time.Minute || r.FileAge > 366*24*time.Hour {
		wrong(settingRecordFileAge, "not a duration from 1m to 8784h, such as 24h")
	}
	r.IDs = decisionlog.IDMode(get(settingRecordIDs, string(decisionlog.Plain)))
	r.IDKey = get(settingRecordIDKey, "")
	switch {
	case r.IDs != decisionlog.Plain && r.IDs != decisionlog.Hashed && r.IDs != decisionlog.Absent:
		wrong(settingRecordIDs, "none of plain, hashed, absent")
	case r.IDs == decisionlog.Hashed && r.IDKey == "":
		wrong(settingRecordIDKey, "empty, and %s is hashed: give a random key, the same to all instances", settingRecordIDs)
	}
	if n := len(r.IDKey); n > 0 && n < decisionlog.MinHashKey {
		wrong(settingRecordIDKey, "fewer than %d characters; use a random one", decisionlog.MinHashKey)
	}
}

// spoolFolder is the folder of one sink in that of the spools. Another target has another
// one, so that its records do not go where they were not meant to.
func spoolFolder(spec sink.Spec) string {
	target := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-':
			return c
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		default:
			return '_'
		}
	}, strings.TrimPrefix(spec.Target, "https://"))
	return strings.TrimSuffix(fmt.Sprintf("%s-%s", spec.Kind, target), "-")
}
