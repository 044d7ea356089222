package decider

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// Evaluator says what evaluates rules; see package ruleset.
type Evaluator = ruleset.Evaluator

// The evaluators.
const (
	ByPlan    = ruleset.ByPlan
	ByTopdown = ruleset.ByTopdown
	Compare   = ruleset.Compare
)

// DefaultMemory is how much the values that a rule makes for one decision may take, in bytes.
const DefaultMemory = ruleset.DefaultMemory

// Evaluations count what evaluated rules.
type Evaluations = ruleset.Evaluations

// RulesOptions say how rules are loaded. The zero value is usable.
type RulesOptions struct {
	// Name is put before each file's path in errors and logs, such as "rules".
	Name string
	// AllowBuiltins names OPA built-ins that are off by default because their result depends on the network, the clock,
	// chance or the host.
	AllowBuiltins []string
	// AllowNet names the hosts that an allowed http.send may reach; none by default.
	AllowNet []string
	// Lazy compiles each rule when it is first needed. Call [Rules.CompileAll] soon afterwards: it finds the errors.
	Lazy bool
	// Strict refuses unused variables and imports.
	Strict bool
	// Evaluator evaluates the rules; the default is [ByPlan].
	Evaluator Evaluator
	// Memory bounds what the values take that a rule makes for one decision, in bytes; 0 means [DefaultMemory].
	Memory int64
	// Evaluations count what evaluates the rules; may be nil.
	Evaluations *Evaluations
	// Replaces are rules that are in use; may be nil. What has not changed since is taken from them, and rules that they
	// evaluated are ready for the next request.
	Replaces *Rules
	// Background leaves the processors to requests while rules are loaded and compiled.
	Background bool
	// Revision is the name that those who shipped the rules gave to this state of them, such as a tag or a commit; may
	// be empty.
	Revision string
}

func (o RulesOptions) forRuleset() (ruleset.Options, error) {
	var inputSchema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &inputSchema); err != nil {
		return ruleset.Options{}, fmt.Errorf("schemas: %w", err)
	}
	var replaces *ruleset.Ruleset
	if o.Replaces != nil {
		replaces = o.Replaces.set
	}
	return ruleset.Options{Name: o.Name, InputSchema: inputSchema, AllowBuiltins: o.AllowBuiltins, AllowNet: o.AllowNet,
		Lazy: o.Lazy, Strict: o.Strict, Evaluator: o.Evaluator, Memory: o.Memory, Evaluations: o.Evaluations,
		Replaces: replaces, Background: o.Background}, nil
}

// Rules are loaded rules. They never change and are safe for concurrent use.
type Rules struct {
	set *ruleset.Ruleset
	// interruptible: every built-in function that the rules may call stops soon after the time limit. Those that are on
	// by default do.
	interruptible bool
	revision      string
	reads         sync.Map // by rule, for Needs
}

// LoadRules reads the Rego rules and data under fsys and type-checks them against the schema of the AllocationRequest.
// The error lists every problem with its file and line, one per line.
func LoadRules(ctx context.Context, fsys fs.FS, options RulesOptions) (*Rules, error) {
	prepared, err := options.forRuleset()
	if err != nil {
		return nil, err
	}
	set, err := ruleset.Load(ctx, fsys, prepared)
	if err != nil {
		return nil, err
	}
	return &Rules{set: set, interruptible: len(options.AllowBuiltins) == 0, revision: options.Revision}, nil
}

// CompileAll compiles the rules that were loaded lazily. The error lists every problem; rules without one keep serving.
func (r *Rules) CompileAll(ctx context.Context) error { return r.set.CompileAll(ctx) }

// Digest identifies the content of the rules: "sha256:" and 64 hex digits.
func (r *Rules) Digest() string { return r.set.Digest() }

// Revision is the name that those who shipped the rules gave them; empty if they gave none.
func (r *Rules) Revision() string { return r.revision }

// Set returns the rules as package ruleset loaded them, for tools that read rules.
func (r *Rules) Set() *ruleset.Ruleset { return r.set }

// Lookups lists the look-ups that rules can need: those that they declare, and lookup.hub if some rule uses it.
func (r *Rules) Lookups() []*lookups.Declaration {
	return slices.DeleteFunc(slices.Clone(r.set.Lookups()), func(d *lookups.Declaration) bool {
		return d.Name == lookups.HubName && !r.set.UsesLookup(d.Name)
	})
}

// All lists the rules in the order of their packages.
func (r *Rules) All() []*ruleset.Rule { return r.set.Rules() }

// Serving returns the rule that serves an enrollment; nil if none does, not even a default.
func (r *Rules) Serving(enrollment dps.Enrollment) *ruleset.Rule { return r.set.Serving(enrollment) }

// Capabilities returns what rules that are loaded from fsys with these options may call, in the form of OPA's
// capabilities files, for tools and editors. Without rules, fsys is nil. It fails if the options allow a built-in that
// OPA does not have, or if look-ups are declared wrongly.
func Capabilities(fsys fs.FS, options RulesOptions) ([]byte, error) {
	return ruleset.Capabilities(fsys, ruleset.Options{Name: options.Name, AllowBuiltins: options.AllowBuiltins, AllowNet: options.AllowNet})
}
