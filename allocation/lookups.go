package allocation

import (
	"context"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Lookup is one call of a built-in function whose answer depends on more than its
// arguments, such as the clock or the network. Values are built of the types of
// [dps.AllocationRequest.Document].
type Lookup struct {
	Builtin   string
	Arguments []any
	Result    any
}

type lookupsKey struct{}

// WithLookups returns a context in which a decision is taken again: calls that are
// among the lookups of the first time get the answers that they got then. Rules
// that were allowed no such calls do not look at it.
func WithLookups(ctx context.Context, lookups []Lookup) context.Context {
	known := make([]ruleset.Lookup, len(lookups))
	for i, lookup := range lookups {
		known[i] = ruleset.Lookup(lookup)
	}
	return context.WithValue(ctx, lookupsKey{}, known)
}

func knownLookups(ctx context.Context) []ruleset.Lookup {
	known, _ := ctx.Value(lookupsKey{}).([]ruleset.Lookup)
	return known
}
