// Package lookups reads what rules may look up: the declarations in lookups.yaml, and the tables of text that fixtures
// and snapshots are made of.
package lookups

import (
	"context"
	"time"

	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/lookup"
)

// OnFault says what a rule gets if a source cannot say whether there is a row.
type OnFault string

// The values of on_fault.
const (
	Hold   OnFault = "hold"   // no answer: the decision is the fault lookup_failed, and DPS asks again; the default
	Stale  OnFault = "stale"  // the last answer, if it is not older than a bound; else as Hold
	Absent OnFault = "absent" // the same as if there were no row
)

// Declaration is one look-up as lookups.yaml declares it.
type Declaration struct {
	Name        string // such as device, for lookup.device
	Description string
	Place       string // file:line
	// Key is the column or member of a table of text that holds the key.
	Key string
	// CaseSensitive is unset if keys are compared without case: they are then asked for in lower case.
	CaseSensitive bool
	// Row describes a row. RowSchema is the same as encoding/json decodes it with UseNumber.
	Row       *schema.Schema
	RowSchema map[string]any
	OnFault   OnFault
	// StaleFor is how old a last answer may be; only for Stale.
	StaleFor time.Duration
	// TTL and NegativeTTL are how long a row, and that there is none, may be kept.
	TTL, NegativeTTL time.Duration
	// Timeout is how long a source may take.
	Timeout time.Duration
	// Recordable are the members of a row that may be recorded.
	Recordable []string
	// Fixture is the file with rows for development, relative to the folder of the rules; empty if there is none.
	Fixture string
}

// Sources answer look-ups. They are safe for concurrent use.
type Sources interface {
	// Find returns the row of a key, in lower case unless d is CaseSensitive. It keeps to the durations in d.
	Find(ctx context.Context, d *Declaration, key string) (Found, error)
}

// Found is what was found for a key.
type Found struct {
	lookup.Answer
	// Source says where it is from, for people: fixture, snapshot, postgres and so on.
	Source string
	// Fault is why the source could not be asked, if this is an older answer that Stale allows; nil otherwise.
	Fault error
}
