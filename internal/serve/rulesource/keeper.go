package rulesource

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// Bounds of the settings.
const (
	DefaultPoll = time.Minute
	MinPoll     = time.Second
	MaxPoll     = 24 * time.Hour
)

const (
	// compileLater is how long after a start the rest of the rules are compiled: the first answers need the processor.
	compileLater = time.Second
	// maxRefusal bounds what is logged about refused rules, in bytes: OPA quotes whole lines of them, and lists every
	// error.
	maxRefusal = 8 << 10
)

// Options configure a [Keeper].
type Options struct {
	Location Location
	// Rules say how rules are loaded. The keeper sets Name, Revision, Lazy, Replaces and Background.
	Rules decider.RulesOptions
	// Use puts rules into use. Required.
	Use func(*decider.Rules)
	// Prepare gets ready what rules look up, before they are used; may be nil. After an error they are refused.
	Prepare func(context.Context, *decider.Rules) error
	// CheckAfter serves the first rules before all of them are compiled.
	CheckAfter bool
	// NoSelfTest puts rules into use without a self-test. The first rules of a folder never have one: they were deployed
	// with the program.
	NoSelfTest bool
	// Timeout is how long a rule may take in a self-test; 0 means decider.DefaultTimeout.
	Timeout time.Duration
	// Key verifies the signature of a bundle; nil verifies nothing.
	Key *rulebundle.Key
	// Token is sent to the host of an HTTPS source as a bearer token; may be empty.
	Token string
	// Credential returns an Azure identity when Blob Storage is first read.
	Credential func() (azcore.TokenCredential, error)
	// Cache is the folder that keeps the last good bundle; empty keeps none.
	Cache string
	// Poll is how often a bundle is requested; 0 means DefaultPoll.
	Poll time.Duration
	// Watch reads a folder again when a file in it changes.
	Watch bool
	// MaxAge is how long the source of a bundle may be silent without an alarm; 0 means forever.
	MaxAge time.Duration
	// Stale is called with true when the source has been silent for MaxAge, and with false when it answers again; may
	// be nil.
	Stale func(bool)
	// Observe is called with each event after it took effect; may be nil. It must be quick.
	Observe func(Event)
	// Transport reaches the source; nil means Go's own.
	Transport http.RoundTripper
	// Log gets a line for each event; nil discards them. Name is a field of each line if there are several keepers,
	// such as shadow.
	Log  *slog.Logger
	Name string
}

// EventKind is what happened to rules.
type EventKind string

// The events.
const (
	Activated EventKind = "activated" // they are in use
	Refused   EventKind = "refused"   // they arrived, and the previous ones stay in use
	Failed    EventKind = "failed"    // the source could not be read
	Stale     EventKind = "stale"     // the source has been silent for too long
	Fresh     EventKind = "fresh"     // it answers again
)

// Event is something that happened to rules.
type Event struct {
	Kind EventKind
	// Digest and Revision are those of the rules in use.
	Digest, Revision string
	// Err says why, for Refused and Failed.
	Err error
}

// Stats describe the state of the rules. Times are zero if the event has not happened yet.
type Stats struct {
	// Source is the location without anything that could be secret.
	Source string
	// Digest and Revision are those of the rules in use; empty if there are none.
	Digest, Revision string
	// Packages is how many rules there are.
	Packages int
	// FromCache is set while the rules in use were read from disk and the source has not confirmed them.
	FromCache bool
	// Activated is when the rules were put into use.
	Activated time.Time
	// LastAttempt is when the source was last read, LastSuccess when it last answered with a genuine bundle or said
	// that nothing changed.
	LastAttempt, LastSuccess time.Time
	// Age is the time since the source last confirmed the rules; always 0 for a folder.
	Age time.Duration
	// Stale is set when Age has reached MaxAge.
	Stale bool
	// Refused says why the rules at the source are not in use; empty if they are.
	Refused string
	// Failure says why the source could not be read the last time; empty if it could.
	Failure string
	// Counts since the start: reads of the source, bundles downloaded, rules put into use, rules refused, reads that
	// failed.
	Attempts, Downloads, Activations, Refusals, Failures uint64
}

// Keeper keeps the rules of one source up to date. Call [Keeper.Start] first, then [Keeper.Run].
type Keeper struct {
	options Options
	log     *slog.Logger
	source  source

	reading sync.Mutex     // held while the source is read, from start to end; guards what follows, and the source
	rules   *decider.Rules // in use
	lazy    bool           // the rules in use are not compiled as a whole yet

	mu      sync.Mutex // guards what follows
	stats   Stats
	contact time.Time // of the last success; with the monotonic clock, so that Age does not jump
}

