package explanation

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// mutants loads the shipped rules with one definition changed.
type mutants struct {
	files fstest.MapFS
	set   *ruleset.Ruleset
	mu    sync.Mutex
	cache map[string]*ruleset.Ruleset
}

func newMutants(t *testing.T) *mutants {
	t.Helper()
	m := &mutants{files: fstest.MapFS{}, set: loadShipped(t), cache: map[string]*ruleset.Ruleset{}}
	err := fs.WalkDir(os.DirFS(shippedRules), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(shippedRules, name))
		m.files[name] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// change loads the rules with the definition at a place changed, or nil if the changed rules do not load.
func (m *mutants) change(t *testing.T, kind, place, text string, change func(*ast.Rule)) *ruleset.Ruleset {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	key := kind + " " + place + " " + text
	if rs, done := m.cache[key]; done {
		return rs
	}
	file, row, _ := strings.Cut(strings.TrimPrefix(place, "rules/"), ":")
	module, err := m.set.Parse(file, m.files[file].Data)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, rule := range module.Rules {
		for branch := rule; branch != nil; branch = branch.Else {
			if fmt.Sprint(branch.Location.Row) == row && headText(branch) == text {
				change(branch)
				changed++
			}
		}
	}
	if changed != 1 {
		t.Fatalf("%d definitions %q at %s", changed, text, place)
	}
	source, err := format.AstWithOpts(module, format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		t.Fatal(err)
	}
	files := maps.Clone(m.files)
	files[file] = &fstest.MapFile{Data: source}
	rs, err := ruleset.Load(t.Context(), files, ruleset.Options{Name: "rules"})
	if err != nil {
		t.Logf("%s does not load: %v\n%s", key, err, source)
		rs = nil
	}
	m.cache[key] = rs
	return rs
}

// without changes a definition so that it never holds.
func (m *mutants) without(t *testing.T, d Definition) *ruleset.Ruleset {
	t.Helper()
	return m.change(t, "without", d.Place, d.Text, func(rule *ast.Rule) {
		if rule.Default {
			// A default has no body to negate: it becomes another definition that never holds.
			rule.Default = false
			rule.Head.Assign = true
		}
		never := ast.NewExpr(ast.BooleanTerm(false))
		never.Location = rule.Location
		rule.Body.Append(never)
	})
}

func entryOf(e *Explanation, name string) Entry {
	for _, entry := range e.Entries {
		if entry.Name == name {
			return entry
		}
	}
	return Entry{}
}

// said evaluates one entry rule of the rule of that package.
func said(t *testing.T, rs *ruleset.Ruleset, rule *ruleset.Rule, document map[string]any, name string) any {
	t.Helper()
	for _, r := range rs.Rules() {
		if r.Package != rule.Package {
			continue
		}
		inspection := inspect(t, r, document)
		value, err := inspection.Value(name, r.Entry(name))
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	t.Fatalf("no package %s", rule.Package)
	return nil
}

func inspect(t *testing.T, rule *ruleset.Rule, document map[string]any) *ruleset.Inspection {
	t.Helper()
	syntax, err := rule.Syntax()
	if err != nil {
		t.Fatal(err)
	}
	return syntax.Inspect(t.Context(), document, ruleset.Outside{})
}

// The explanation of every shipped rule on every example request, also those meant for another one, is right: what
// Evaluate says is what the definitions that gave it say; a definition that gave it makes another answer when it is
// taken away; one that gave nothing can be taken away; and OPA's own trace has the expressions fail that are said to.
func TestExplainShippedRules(t *testing.T) {
	t.Parallel()
	rules := loadShipped(t)
	m := newMutants(t)
	files, err := filepath.Glob(filepath.Join(exampleRequests, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	var count struct {
		sync.Mutex
		gave, failed, unreached, traced int
	}
	t.Run("all", func(t *testing.T) {
		for _, rule := range rules.Rules() {
			for _, file := range files {
				t.Run(rule.Package+"/"+filepath.Base(file), func(t *testing.T) {
					t.Parallel()
					request := exampleRequest(t, filepath.Base(file))
					document := request.Document()
					verdict, err := rule.Evaluate(t.Context(), request.Body(), ruleset.Outside{})
					if err != nil {
						t.Fatal(err)
					}
					e, err := Explain(t.Context(), rule, document, ruleset.Outside{})
					if err != nil || e.CutShort != nil {
						t.Fatal(err, e.CutShort)
					}
					agree(t, verdict, e)
					failing := traced(t, rule, document)
					for _, entry := range e.Entries {
						for _, d := range entry.Definitions {
							mutant := m.without(t, d)
							if mutant == nil {
								t.Fatalf("%s %s: cannot be taken away", d.Place, d.Text)
							}
							changed := !reflect.DeepEqual(said(t, mutant, rule, document, entry.Name), entry.Value)
							if gave := d.State == Gave && !sameGiven(entry, d); gave != changed {
								t.Errorf("%s %s: %s, but taking it away changes the answer: %v", d.Place, d.Text, d.State, changed)
							}
							count.Lock()
							switch d.State {
							case Gave:
								count.gave++
							case Unreached:
								count.unreached++
							case NotHeld:
								count.failed++
							default:
								t.Errorf("%s: %s", d.Place, d.State)
							}
							count.Unlock()
						}
						n := checkFailures(t, failing, entry.Definitions)
						count.Lock()
						count.traced += n
						count.Unlock()
					}
				})
			}
		}
	})
	// The test has missed the point if it saw little.
	if count.gave < 100 || count.failed < 100 || count.unreached < 10 || count.traced < 300 {
		t.Errorf("only %d definitions gave a value, %d did not hold, %d were not reached; %d failures compared with the trace",
			count.gave, count.failed, count.unreached, count.traced)
	}
}

// sameGiven reports whether the value of an entry would be given without the definition, too: another one says the
// same, or it is a reason that another one gives.
func sameGiven(entry Entry, d Definition) bool {
	for _, other := range entry.Definitions {
		if other.State != Gave || other.Place == d.Place && other.Text == d.Text {
			continue
		}
		if reflect.DeepEqual(other.Value, d.Value) {
			return true
		}
	}
	// An else branch behind it, or the default, may say the same.
	for i, other := range entry.Definitions {
		if other.State == Unreached && reflect.DeepEqual(other.Value, d.Value) && other.Failed == nil &&
			(other.Default || other.Else && nextBranch(entry.Definitions, i, d)) {
			return true
		}
	}
	return false
}

// nextBranch reports whether the definition at index is the branch that would be next after d.
func nextBranch(definitions []Definition, index int, d Definition) bool {
	for i := index - 1; i >= 0; i-- {
		if definitions[i].Place == d.Place && definitions[i].Text == d.Text {
			return true
		}
		if definitions[i].Failed == nil || !definitions[i+1].Else {
			return false
		}
	}
	return false
}

// agree compares the verdict with the values that the definitions gave.
func agree(t *testing.T, verdict ruleset.Verdict, e *Explanation) {
	t.Helper()
	want := map[string]any{"hub": verdict.Hub.Interface(), "initial_twin": verdict.InitialTwin.Interface(), "payload": verdict.Payload.Interface(),
		"reject": verdict.Reject.Interface(), "hold": verdict.Hold.Interface()}
	for _, entry := range e.Entries {
		if entry.Asked && !reflect.DeepEqual(entry.Value, want[entry.Name]) {
			t.Errorf("%s: explained as %v, said %v", entry.Name, entry.Value, want[entry.Name])
		}
		var elements []any
		for _, d := range entry.Definitions {
			if d.State != Gave {
				continue
			}
			list, isSet := d.Value.([]any)
			if !isSet && !reflect.DeepEqual(d.Value, entry.Value) {
				t.Errorf("%s %s gave %v, but %s is %v", d.Place, d.Text, d.Value, entry.Name, entry.Value)
			}
			for _, element := range list {
				if !containsValue(elements, element) {
					elements = append(elements, element)
				}
			}
		}
		if list, isSet := entry.Value.([]any); isSet && len(elements) != len(list) {
			t.Errorf("%s is %v, its definitions gave %v", entry.Name, list, elements)
		}
	}
}

// failures are the places of expressions that OPA's tracer saw fail, and those of definitions that it saw end.
type failures struct {
	failed map[string]bool // file:row:col text
	exited map[string]bool // file:row text
}

// traced asks the rule with everything evaluated: no index, no early exit.
func traced(t *testing.T, rule *ruleset.Rule, document map[string]any) failures {
	t.Helper()
	found := failures{map[string]bool{}, map[string]bool{}}
	for _, name := range ruleset.EntryNames() {
		inspection := inspect(t, rule, document)
		tracer := topdown.NewBufferTracer()
		body := ast.NewBody(ast.Equality.Expr(ast.VarTerm("answer"), ast.NewTerm(rule.Entry(name))))
		err := inspection.Query(body).WithIndexing(false).WithEarlyExit(false).WithQueryTracer(tracer).
			Iter(t.Context(), func(topdown.QueryResult) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range *tracer {
			switch node := event.Node.(type) {
			case *ast.Expr:
				if event.Op == topdown.FailOp {
					whole := node.BaseCogeneratedExpr()
					found.failed[ruleset.PlaceOf(whole.Location)+" "+exprText(whole)] = true
				}
			case *ast.Rule:
				if event.Op == topdown.ExitOp {
					found.exited[ruleset.PlaceOf(node.Location)+" "+headText(node)] = true
				}
			}
		}
	}
	return found
}

// checkFailures holds failing expressions, nested ones too, to OPA's trace, and returns how many there were.
func checkFailures(t *testing.T, trace failures, definitions []Definition) int {
	t.Helper()
	n := 0
	for _, d := range definitions {
		switch d.State {
		case Gave:
			if !trace.exited[d.Place+" "+d.Text] && !d.Default {
				t.Errorf("%s %s is said to hold, which OPA's trace does not have", d.Place, d.Text)
			}
			for _, term := range d.Uses {
				n += checkFailures(t, trace, term.Definitions)
			}
		case NotHeld:
			n++
			if d.Failed == nil {
				t.Errorf("%s %s does not hold, but no expression fails", d.Place, d.Text)
				continue
			}
			// A function may hold when called with other arguments.
			if trace.exited[d.Place+" "+d.Text] && !strings.Contains(d.Text, "(") {
				t.Errorf("%s %s is said not to hold, but OPA's trace has it end", d.Place, d.Text)
			}
			if !trace.failed[d.Failed.Place+" "+d.Failed.Text] {
				t.Errorf("%s is said to fail at %s, which OPA's trace does not have", d.Failed.Text, d.Failed.Place)
			}
			for _, term := range d.Failed.Terms {
				n += checkFailures(t, trace, term.Definitions)
			}
		}
	}
	return n
}

// Were the failing expression true, the definition would fail elsewhere, or hold.
func TestExplainShippedRulesNameTheFirstFailure(t *testing.T) {
	t.Parallel()
	rules := loadShipped(t)
	m := newMutants(t)
	files, err := filepath.Glob(filepath.Join(exampleRequests, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	mended := 0
	for _, rule := range rules.Rules() {
		for _, file := range files {
			request := exampleRequest(t, filepath.Base(file))
			e, err := Explain(t.Context(), rule, request.Document(), ruleset.Outside{})
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range e.Entries {
				for _, d := range entry.Definitions {
					if d.State != NotHeld || strings.Contains(d.Text, d.Failed.Text) {
						continue // the head itself cannot be mended
					}
					mutant := m.change(t, "mended "+d.Failed.Text, d.Place, d.Text, func(r *ast.Rule) {
						r.Body = slices.DeleteFunc(r.Body, func(expr *ast.Expr) bool { return string(expr.Location.Text) == d.Failed.Text })
						if len(r.Body) == 0 {
							r.Body = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))
							r.Body[0].Location = r.Location
						}
					})
					if mutant == nil {
						continue // the expression binds a variable that the rest needs
					}
					mended++
					for _, r := range mutant.Rules() {
						if r.Package != rule.Package {
							continue
						}
						again, err := Explain(t.Context(), r, request.Document(), ruleset.Outside{})
						if err != nil {
							t.Fatal(err)
						}
						for _, after := range entryOf(again, entry.Name).Definitions {
							if after.Text == d.Text && after.Failed != nil && after.Failed.Text == d.Failed.Text {
								t.Errorf("%s on %s: %s fails even where it is not", d.Place, filepath.Base(file), d.Failed.Text)
							}
						}
					}
				}
			}
		}
	}
	if mended < 100 {
		t.Errorf("only %d failing expressions could be taken away", mended)
	}
}

const (
	shippedRules    = "../../../rules"
	exampleRequests = "../../../examples/requests"
)

func loadShipped(t *testing.T) *ruleset.Ruleset {
	t.Helper()
	rules, err := ruleset.Load(t.Context(), os.DirFS(shippedRules), ruleset.Options{Name: "rules", Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func exampleRequest(t *testing.T, name string) *dps.AllocationRequest {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(exampleRequests, name))
	if err != nil {
		t.Fatal(err)
	}
	request, err := dps.ParseAllocationRequest(body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return request
}
