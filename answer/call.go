package answer

import (
	"context"
	"time"

	"github.com/usher-dps/usher/dps"
)

// Call is one call of the webhook, from the request to its answer.
type Call struct {
	// DecisionID identifies the answer: 26 letters and digits.
	DecisionID string
	Start      time.Time
	// Duration is the time from the start of the call to the answer.
	Duration time.Duration
	// Service is a name for the DPS instance that called, from the webhook's URL; empty if that has none.
	Service string
	// Request is nil if the body could not be read. It holds everything that DPS sent, keys and certificates included.
	Request *dps.AllocationRequest
	Answer  Answer
	// Trace is empty if the caller sent no traceparent and nothing is traced here.
	Trace Trace
	// Probe is set if no device stands behind the call, such as one of `usher doctor`.
	Probe bool
	// InvocationID is the Functions host's name for the call; empty outside Functions.
	InvocationID string
	// ShadowOf is the ID of the decision that was answered in place of this one; set only for SourceShadow.
	ShadowOf string
	// Diverged lists in what this answer differs from that of ShadowOf.
	Diverged []Difference
}

// Trace is the place of a call in a distributed trace. Source: W3C Trace Context, https://www.w3.org/TR/trace-context/
type Trace struct {
	TraceID  string // 32 hex digits; empty if there is no trace
	ParentID string // the caller's span, 16 hex digits
	SpanID   string // our span, 16 hex digits
}

// NeedsAttention reports whether an operator should look at the call. Probes never need it.
func (c *Call) NeedsAttention() bool { return !c.Probe && c.Answer.NeedsAttention() }

// Observer sees a call before it is answered, so it must be quick. It may neither change the call nor keep it; Request
// and Answer do not change afterwards, so a copy may keep those. The context is that of the call, and can already be
// done.
type Observer func(context.Context, *Call)