// source is where a Keeper finds rules: a *folder or a *bundle. Its methods put good rules into use through the Keeper,
// which holds its lock meanwhile.
type source interface {
	// start puts the first rules into use. It fails if there can be none.
	start(context.Context) error
	// refresh reads the source once. Its error is logged and counted already.
	refresh(context.Context) error
	// wait is how long to wait until the next refresh.
	wait() time.Duration
	// compiled is called when the rules in use, which were put into use before, were compiled as a whole.
	compiled(context.Context, error)
}

// New returns a keeper that has no rules yet.
func New(options Options) *Keeper {
	options.Poll = cmp.Or(options.Poll, DefaultPoll)
	log := cmp.Or(options.Log, slog.New(slog.DiscardHandler))
	if options.Name != "" {
		log = log.With("set", options.Name)
	}
	k := &Keeper{options: options, log: log.With("source", options.Location.String()), contact: time.Now()}
	k.stats.Source = options.Location.String()
	if k.isFolder() {
		k.options.MaxAge = 0 // a folder is always up to date
		k.source = &folder{Keeper: k}
	} else {
		k.source = &bundle{Keeper: k, fetcher: newFetcher(options), cache: newCache(options.Cache, options.Location), retry: firstRetry}
	}
	return k
}

func newFetcher(options Options) *remotefile.Fetcher {
	return remotefile.NewFetcher(remotefile.Options{Location: options.Location.Location, What: "bundle", MaxBytes: rulebundle.MaxSize,
		Accept: "application/vnd.openpolicyagent.bundles, application/gzip, */*",
		Token:  options.Token, Credential: options.Credential, Transport: options.Transport})
}

func (k *Keeper) isFolder() bool { return k.options.Location.Kind == remotefile.Path }

// Start puts the first rules into use. If they come from a folder and are not good, that is the error. A bundle comes
// from its source, or from disk if the source does not answer or has no good one; if neither has one, Start returns nil
// with no rules in use, and [Keeper.Run] keeps trying.
func (k *Keeper) Start(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	return k.source.start(ctx)
}

// Run reads the source again and again until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	compile := time.NewTimer(compileLater)
	defer compile.Stop()
	refresh := time.NewTimer(k.wait())
	defer refresh.Stop()
	if k.isFolder() && !k.options.Watch {
		refresh.Stop()
	}
	age := time.NewTimer(k.untilStale())
	defer age.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-compile.C:
			k.compileRest(ctx)
		case <-refresh.C:
			_ = k.Refresh(ctx) // logged and counted
			refresh.Reset(k.wait())
		case <-age.C:
		}
		k.checkAge(ctx)
		age.Reset(k.untilStale())
	}
}

// Refresh reads the source once. Its error says why the source could not be read, or why its rules are refused; it is
// logged and counted.
func (k *Keeper) Refresh(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	return k.source.refresh(ctx)
}

func (k *Keeper) wait() time.Duration {
	k.reading.Lock()
	defer k.reading.Unlock()
	return k.source.wait()
}

// Stats describe the state of the rules.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	stats := k.stats
	if !k.isFolder() {
		stats.Age = time.Since(k.contact)
	}
	return stats
}

// loadRules loads rules, and gets ready what they look up. Once there are rules that serve, or that are to serve before
// all of them are compiled, requests come first.
func (k *Keeper) loadRules(ctx context.Context, files fs.FS, options decider.RulesOptions) (*decider.Rules, error) {
	options.Replaces, options.Background = k.rules, k.rules != nil || options.Lazy
	rules, err := decider.LoadRules(ctx, files, options)
	if err != nil || k.options.Prepare == nil {
		return rules, err
	}
	return rules, k.options.Prepare(ctx, rules)
}

// activate puts rules into use. lazy says that they are not compiled as a whole yet.
func (k *Keeper) activate(ctx context.Context, rules *decider.Rules, start time.Time, lazy, fromCache bool) {
	before := k.digest()
	k.rules, k.lazy = rules, lazy
	k.options.Use(rules)
	packages := len(rules.All())
	refused := false
	k.count(func(s *Stats) { // in one step, so that no one sees new rules that are refused
		s.Activations++
		s.Activated = time.Now()
		s.Digest, s.Revision, s.Packages = rules.Digest(), rules.Revision(), packages
		if s.FromCache = fromCache; !fromCache {
			refused, s.Refused = s.Refused != "", ""
		}
	})
	level := slog.LevelInfo
	if before == "" && k.isFolder() {
		level = slog.LevelDebug // as expected
	}
	k.log.Log(ctx, level, "rules activated", "rules", rules.Digest(), "revision", rules.Revision(), "before", before,
		"packages", packages, "from_disk", fromCache, "duration_ms", time.Since(start).Milliseconds())
	k.allClear(ctx, refused)
	k.notify(Activated, nil)
}

