// Package lookupsource answers the look-ups of rules from the sources that settings name. It keeps rows for a time, asks
// for each key once at a time, and spares a source that has faults.
package lookupsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/lookupsource/hubs"
)

// Options configure [Sources].
type Options struct {
	Settings Settings
	// Backends are sources that no setting opens, by name of the look-up.
	Backends map[string]Backend
	// Root is the folder that relative paths in settings start at; empty means the working directory.
	Root string
	// Folder keeps the last good snapshots for a start while their source is away. Required if there are any.
	Folder string
	// Fixtures lets the fixtures next to the rules answer look-ups without a source, for development.
	Fixtures bool
	// Credential returns an Azure identity when one is first needed.
	Credential func() (azcore.TokenCredential, error)
	// Transport reaches sources over HTTPS; nil means one with Go's own settings for each source.
	Transport http.RoundTripper
	// Observe is called after each look-up; may be nil. It must be quick.
	Observe func(name string, outcome Outcome, took time.Duration)
	// Log gets a line when a source starts to have faults, and when it is well again; nil discards them.
	Log *slog.Logger
}

// Sources answer look-ups. They implement [lookups.Sources].
type Sources struct {
	named    map[string]*source
	fixtures bool
	log      *slog.Logger

	mu   sync.Mutex
	told map[string]bool // names of look-ups without a source, and of sources without a look-up, that were reported
}

// New opens the sources. It connects to none of them.
func New(options Options) (*Sources, error) {
	s := &Sources{named: map[string]*source{}, fixtures: options.Fixtures, log: options.Log, told: map[string]bool{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	add := func(name string, backend Backend, cache int) {
		one := newSource(name, backend, cache)
		one.observe = options.Observe
		one.health.log = s.log.With("lookup", name, "source", backend.Kind)
		s.named[name] = one
	}
	for name, backend := range options.Backends {
		add(name, backend, DefaultCache)
	}
	o := opener{Options: options, identity: &credential{open: options.Credential}}
	o.Log = s.log
	var problems []error
	for _, setting := range options.Settings {
		if setting.Kind == Fixture {
			continue
		}
		backend, err := o.open(setting)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", SettingName(setting.Name), err))
			continue
		}
		add(setting.Name, backend, setting.Cache)
	}
	return s, errors.Join(problems...)
}

// Find implements [lookups.Sources]. An error is a *Fault, or that of ctx if it ended. An empty key, one of more than
// 1024 bytes and one with invalid UTF-8 have no row.
func (s *Sources) Find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	if one := s.named[d.Name]; one != nil {
		return one.find(ctx, d, key)
	}
	if s.fixtures {
		return lookups.Found{}, lookups.ErrUseFixture
	}
	return lookups.Found{}, &Fault{Kind: fault.Missing, text: "set " + SettingName(d.Name) + " to where its rows are"}
}

// Prepare lets the sources of look-ups check what they can. Rules with these declarations must not be used if it returns
// an error, which has a line for each problem. A source that is down or missing is none: it is logged, because a rule can
// do without it, and a decision that needs it is a fault. Call it for each set of rules.
func (s *Sources) Prepare(ctx context.Context, declarations []*lookups.Declaration) error {
	problems := make([]error, len(declarations))
	var wait sync.WaitGroup
	for i, d := range declarations {
		if one := s.named[d.Name]; one != nil && one.backend.Prepare != nil {
			wait.Go(func() { problems[i] = one.prepare(ctx, d) })
		}
	}
	wait.Wait()
	s.compare(ctx, declarations)
	return errors.Join(problems...)
}

func (s *source) prepare(ctx context.Context, d *lookups.Declaration) error {
	err := s.backend.Prepare(ctx, d)
	if _, ok := errors.AsType[*fault.Error](err); ok || errors.Is(err, context.DeadlineExceeded) {
		s.health.faulty(ctx, s.faultOf(d, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: look-up %s, which %s is the source of: %w", d.Place, d.Name, SettingName(d.Name), err)
	}
	return nil
}

// compare warns once of each look-up that has no source, and of each setting that is for no look-up: its name can be
// misspelt.
func (s *Sources) compare(ctx context.Context, declarations []*lookups.Declaration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := func(name string) bool {
		defer func() { s.told[name] = true }()
		return !s.told[name]
	}
	for _, d := range declarations {
		if s.named[d.Name] == nil && !s.fixtures && first(d.Name) {
			s.log.WarnContext(ctx, "look-up has no source", "lookup", d.Name, "declared", d.Place, "fix", "set "+SettingName(d.Name)+" to where its rows are")
		}
	}
	for name := range s.named {
		known := slices.ContainsFunc(declarations, func(d *lookups.Declaration) bool { return d.Name == name })
		if !known && name != lookups.HubName && first(name) {
			s.log.WarnContext(ctx, "no rule declares this look-up", "lookup", name, "fix", "correct the name of "+SettingName(name)+", or remove it")
		}
	}
}

// Run keeps the sources up to date until the context ends.
func (s *Sources) Run(ctx context.Context) {
	var wait sync.WaitGroup
	for _, one := range s.named {
		if one.backend.Run != nil {
			wait.Go(func() { one.backend.Run(ctx) })
		}
	}
	wait.Wait()
}

// State is what is known about a source, for metrics and for whether the app is ready.
type State struct {
	Name, Source string
	// Counts are those of look-ups, by outcome.
	Counts map[Outcome]uint64
	// Asking is the time that requests to the source took, in sum.
	Asking time.Duration
	// Rows is how many answers are in memory, about.
	Rows int
	// Breaker is closed, half-open or open; empty if there is none.
	Breaker string
	// Version and AsOf are of the data that is in use, if the source knows them.
	Version string
	AsOf    time.Time
	// Fault lasts since FaultSince; empty if the last request had none.
	Fault      string
	FaultSince time.Time
	// Notes are about a source that answers.
	Notes []Note
}

// Hubs describes the hubs of lookup.hub.
func (s *Sources) Hubs() []hubs.HubStatus {
	one := s.named[lookups.HubName]
	if one == nil {
		return nil
	}
	source, _ := one.backend.Source.(*hubs.Source)
	all, _ := source.Status()
	return all
}

// States returns the states of all sources, in the order of their names.
func (s *Sources) States() []State {
	var states []State
	for _, one := range slices.SortedFunc(maps.Values(s.named), func(a, b *source) int { return strings.Compare(a.name, b.name) }) {
		state := State{Name: one.name, Source: one.backend.Kind, Counts: map[Outcome]uint64{}, Asking: time.Duration(one.nanos.Load())}
		for outcome, count := range one.counts {
			state.Counts[outcome] = count.Load()
		}
		if one.cache != nil {
			state.Rows = one.cache.EstimatedSize()
		}
		if one.breaker != nil {
			state.Breaker = one.breaker.State().String()
		}
		if one.backend.State != nil {
			state.Version, state.AsOf = one.backend.State()
		}
		if one.backend.Notes != nil {
			state.Notes = one.backend.Notes()
		}
		state.Fault, state.FaultSince = one.health.state()
		states = append(states, state)
	}
	return states
}
