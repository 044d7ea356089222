// Package lookup is how a source gives rows to rules. A rule asks for the row of a key by lookup.NAME(key); the file
// lookups.yaml next to the rules declares NAME and what its rows look like.
//
// A Go service that embeds the webhook can give sources of its own: see package allocation.
package lookup

import (
	"context"
	"time"
)

// Source has the rows of one look-up. It is safe for concurrent use.
type Source interface {
	// Find returns the row of a key, or an Answer without a row if there is none. It is called with any key that a
	// device can bring about, of at most 1024 bytes, and must treat it as data. It returns soon after ctx ends.
	//
	// An error means that it is not known whether there is a row. Its text goes to the log: it may contain what an
	// operator needs, but no credential and nothing of the key or the row.
	Find(ctx context.Context, key string) (Answer, error)
}

// Answer is what a source says about a key. It is shared, and must not be changed.
type Answer struct {
	// Row has the types of encoding/json with UseNumber; nil if there is no row.
	Row map[string]any
	// Version identifies the state of the source, such as the digest of a snapshot; may be empty.
	Version string
	// AsOf is when the row was, or was not, at the source. The zero time means now.
	AsOf time.Time
}
