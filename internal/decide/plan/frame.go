package plan

import (
	"cmp"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/dps"
)

// step executes a statement. It says where to go on.
type step func(f *frame) jump

// jump is where to go on after a statement: with the next one, or, as a number from 0, behind a block, counted from the
// innermost one. What is undefined leaves the innermost block.
type jump int

const (
	next     jump = -1
	leave    jump = 0
	returned jump = -2 // the function returns
	halted   jump = -3 // the evaluation ends; see frame.err
)

type block []step

// run executes the statements of a block.
func (b block) run(f *frame) jump {
	m := f.machine
	if m.steps += len(b); m.steps > m.poll && !m.goesOn(b) {
		return halted
	}
	for _, s := range b {
		if to := s(f); to != next {
			return to
		}
	}
	return next
}

// runAll executes blocks one after the other, each whether the one before was left or not.
func runAll(blocks []block, f *frame) jump {
	for _, b := range blocks {
		if to := b.run(f); to > leave {
			return to - 1
		} else if to < next {
			return to
		}
	}
	return next
}

// frame has the registers of one call.
type frame struct {
	*machine
	registers []value
	noted     int // the number of the definition that held in this call, plus 1
}

// machine is what the calls of one evaluation share.
type machine struct {
	program *Program
	terms
	stack     []value  // registers; each frame has a piece
	memo      [][]memo // by suppositions (with), the innermost last
	held      []int
	results   []value
	err       error
	options   Evaluation
	context   topdown.BuiltinContext
	steps     int // statements so far
	poll      int // when to look whether to go on
	account   Account
	depth     int
	frames    []*frame // by depth; those from depth on are free
	freed     [][]memo
	call      call
	arguments [3]value // of a native
}

// memo is what a rule says.
type memo struct {
	known bool
	value value
}

// Evaluation is one evaluation of a program.
type Evaluation struct {
	// Input is the request as it was parsed, or Value is the input as OPA has it. Without both there is no input.
	Input *dps.Value
	Value ast.Value
	// Context is what functions get, besides the time.
	Context topdown.BuiltinContext
	// Now is the time of the evaluation.
	Now time.Time
	// MaxSteps and MaxBytes bound how many statements are executed, and how much they make; 0 means no bound.
	MaxSteps int
	MaxBytes int64
	// Budget is shared with other evaluations; may be nil.
	Budget *Budget
}

// Result is what an evaluation gave.
type Result struct {
	// Bindings are the values of the query's variables, once for each way in which it holds, in the types of
	// encoding/json. A set is a sorted list. It is nil with [Options.Lists].
	Bindings []map[string]any
	// Firsts are the first elements of the arrays that are bound to [Options.Lists]; nil for an empty one, and for null.
	Firsts []*dps.Value
	// Held are the numbers that [Options.Noted] was called with.
	Held []int
}

// newMachines returns a pool of machines: each keeps its memory for the next evaluation.
func newMachines(p *Program) *sync.Pool {
	return &sync.Pool{New: func() any {
		m := &machine{program: p, stack: make([]value, 0, 256)}
		m.call.machine = m
		m.call.receive = m.call.output
		return m
	}}
}

// enough is how many statements are executed between two looks at whether to go on.
const enough = 1000

// goesOn reports whether the evaluation may go on with a block.
func (m *machine) goesOn(b block) bool {
	m.poll = m.steps + enough
	if c := m.context.Cancel; c != nil && c.Cancelled() {
		m.err = &topdown.Error{Code: topdown.CancelErr, Message: "caller cancelled query execution"}
	} else if m.options.MaxSteps > 0 && m.steps > m.options.MaxSteps {
		m.err = &LimitError{What: Steps, Limit: int64(m.options.MaxSteps), Place: placeOf(m.program.places[&b[0]])}
	}
	return m.err == nil
}

// push returns a frame with empty registers.
func (m *machine) push(size int) *frame {
	from := len(m.stack)
	if from+size > cap(m.stack) {
		m.stack = make([]value, from, 2*cap(m.stack)+size) // the frames that are open keep their pieces of the old one
	}
	m.stack = m.stack[:from+size]
	if m.depth == len(m.frames) {
		m.frames = append(m.frames, &frame{machine: m})
	}
	f := m.frames[m.depth]
	m.depth++
	f.registers, f.noted = m.stack[from:from+size:from+size], 0
	return f
}

func (m *machine) pop(f *frame) {
	clear(f.registers)
	m.stack = m.stack[:len(m.stack)-len(f.registers)]
	m.depth--
}

// memos returns an empty memory for what rules say.
func (m *machine) memos() []memo {
	if n := len(m.freed); n > 0 {
		list := m.freed[n-1]
		m.freed = m.freed[:n-1]
		return list
	}
	return make([]memo, len(m.program.functions))
}

func (m *machine) suppose() { m.memo = append(m.memo, m.memos()) }

func (m *machine) restore() {
	last := len(m.memo) - 1
	clear(m.memo[last])
	m.freed = append(m.freed, m.memo[last])
	m.memo = m.memo[:last]
}

// Run evaluates the program's query.
func (p *Program) Run(e Evaluation) (Result, error) {
	m := p.machines.Get().(*machine)
	defer m.release()
	m.options, m.context, m.account = e, e.Context, Account{most: e.MaxBytes, budget: e.Budget}
	m.suppose()
	f := m.push(p.registers)
	if e.Input != nil {
		f.registers[0] = e.Input
	} else if e.Value != nil {
		f.registers[0] = e.Value
	}
	f.registers[1] = p.data
	if runAll(p.plan, f) == halted {
		return Result{}, m.err
	}
	result := Result{Held: append([]int(nil), m.held...)}
	if p.lists != nil {
		var err error
		result.Firsts, err = m.firsts()
		return result, err
	}
	for _, r := range m.results {
		bindings, err := m.json(r)
		if err != nil {
			return Result{}, cmp.Or(m.err, ErrUnclear)
		}
		result.Bindings = append(result.Bindings, bindings.Interface().(map[string]any))
	}
	return result, nil
}

// firsts returns the first elements of the arrays that the query has bound.
func (m *machine) firsts() ([]*dps.Value, error) {
	if len(m.results) != 1 {
		return nil, ErrUnclear
	}
	bindings, ok := m.results[0].(*object)
	if !ok {
		return nil, ErrUnclear
	}
	firsts := make([]*dps.Value, len(m.program.lists))
	for i, name := range m.program.lists {
		list, ok := bindings.get(name).(*array)
		if !ok {
			return nil, ErrUnclear
		}
		if len(list.elements) == 0 {
			continue
		}
		first, err := m.json(list.elements[0])
		if err != nil {
			return nil, cmp.Or(m.err, ErrUnclear)
		}
		if first.Kind() != dps.Null {
			firsts[i] = &first
		}
	}
	return firsts, nil
}

// release forgets the evaluation and keeps what it needed for the next one.
func (m *machine) release() {
	m.account.Close()
	for len(m.memo) > 0 {
		m.restore()
	}
	clear(m.stack) // what pop has not cleared
	clear(m.request)
	clear(m.results)
	m.stack, m.held, m.results = m.stack[:0], m.held[:0], m.results[:0]
	m.err, m.options, m.context, m.steps, m.poll, m.account, m.depth = nil, Evaluation{}, topdown.BuiltinContext{}, 0, 0, Account{}, 0
	m.call.release()
	m.arguments = [3]value{}
	m.program.machines.Put(m)
}

// unclear ends the evaluation without a result that counts.
func (m *machine) unclear() jump {
	m.err = ErrUnclear
	return halted
}
