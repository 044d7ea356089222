package allocation

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"sync"

	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// RulesOptions say how rules are loaded. The zero value is of use.
type RulesOptions struct {
	// Name stands before each file's path in errors and logs, such as "rules".
	Name string
	// AllowBuiltins names OPA built-ins that are off by default because their
	// answer depends on the network, the clock, chance or the host.
	AllowBuiltins []string
	// AllowNet names the hosts that an allowed http.send may reach; none by default.
	AllowNet []string
	// Lazy compiles a rule when it is first asked for. Call [Rules.CompileAll]
	// soon after: it is what finds the errors.
	Lazy bool
	// Strict refuses unused variables and imports.
	Strict bool
	// Revision is what those who shipped the rules call this state of them, such
	// as a tag or a commit; may be empty.
	Revision string
}

// Rules are loaded rules. They never change and are safe for concurrent use.
type Rules struct {
	set *ruleset.Ruleset
	// interruptible: every built-in function that the rules may call ends soon
	// after its deadline. Those that are on by default do.
	interruptible bool
	revision      string
	bindings      map[*ruleset.Rule]*Binding
	reads         sync.Map // by rule, for Needs
}

// LoadRules reads the Rego rules and data under fsys and type-checks them
// against the schema of the AllocationRequest. The error lists every problem
// with its file and line, one to a line.
func LoadRules(ctx context.Context, fsys fs.FS, options RulesOptions) (*Rules, error) {
	var inputSchema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &inputSchema); err != nil {
		return nil, fmt.Errorf("schemas: %w", err)
	}
	set, err := ruleset.Load(ctx, fsys, ruleset.Options{
		Name:          options.Name,
		InputSchema:   inputSchema,
		AllowBuiltins: options.AllowBuiltins,
		AllowNet:      options.AllowNet,
		Lazy:          options.Lazy,
		Strict:        options.Strict,
	})
	if err != nil {
		return nil, err
	}
	bindings := map[*ruleset.Rule]*Binding{}
	for _, rule := range set.Rules() {
		binding := bindingOf(rule)
		bindings[rule] = &binding
	}
	return &Rules{set: set, interruptible: len(options.AllowBuiltins) == 0, revision: options.Revision, bindings: bindings}, nil
}

// CompileAll compiles the rules that were loaded lazily. The error lists every
// problem; rules that it does not concern go on serving.
func (r *Rules) CompileAll(ctx context.Context) error { return r.set.CompileAll(ctx) }

// Digest identifies the content of the rules: "sha256:" and 64 hex digits.
func (r *Rules) Digest() string { return r.set.Digest() }

// Revision is what those who shipped the rules call them; empty if they gave no name.
func (r *Rules) Revision() string { return r.revision }

// Binding says which enrollments a rule serves.
type Binding struct {
	Package string // such as allocation.breakroom
	Title   string
	Place   string // file:line of its METADATA
	// Individuals and Groups are names and globs, as the rule writes them.
	Individuals, Groups []string
	// Default is set for the rule that serves all other enrollments.
	Default bool
	// Recordable are the paths of which its METADATA says that they may be
	// recorded, element by element; the first is a root such as payload.
	Recordable [][]string
}

// Bindings lists all rules in the order of their packages.
func (r *Rules) Bindings() []Binding {
	rules := r.set.Rules()
	bindings := make([]Binding, len(rules))
	for i, rule := range rules {
		bindings[i] = bindingOf(rule)
	}
	return bindings
}

func bindingOf(rule *ruleset.Rule) Binding {
	return Binding{
		Package: rule.Package, Title: rule.Title, Place: rule.Place,
		Individuals: rule.Individuals, Groups: rule.Groups, Default: rule.IsDefault(), Recordable: rule.Recordable,
	}
}
