package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// writeRows writes what a decision looked up, as far as it is recorded.
func writeRows(w io.Writer, r *decisionlog.Record) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	rules := ""
	if r.Source != "" && r.Source != answer.SourceCurrent {
		rules = " by the " + string(r.Source) + " rules"
	}
	started := false
	for i := range r.Lookups {
		call := &r.Lookups[i]
		if _, isRow := ruleset.LookupName(call.Builtin); !isRow {
			continue
		}
		if !started {
			line("\nLooked up%s:", rules)
			started = true
		}
		line("  %s(%s)%s", printableCell(call.Builtin), printableCell(keyOf(call)), printableCell(originOf(call)))
		switch {
		case call.Result != nil:
			line("    %s", printableCell(string(call.Result)))
		case call.Undefined:
			line("    no such row")
		}
		if len(call.Masked) > 0 {
			line("    masked: %s", printableCell(strings.Join(call.Masked, ", ")))
		}
		if call.Fault != "" {
			line("    the source failed: %s", printableCell(call.Fault))
		}
	}
	if r.LookupsDropped > 0 {
		line("\n%s not recorded, because the record would be too long", count(r.LookupsDropped, "look-up is", "look-ups are"))
	}
}

// keyOf is the key of a row as text.
func keyOf(call *decisionlog.Call) string {
	var arguments []json.RawMessage
	if json.Unmarshal(call.Arguments, &arguments) != nil || len(arguments) != 1 {
		return "a key that is not recorded"
	}
	return string(arguments[0])
}

// originOf says where a row is from, and of when.
func originOf(call *decisionlog.Call) string {
	text := ""
	if call.Source != "" {
		text = " from " + call.Source
	}
	if call.Version != "" {
		text += ", " + shorten(call.Version)
	}
	if !call.AsOf.IsZero() {
		text += " as of " + call.AsOf.UTC().Format(time.RFC3339)
	}
	return text
}
