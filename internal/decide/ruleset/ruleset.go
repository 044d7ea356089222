// Package ruleset loads a folder of Rego rules, finds the rule that serves an enrollment, and evaluates it for a
// request.
//
// It does not decide whether DPS may get what a rule says; its callers do.
package ruleset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/plan"
)

// Options control how rules are loaded. The zero value is usable.
type Options struct {
	// Name is put before each file's path in errors, such as "rules"; may be empty.
	Name string
	// InputSchema is the JSON Schema that rules are type-checked against, as encoding/json decodes it into any; nil
	// checks nothing.
	InputSchema any
	// AllowBuiltins names built-in functions that are off by default: see [Restricted].
	AllowBuiltins []string
	// AllowNet names the hosts that an allowed http.send may reach.
	AllowNet []string
	// Lazy compiles each rule when it is first needed, instead of all of them in Load. A rule that does not compile is
	// then an error of that rule, and [Ruleset.CompileAll] finds it.
	Lazy bool
	// Strict refuses unused variables and imports, as `opa check --strict` does.
	Strict bool
	// Evaluator evaluates the rules; the default is [ByPlan].
	Evaluator Evaluator
	// Memory bounds what the values take that a rule makes for one decision, in bytes; 0 means [DefaultMemory]. Decisions
	// at the same time have as much together, besides the first MiB of each.
	Memory int64
	// Steps bound how many statements of its plan a rule executes for one decision; 0 means [DefaultSteps].
	Steps int
	// Evaluations count what evaluates the rules; may be nil.
	Evaluations *Evaluations
	// Replaces are rules that are in use; may be nil. What has not changed is taken from them, compiled. A rule that they
	// have evaluated is ready for the next request when Load returns.
	Replaces *Ruleset
	// Background leaves the processors to requests: compiling all packages uses about half of one.
	Background bool

	perUnit int // packages in a unit, at most; 0 means packagesInUnit
}

// Ruleset is an immutable set of rules. It is safe for concurrent use.
type Ruleset struct {
	options  Options
	digest   string
	packages map[string]*rulePackage
	tree     *packageTree
	rules    []*Rule          // by package name
	ruleOf   map[string]*Rule // of a package
	index    index
	budget   *plan.Budget
	*environment

	units atomic.Pointer[units] // nil until all packages are compiled
}

// environment is what all packages see besides each other. Rulesets that replace each other share it if it is the same.
type environment struct {
	inputs       string // identifies all that it depends on
	capabilities *ast.Capabilities
	compiling    *ast.Capabilities  // capabilities and bounded functions
	added        []*topdown.Builtin // the functions that Usher adds to Rego
	builtins     map[string]*topdown.Builtin
	functions    map[string]plan.Function // the added ones, for plans
	notes        sync.Pool                // of *notes
	schemas      *ast.SchemaSet
	store        storage.Store
	txn          storage.Transaction
	data         ast.Value // all that the store contains
	dataFiles    []string  // relative to the folder
	lookups      []*lookups.Declaration
	fixtures     lookups.Fixtures
	collecting   sync.Mutex // held while an evaluation collects garbage
}

// Load reads the rules under fsys: every *.rego file except tests and invariants, and data from data.json and
// data.yaml, laid out as in an OPA bundle. Each data file is checked by the data.schema.json next to it, if any. It returns a *LoadError that lists every problem found.
func Load(ctx context.Context, fsys fs.FS, options Options) (*Ruleset, error) {
	if options.Evaluations == nil {
		options.Evaluations = &Evaluations{}
	}
	options.Memory = cmp.Or(options.Memory, DefaultMemory)
	options.Steps = cmp.Or(options.Steps, DefaultSteps)
	options.perUnit = cmp.Or(options.perUnit, packagesInUnit)
	before := options.Replaces
	options.Replaces = nil // it can be freed once it is replaced
	rs := &Ruleset{options: options, budget: plan.NewBudget(options.Memory), environment: &environment{notes: sync.Pool{New: func() any { return &notes{} }}}}
	pace := rs.newPace()
	if options.Lazy {
		pace = nil // someone waits for it
	}
	files, err := readFiles(fsys)
	if err != nil {
		return nil, rs.loadError(err.Error(), "name a folder that contains Rego files")
	}
	if err := rs.declareLookups(fsys, files.lookups); err != nil {
		return nil, err
	}
	rs.inputs = rs.identify(files)
	var known map[string]*rulePackage
	same := before.sees(rs)
	if same {
		rs.environment, known = before.environment, before.packages
	} else if err := rs.buildEnvironment(); err != nil {
		return nil, err
	}
	var problems []Problem
	rs.packages, problems = readPackages(files.rego, options.Name, rs.parserOptions(), known, pace)
	rs.tree = newPackageTree(rs.packages)
	problems = append(problems, rs.bind()...)
	if len(problems) > 0 {
		return nil, NewLoadError(problems)
	}
	if len(rs.rules) == 0 {
		return nil, rs.loadError("no rule serves any enrollment", "add a package whose METADATA names enrollments under "+
			"custom.enrollment_groups or custom.individual_enrollments, or a package "+defaultPackage)
	}
	if !same {
		if err := rs.openStore(ctx, files.data, files.schemas); err != nil {
			return nil, err
		}
	}
	hash := sha256.New()
	writeFiles(hash, slices.Concat(files.rego, files.data, files.lookups))
	rs.digest = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	if options.Lazy {
		return rs, nil
	}
	if err := rs.compileAll(ctx, before); err != nil {
		return nil, err
	}
	rs.prepareAsIn(before, pace)
	return rs, nil
}

