package lookupsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/sony/gobreaker/v2"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
)

// Fault is why a source could not say whether there is a row. Its text contains nothing of the key, the row or a
// credential.
type Fault struct {
	Source string // such as postgres
	Kind   fault.Kind
	text   string
	err    error
	name   string // of the look-up
}

func (f *Fault) Error() string {
	if f.Kind == fault.Missing {
		return "it has no source: " + f.text
	}
	return fmt.Sprintf("the %s source: %s: %s", f.Source, f.Kind, f.text)
}

func (f *Fault) Unwrap() error { return f.err }

// Fix says what an operator can do; empty if the text says it.
func (f *Fault) Fix() string {
	if f.Kind == fault.NotFound {
		return fixNotFound(f.name)
	}
	return fixes[f.Kind]
}

// fixNotFound is for a file that does not exist, which the fault names.
func fixNotFound(name string) string {
	return "correct " + SettingName(name) + ", or put the file there"
}

// faultOf makes a Fault of a backend's error. The contract of lookup.Source says that its text is safe to log.
func (s *source) faultOf(d *lookups.Declaration, err error) *Fault {
	f := &Fault{name: s.name, Source: s.backend.Kind, Kind: fault.Failed, text: fault.Plain(err.Error()), err: err}
	if known, ok := errors.AsType[*fault.Error](err); ok {
		f.Kind, f.text = known.Kind, known.Text
	}
	switch {
	case errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests):
		f.Kind, f.text = fault.Breaker, "not asked, because of repeated faults"
		if last := s.health.last(); last != "" {
			f.text += "; the last one: " + last
		}
	case f.Kind == fault.Failed && errors.Is(err, context.DeadlineExceeded):
		f.Kind, f.text = fault.Timeout, "no answer in time"
	}
	if f.Kind == fault.Timeout {
		f.text += fmt.Sprintf(" (timeout is %s at %s)", d.Timeout, d.Place)
	}
	return f
}
