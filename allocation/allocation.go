package allocation

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/lookup"
)

// DefaultTimeout is how long a rule may take unless [Options] say otherwise.
const DefaultTimeout = decider.DefaultTimeout

// RulesOptions say how rules are loaded. The zero value is usable.
type RulesOptions struct {
	// Name is put before each file's path in errors and logs, such as "rules".
	Name string
	// AllowBuiltins names OPA built-ins that are off by default because their result depends on the network, the clock,
	// chance or the host.
	AllowBuiltins []string
	// AllowNet names the hosts that an allowed http.send may reach; none by default.
	AllowNet []string
	// Revision is a name for this state of the rules, such as a tag or a commit; may be empty.
	Revision string
}

// Rules are loaded rules. They never change and are safe for concurrent use.
type Rules struct{ rules *decider.Rules }

// LoadRules reads the Rego rules and data under fsys and type-checks them against the schema of the AllocationRequest.
// The error lists every problem with its file and line, one per line.
func LoadRules(ctx context.Context, fsys fs.FS, options RulesOptions) (*Rules, error) {
	rules, err := decider.LoadRules(ctx, fsys, decider.RulesOptions{Name: options.Name, AllowBuiltins: options.AllowBuiltins,
		AllowNet: options.AllowNet, Revision: options.Revision})
	if err != nil {
		return nil, err
	}
	return &Rules{rules}, nil
}

// Digest identifies the content of the rules: "sha256:" and 64 hex digits.
func (r *Rules) Digest() string { return r.rules.Digest() }

// Options configure an [Allocator].
type Options struct {
	// Rules decide. Without any, every answer is NotReady until [Allocator.Use] is called.
	Rules *Rules
	// Timeout is how long a rule may take; 0 means [DefaultTimeout].
	Timeout time.Duration
	// Lookups are the sources of what rules look up, by the names that lookups.yaml declares. Each is asked once for a key
	// in a decision, under the time limit that is declared. Keeping rows for longer, as ttl and on_fault: stale declare
	// it for the webhook, is up to the source. nil means the fixtures next to the rules, for
	// development.
	Lookups map[string]lookup.Source
}

// Allocator answers AllocationRequests. It is safe for concurrent use.
type Allocator struct{ decider *decider.Decider }

// New returns an Allocator. It fails only if the embedded schema is broken.
func New(options Options) (*Allocator, error) {
	var rules *decider.Rules
	if options.Rules != nil {
		rules = options.Rules.rules
	}
	forDecider := decider.Options{Rules: rules, Timeout: options.Timeout}
	if options.Lookups != nil {
		forDecider.Lookups = sources(maps.Clone(options.Lookups))
	}
	d, err := decider.New(forDecider)
	if err != nil {
		return nil, err
	}
	return &Allocator{d}, nil
}

// sources are those of a service that embeds the webhook.
type sources map[string]lookup.Source

// Find implements [lookups.Sources].
func (s sources) Find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	source := s[d.Name]
	if source == nil {
		return lookups.Found{}, errors.New("there is no source for it in allocation.Options.Lookups")
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	a, err := source.Find(ctx, key)
	return lookups.Found{Answer: a, Source: d.Name}, err
}

// Use replaces the rules. A request that is being decided continues with the rules that it started with.
func (a *Allocator) Use(rules *Rules) { a.decider.Use(rules.rules) }

// Allocate answers one request. The answer depends only on the request and the rules, unless the rules look something
// up or are allowed built-ins that depend on more. A request made in Go whose texts are not all valid UTF-8 is an InvalidRequest.
func (a *Allocator) Allocate(ctx context.Context, request *dps.AllocationRequest) answer.Answer {
	return a.decider.Allocate(ctx, request)
}

// AllocateJSON answers a body as DPS posts it. Beyond the results of [Allocator.Allocate] it can answer Malformed, and
// only then is the request nil.
func (a *Allocator) AllocateJSON(ctx context.Context, body []byte) (*dps.AllocationRequest, answer.Answer) {
	return a.decider.AllocateJSON(ctx, body)
}

// AllocateFrom is [Allocator.AllocateJSON] for a body from the DPS instance with this name, which rules see as
// dps.service. It may be empty; [dps.ValidService] says what a name is, and any other one is an InvalidRequest.
func (a *Allocator) AllocateFrom(ctx context.Context, service string, body []byte) (*dps.AllocationRequest, answer.Answer) {
	return a.decider.AllocateFrom(ctx, service, body)
}

// Ready returns the digest of the rules in use. The result is empty if they decide, or says why they do not.
func (a *Allocator) Ready() (digest string, fault answer.Result) { return a.decider.Ready() }
