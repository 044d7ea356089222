package main

import (
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
	"github.com/usher-dps/usher/internal/serve/environment"
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

func readRecords(r *environment.Reader) sink.Settings {
	sinks, err := sink.Parse(r.Get(settingRecordSinks, string(sink.KindStdout)))
	if err != nil {
		for problem := range strings.Lines(err.Error()) {
			r.Wrong(settingRecordSinks, "%s", strings.TrimSpace(problem))
		}
	}
	for i, spec := range sinks {
		if spec.Kind == sink.KindFile {
			sinks[i].Target = inAppRoot(r, spec.Target)
		}
	}
	s := sink.Settings{
		Sinks: sinks,
		Sync: appender.Policy(r.OneOf(settingRecordSync, string(appender.Interval),
			string(appender.Always), string(appender.Interval), string(appender.Never))),
		Spool:      inAppRoot(r, r.Get(settingRecordSpool, "")),
		SpoolBytes: r.Int(settingRecordSpoolBytes, "number", spool.DefaultBytes, spool.MinBytes, 1<<40),
		FileBytes:  r.Int(settingRecordFileBytes, "number", sink.DefaultFileBytes, 1<<20, 1<<40),
		FileAge:    r.Duration(settingRecordFileAge, sink.DefaultFileAge, time.Minute, 366*24*time.Hour),
		FileKeep:   int(r.Int(settingRecordFileKeep, "number", sink.DefaultFileKeep, 1, 10_000)),
		IDs: decisionlog.IDMode(r.OneOf(settingRecordIDs, string(decisionlog.Plain),
			string(decisionlog.Plain), string(decisionlog.Hashed), string(decisionlog.Absent))),
		IDKey: r.Get(settingRecordIDKey, ""),
	}
	if remote := slices.IndexFunc(sinks, func(s sink.Spec) bool { return s.Kind.Remote() }); remote >= 0 && s.Spool == "" {
		r.Wrong(settingRecordSpool, "empty, and %s has %s: name a folder on a disk of this machine, such as /var/lib/usher/spool, "+
			"or /tmp/usher-spool on Azure Functions", settingRecordSinks, sinks[remote].Kind)
	}
	if s.IDs == decisionlog.Hashed && s.IDKey == "" {
		r.Wrong(settingRecordIDKey, "empty, and %s is hashed: give a random key, the same to all instances", settingRecordIDs)
	}
	if n := len(s.IDKey); n > 0 && n < decisionlog.MinHashKey {
		r.Wrong(settingRecordIDKey, "fewer than %d characters; use a random one", decisionlog.MinHashKey)
	}
	return s
}
