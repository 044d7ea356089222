package dpssim

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Kinds of entries.
const (
	KindRegister  = "register"  // a device's register call
	KindOperation = "operation" // a device's poll
	KindConnect   = "connect"   // a device's MQTT CONNECT
	KindWebhook   = "webhook"   // a call of a webhook
	KindEffect    = "effect"    // the end of a registration
	KindService   = "service"   // a call of the service API
	KindHub       = "hub"       // a call of a hub's API
	KindTrouble   = "trouble"   // trouble was set
)

// EffectCallAgain begins the DPSEffect of a call after which DPS calls the webhook again.
const EffectCallAgain = "call again"

// Entry is one call, in either direction, or one effect. Keys, tokens and the codes of webhooks are masked.
type Entry struct {
	Time           model.Time `json:"time"`
	ID             uint64     `json:"id"` // from 1, without gaps
	Kind           string     `json:"kind"`
	Transport      string     `json:"transport,omitempty"`
	RegistrationID string     `json:"registrationId,omitempty"`
	OperationID    string     `json:"operationId,omitempty"`
	// Method and URL are those of an HTTP call.
	Method string `json:"method,omitempty"`
	URL    string `json:"url,omitempty"`
	// Attempt counts the calls of a webhook for one registration, from 1. Repeated marks the second of two calls that
	// trouble made of one.
	Attempt  int  `json:"attempt,omitzero"`
	Repeated bool `json:"repeated,omitzero"`
	// Request is the body: for a webhook, the AllocationRequest as posted.
	Request json.RawMessage `json:"request,omitzero"`
	// Status is the HTTP status of the answer; 0 if there is none.
	Status int `json:"status,omitzero"`
	// Response is the body of the answer, as text if it is not JSON.
	Response json.RawMessage `json:"response,omitzero"`
	// Error is why there is no answer, or the reason for a refusal that the answer does not give.
	Error      string  `json:"error,omitempty"`
	DurationMS float64 `json:"durationMs"`
	// DPSEffect is what DPS does with the answer, in words.
	DPSEffect string `json:"dpsEffect,omitempty"`
	// Hub, Substatus, Twin and LinkedHubs belong to effects; Twin is created, migrated, reset or kept.
	Hub        string   `json:"hub,omitempty"`
	Substatus  string   `json:"substatus,omitempty"`
	Twin       string   `json:"twin,omitempty"`
	LinkedHubs []string `json:"linkedHubs,omitzero"`
}

// Line is the entry in one line, for a console.
func (e Entry) Line() string {
	var b strings.Builder
	add := func(present bool, format string, args ...any) {
		if present {
			fmt.Fprintf(&b, format, args...)
		}
	}
	add(true, "%s %-9s", e.Time.Local().Format("15:04:05.000"), e.Kind)
	add(e.RegistrationID != "", " %s", Printable(e.RegistrationID))
	add(e.Transport != "", " %s", e.Transport)
	add(e.Method != "", " %s %s", e.Method, Printable(e.URL))
	add(e.Attempt > 1, " (call %d)", e.Attempt)
	add(e.Repeated, " (repeated)")
	add(e.Status != 0, " -> %d", e.Status)
	add(e.DPSEffect != "", " %s", Printable(e.DPSEffect))
	add(e.Error != "", " (%s)", Printable(e.Error))
	add(e.Kind != KindEffect && e.Kind != KindTrouble, " %.1f ms", e.DurationMS)
	return b.String()
}

// Printable replaces control characters, so that text from a caller cannot control a terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// WriteEntries returns a function for [Config.OnEntry] that writes each entry as a line of JSON. failed is called once,
// with the first error; later entries are dropped.
func WriteEntries(w io.Writer, failed func(error)) func(Entry) {
	broken := false
	return func(e Entry) {
		if broken {
			return
		}
		line, err := json.Marshal(e)
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		if err != nil {
			broken = true
			failed(fmt.Errorf("journal: %w", err))
		}
	}
}

// maxJournalBytes limits, approximately, what all entries in memory hold: bodies have up to a MiB, and even an unknown
// caller can send one.
const maxJournalBytes = 64 << 20

// journal keeps the last entries.
type journal struct {
	mu      sync.Mutex
	entries []Entry // the oldest first
	size    int
	last    uint64 // ID of the newest
	bytes   int    // of the entries
	onEntry func(Entry)
}

// bytes is approximately what the entry holds in memory.
func (e Entry) bytes() int {
	const fixed = 400
	return fixed + len(e.Request) + len(e.Response) + len(e.URL) + len(e.RegistrationID) + len(e.OperationID) + len(e.Error) + len(e.DPSEffect)
}

func (j *journal) add(e Entry) {
	if e.Time.IsZero() {
		e.Time = model.Time{Time: time.Now()}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.ID = j.last
	j.entries = append(j.entries, e)
	j.bytes += e.bytes()
	for len(j.entries) > 1 && (len(j.entries) > j.size || j.bytes > maxJournalBytes) {
		j.bytes -= j.entries[0].bytes()
		j.entries[0] = Entry{} // so that its bodies are freed
		j.entries = j.entries[1:]
	}
	if j.onEntry != nil {
		j.onEntry(e)
	}
}

// JournalPage is a part of the journal, oldest first.
type JournalPage struct {
	Entries []Entry `json:"entries"`
	// Next is the value of after for the next page. With no entries it is the value that was given.
	Next uint64 `json:"next"`
	// Oldest is the ID of the oldest entry that is kept, Last that of the newest.
	Oldest uint64 `json:"oldest"`
	Last   uint64 `json:"last"`
}

// JournalFilter chooses entries; empty fields match all.
type JournalFilter struct {
	RegistrationID string // in any case
	Kind           string
}

// Journal returns up to limit entries with IDs above after.
func (s *Service) Journal(after uint64, limit int, filter JournalFilter) JournalPage {
	return s.journal.page(after, limit, filter)
}

// Record adds an entry for a call that does not go through Service, such as one of the service API. The caller masks
// what must not be kept, see [Mask].
func (s *Service) Record(e Entry) { s.journal.add(e) }

func (j *journal) page(after uint64, limit int, filter JournalFilter) JournalPage {
	j.mu.Lock()
	defer j.mu.Unlock()
	page := JournalPage{Entries: []Entry{}, Next: after, Oldest: j.last - uint64(len(j.entries)) + 1, Last: j.last}
	if j.last == 0 {
		page.Oldest = 0
	}
	skip := min(max(after+1, page.Oldest)-page.Oldest, uint64(len(j.entries)))
	for _, e := range j.entries[skip:] {
		if len(page.Entries) == limit {
			break
		}
		page.Next = e.ID
		if (filter.RegistrationID == "" || strings.EqualFold(e.RegistrationID, filter.RegistrationID)) &&
			(filter.Kind == "" || e.Kind == filter.Kind) {
			page.Entries = append(page.Entries, e)
		}
	}
	return page
}
