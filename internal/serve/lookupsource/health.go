package lookupsource

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
)

// quiet is the least time between two warnings about one source: one bad row among good ones must not fill the log.
const quiet = time.Minute

// health notices when a source starts to have faults, and when it is well again.
type health struct {
	log *slog.Logger // with the name of the look-up and the source

	mu       sync.Mutex
	fault    *Fault // the last one, nil after an answer
	since    time.Time
	previous string // the text of the last fault, also after an answer
	warned   bool   // about this state, so that the all-clear follows
	warnedAt time.Time
	unsaid   int // faults since the last warning
}

// well notes an answer.
func (h *health) well(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == nil {
		return
	}
	h.fault = nil
	if h.warned {
		h.warned = false
		h.log.InfoContext(ctx, "look-up source answers again", "after_s", int64(time.Since(h.since).Seconds()))
	}
}

// faulty notes a fault.
func (h *health) faulty(ctx context.Context, f *Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == nil {
		h.since = time.Now()
	}
	h.fault, h.previous = f, string(f.Kind)+": "+f.text
	h.unsaid++
	if h.warned || !h.warnedAt.IsZero() && time.Since(h.warnedAt) < quiet {
		return
	}
	h.log.WarnContext(ctx, "look-up source has faults", "fault", string(f.Kind), "error", f.text, "fix", f.Fix(), "faults", h.unsaid)
	h.warned, h.warnedAt, h.unsaid = true, time.Now(), 0
}

// last is the text of the last fault.
func (h *health) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.previous
}

// state returns the fault that lasts, and since when.
func (h *health) state() (string, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == nil {
		return "", time.Time{}
	}
	return string(h.fault.Kind) + ": " + h.fault.text, h.since
}

// fixes say what an operator can do.
var fixes = map[fault.Kind]string{
	fault.Timeout:     "see whether the source is overloaded or far away, or raise timeout in lookups.yaml",
	fault.Unreachable: "see whether the source is up, and whether this app may connect to it",
	fault.Unavailable: "see whether the source is overloaded or throttles",
	fault.Denied:      "check the credential or the role of the app's identity",
	fault.Refused:     "check the setting of the source",
	fault.Schema:      "correct the row at the source, or the schema in lookups.yaml",
	fault.Failed:      "see the error",
}