// accept notes that the rules at the source are those in use.
func (k *Keeper) accept(ctx context.Context) {
	refused := false
	k.count(func(s *Stats) { refused, s.Refused = s.Refused != "", "" })
	k.allClear(ctx, refused)
}

// allClear tells that the rules at the source are in use, if they were refused before.
func (k *Keeper) allClear(ctx context.Context, refused bool) {
	if refused {
		k.log.InfoContext(ctx, "rules good again", "in_use", k.digest())
	}
}

// digest is that of the rules in use; empty if there are none.
func (k *Keeper) digest() string {
	if k.rules == nil {
		return ""
	}
	return k.rules.Digest()
}

// refuse notes that rules arrived that are not good. sum is the digest of what arrived.
func (k *Keeper) refuse(ctx context.Context, sum string, err error) {
	text := remotefile.Cut(err.Error(), maxRefusal)
	k.count(func(s *Stats) { s.Refusals++; s.Refused = text })
	k.log.ErrorContext(ctx, "rules refused", "error", text, "bundle", sum, "in_use", k.digest())
	k.notify(Refused, err)
}

// compileRest finds the errors of rules that were put into use before they were compiled as a whole. The rules without
// errors keep serving, unless the source has better ones.
func (k *Keeper) compileRest(ctx context.Context) {
	k.reading.Lock()
	defer k.reading.Unlock()
	if !k.lazy {
		return
	}
	k.lazy = false
	start := time.Now()
	err := compileAll(ctx, k.rules)
	if err != nil {
		k.log.ErrorContext(ctx, "rules do not compile", "error", err.Error())
	} else {
		k.log.InfoContext(ctx, "rules compiled", "duration_ms", time.Since(start).Milliseconds())
	}
	k.source.compiled(ctx, err)
}

func compileAll(ctx context.Context, rules *decider.Rules) (err error) {
	defer guard(&err)
	return rules.CompileAll(ctx)
}

// guard makes an error of a panic. Rules come from elsewhere, and a bug in what reads them must not end the process,
// again at each start.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("a bug of this program: reading them ended in a panic of type %T", p)
	}
}

// confirm notes that the source answered, and that it has what it had.
func (k *Keeper) confirm(ctx context.Context) {
	k.mu.Lock()
	k.contact = time.Now()
	k.stats.LastSuccess = k.contact
	if k.stats.Refused == "" && k.rules != nil {
		k.stats.FromCache = false
	}
	k.mu.Unlock()
	k.checkAge(ctx)
}

// untilStale is how long the source may stay silent.
func (k *Keeper) untilStale() time.Duration {
	const never = 365 * 24 * time.Hour
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.options.MaxAge <= 0 || k.stats.Stale {
		return never
	}
	return max(k.options.MaxAge-time.Since(k.contact), 0)
}

// checkAge raises the alarm, or ends it.
func (k *Keeper) checkAge(ctx context.Context) {
	if k.options.MaxAge <= 0 {
		return
	}
	k.mu.Lock()
	age := time.Since(k.contact)
	stale := age >= k.options.MaxAge
	changed := stale != k.stats.Stale
	k.stats.Stale = stale
	k.mu.Unlock()
	if !changed {
		return
	}
	if k.options.Stale != nil {
		k.options.Stale(stale)
	}
	if stale {
		k.log.ErrorContext(ctx, "rules stale", "age_s", int64(age.Seconds()), "max_age_s", int64(k.options.MaxAge.Seconds()))
		k.notify(Stale, nil)
	} else {
		k.log.InfoContext(ctx, "rules fresh again")
		k.notify(Fresh, nil)
	}
}

func (k *Keeper) count(change func(*Stats)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.stats)
}

// notify passes an event on.
func (k *Keeper) notify(kind EventKind, err error) {
	if k.options.Observe == nil {
		return
	}
	stats := k.Stats()
	k.options.Observe(Event{Kind: kind, Digest: stats.Digest, Revision: stats.Revision, Err: err})
}
