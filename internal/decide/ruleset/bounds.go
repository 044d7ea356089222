package ruleset

import (
	"context"
	"runtime"
	"runtime/metrics"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/plan"
)

// Topdown cannot bound memory, so this is done from outside. Each built-in function that can make much is replaced, as a
// test replaces one by `with`, by one that counts what it makes as a plan does, and that is not called if its arguments
// say that it would make too much. What topdown itself makes, such as comprehensions, shows only in the heap of the
// process, at which an evaluation looks now and then.

// boundedPrefix is before the name of a function in that of its replacement. No rule can call it, because a name has no
// space.
const boundedPrefix = "usher bounded "

// bounded returns the replacement of a function of OPA; nil if it needs none.
func bounded(builtin *ast.Builtin) *topdown.Builtin {
	call := topdown.GetBuiltin(builtin.Name)
	result := builtin.Decl.Result()
	small := result == nil || types.Compare(result, types.B) == 0 || types.Compare(result, types.N) == 0
	if call == nil || builtin.Nondeterministic || small && !plan.Expands(builtin.Name) {
		return nil
	}
	arity := builtin.Decl.Arity()
	return &topdown.Builtin{
		Decl: &ast.Builtin{Name: boundedPrefix + builtin.Name, Decl: builtin.Decl, Relation: builtin.Relation},
		Func: func(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
			b, ok := bctx.Cancel.(*bounds)
			if !ok {
				return call(bctx, operands, iter)
			}
			b.at = bctx.Location
			if err := b.account.Allows(builtin.Name, operands[:arity], bctx.Location); err != nil {
				return b.halt(err)
			}
			return call(bctx, operands, func(output *ast.Term) error {
				if err := b.account.Made(output.Value, bctx.Location); err != nil {
					return b.halt(err)
				}
				return iter(output)
			})
		},
	}
}

// replacing makes an expression evaluate with the replacements of the functions that the rules of a compiler call.
func (rs *Ruleset) replacing(compiler *ast.Compiler, expr *ast.Expr) *ast.Expr {
	for _, called := range compiler.Required.Builtins {
		if by := rs.builtins[boundedPrefix+called.Name]; by != nil {
			expr = expr.IncludeWith(ast.NewTerm(called.Ref()), ast.NewTerm(by.Decl.Ref()))
		}
	}
	return expr
}

// bounds end an evaluation by topdown: when its context ends, or when the rule makes too much. Topdown polls them at
// every expression, and its functions that write much at every piece.
type bounds struct {
	context.Context
	set     *Ruleset
	account *plan.Account
	polls   int
	at      *ast.Location // of the function that was called last; nil before
	began   heap          // zero until the first look
	notes   *notes        // may be nil
	// certificate is that of the request; may be nil.
	certificate *dps.DeviceCertificate
	// exceeded is the limit that ended the evaluation.
	exceeded *plan.LimitError
}

func (b *bounds) Cancel() {} // nobody else ends an evaluation

func (b *bounds) shown() *dps.DeviceCertificate { return b.certificate }

// look is how many polls there are between two looks at the heap. A look costs a microsecond, as two polls do.
const look = 128

func (b *bounds) Cancelled() bool {
	if b.polls++; b.exceeded == nil && b.polls%look == 0 && b.grew() {
		// Topdown does not say where it is. Its own stack traces would, but they take for ever with large values.
		b.exceeded = &plan.LimitError{What: plan.Bytes, Limit: b.set.options.Memory, Together: true}
		if b.at != nil {
			b.exceeded.Place = PlaceOf(b.at)
		}
	}
	return b.exceeded != nil || b.Err() != nil
}

// halt ends the evaluation.
func (b *bounds) halt(limit *plan.LimitError) error {
	b.exceeded = limit
	return topdown.Halt{Err: &topdown.Error{Code: topdown.CancelErr, Message: limit.Error()}}
}

// grew reports whether the live heap has grown beyond the limit since the evaluation began. It is that of the whole
// process, so what others make meanwhile counts too. But an evaluation cannot be blamed before this much was allocated
// while it ran, so that one that takes no longer than usual is never ended for another one.
func (b *bounds) grew() bool {
	now := readHeap()
	if b.began == (heap{}) {
		b.began = now
		return false
	}
	most := uint64(b.set.options.Memory)
	mayHave := func() bool { return now.allocated > b.began.allocated+most && now.occupied > b.began.live+most }
	if !mayHave() {
		return false
	}
	// What is occupied includes garbage. Only a collection shows how much: one at a time, because it is the same for all.
	b.set.collecting.Lock()
	defer b.set.collecting.Unlock()
	if now = readHeap(); !mayHave() {
		return false
	}
	runtime.GC()
	return readHeap().live > b.began.live+most
}

// bound gives the evaluation new bounds.
func (e *evaluation) bound() {
	if e.bounds != nil {
		e.bounds.account.Close()
	}
	e.bounds = &bounds{Context: e.ctx, set: e.set, certificate: e.shown, account: plan.NewAccount(e.set.options.Memory, e.set.budget), notes: e.notes}
}

// close ends the use of the bounds. If the heap has grown too much, it is collected, so that the next evaluation does not
// take what this one made for what was always there.
func (e *evaluation) close() {
	if e.bounds == nil {
		return
	}
	e.bounds.account.Close()
	if limit := e.bounds.exceeded; limit != nil && limit.Together {
		e.cache, e.builtinErrors = nil, nil
		runtime.GC()
	}
}

// body is that of a query, with bounded functions if the evaluation has bounds.
func (e *evaluation) body(query entryQuery) ast.Body {
	if e.bounds != nil {
		return query.bounded
	}
	return query.body
}

// newCache returns a cache for what rules say.
func (e *evaluation) newCache() topdown.VirtualCache {
	if e.bounds != nil {
		return &kept{VirtualCache: topdown.NewVirtualCache()}
	}
	return topdown.NewVirtualCache()
}

// kept is a cache that keeps from one query to the next what rules say with bounded functions. OPA would forget it, as it
// does for any other `with`.
type kept struct {
	topdown.VirtualCache
	depth int // of `with`
}

func (k *kept) Push() {
	if k.depth++; k.depth > 1 {
		k.VirtualCache.Push()
	}
}

func (k *kept) Pop() {
	if k.depth--; k.depth > 0 {
		k.VirtualCache.Pop()
	}
}

// heap is the state of the process's heap, in bytes.
type heap struct {
	allocated uint64 // since the start of the process
	occupied  uint64 // by objects that are live or not yet swept
	live      uint64 // after the last collection
}

func readHeap() heap {
	samples := [...]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples[:])
	return heap{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()}
}