// identify returns a digest of the data and of what stands around it.
func (rs *Ruleset) identify(files sources) string {
	hash := sha256.New()
	for _, list := range [][]file{files.data, files.schemas, files.lookups} {
		fmt.Fprintf(hash, "%d\n", len(list))
		writeFiles(hash, list)
	}
	fmt.Fprintf(hash, "%s", rs.fixtures.Digest())
	return string(hash.Sum(nil))
}

// writeFiles writes files so that no others give the same bytes.
func writeFiles(w io.Writer, files []file) {
	for _, f := range files {
		fmt.Fprintf(w, "%d\n%s%d\n%s", len(f.path), f.path, len(f.text), f.text)
	}
}

// sees reports whether packages mean the same in other rules as in these.
func (rs *Ruleset) sees(other *Ruleset) bool {
	if rs == nil || rs.inputs != other.inputs {
		return false
	}
	a, b := rs.options, other.options
	for _, o := range []*Options{&a, &b} {
		o.Lazy, o.Background, o.Evaluations = false, false, nil
	}
	return reflect.DeepEqual(a, b)
}

// Digest identifies what decides, the content of all Rego, data and declarations of look-ups: "sha256:" and 64 hex
// digits. A schema of data is not part of it, because the same data is served with the schema and without; nor are
// fixtures, which stand for what is elsewhere.
func (rs *Ruleset) Digest() string { return rs.digest }

// Rules lists the rules in the order of their packages.
func (rs *Ruleset) Rules() []*Rule { return slices.Clone(rs.rules) }

// OnUndecided says what happens to a device if its rule says nothing.
type OnUndecided string

// The values of custom.on_undecided in a rule's METADATA.
const (
	Hold   OnUndecided = "hold"   // DPS asks again; the default
	Reject OnUndecided = "reject" // the device is rejected
	Stay   OnUndecided = "stay"   // the device keeps its hub if that is still linked; otherwise hold
)

// Rule is one Rego package that serves enrollments.
type Rule struct {
	answer.Rule
	Description string // from its METADATA
	// Individuals and Groups are the names and globs that it serves, as written. Both are empty for the package
	// allocation.default.
	Individuals, Groups []string
	OnUndecided         OnUndecided

	set      *Ruleset
	prepared atomic.Pointer[preparedRule] // nil until it is needed
	mu       sync.Mutex                   // held while preparing
}

// IsDefault reports whether the rule serves the enrollments that no other rule does.
func (r *Rule) IsDefault() bool { return r.Package == defaultPackage }

// LoadError lists why rules cannot be loaded.
type LoadError struct{ Problems []Problem }

// Problem is one thing that is wrong with the rules.
type Problem struct {
	Place   string // file:line, file:line:column, or the folder
	Message string
	Fix     string // what to do about it; may be empty
}

func (p Problem) String() string {
	text := p.Message
	if p.Place != "" {
		text = p.Place + ": " + text
	}
	if p.Fix != "" {
		text += " (" + p.Fix + ")"
	}
	return text
}

func (e *LoadError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// NewLoadError sorts the problems, so that the same folder always has the same text.
func NewLoadError(problems []Problem) *LoadError {
	slices.SortFunc(problems, func(a, b Problem) int {
		fileA, lineA := SplitPlace(a.Place)
		fileB, lineB := SplitPlace(b.Place)
		return cmp.Or(strings.Compare(fileA, fileB), lineA-lineB, strings.Compare(a.String(), b.String()))
	})
	return &LoadError{Problems: slices.Compact(problems)}
}

// loadError is a problem of the whole folder.
func (rs *Ruleset) loadError(message, fix string) *LoadError {
	return &LoadError{Problems: []Problem{{Place: rs.options.Name, Message: message, Fix: fix}}}
}
