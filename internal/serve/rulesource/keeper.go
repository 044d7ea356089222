package rulesource

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// Bounds of the settings.
const (
	DefaultPoll = time.Minute
	MinPoll     = time.Second
	MaxPoll     = 24 * time.Hour
)

const (
	// startTimeout is how long a start waits for the source before it takes what is
	// on disk. The Functions host gives a handler 30 s to listen.
	startTimeout = 5 * time.Second
	// firstRetry is how long after a failure the source is asked again; each
	// further failure doubles it, up to twice the poll interval.
	firstRetry = time.Second
	// watchInterval is how often a folder is looked at.
	watchInterval = time.Second
	// jitter spreads instances that were started together: a tenth either way.
	jitter = 0.1
	// compileLater is how long after a start the rest of the rules are compiled:
	// whoever waits for the first answer needs the processor.
	compileLater = time.Second
	// maxRefusal bounds what is told of rules that are refused, in bytes: OPA quotes
	// whole lines of them, and lists every error.
	maxRefusal = 8 << 10
)

// Options configure a [Keeper].
type Options struct {
	Location Location
	// Rules say how rules are loaded. Name, Revision and Lazy are the keeper's.
	Rules decider.RulesOptions
	// Use puts rules into use. Required.
	Use func(*decider.Rules)
	// CheckAfter serves the first rules before all of them are compiled.
	CheckAfter bool
	// NoSelfTest puts rules into use without trying them out.
	NoSelfTest bool
	// Timeout is how long a rule may take when it is tried out; 0 means
	// decider.DefaultTimeout.
	Timeout time.Duration
	// Key is what a bundle has to be signed with; nil verifies nothing.
	Key *rulebundle.Key
	// Token is shown to the host of an HTTPS source, as a bearer; may be empty.
	Token string
	// Credential is asked for an Azure identity when Blob Storage is first read.
	Credential func() (azcore.TokenCredential, error)
	// Cache is the folder that keeps the last good bundle; empty for none.
	Cache string
	// Poll is how often a bundle is asked for; 0 means DefaultPoll.
	Poll time.Duration
	// Watch reads a folder again when a file in it changes.
	Watch bool
	// MaxAge is how long a bundle's source may be silent without an alarm; 0 for ever.
	MaxAge time.Duration
	// Stale is told when the source has been silent for MaxAge, with true, and
	// when it speaks again; nil for nobody.
	Stale func(bool)
	// Observe is told of each event, after it took effect; nil for nobody. It must be quick.
	Observe func(Event)
	// Transport reaches the source; nil means Go's own.
	Transport http.RoundTripper
	// Log gets a line for each event; nil discards them. Name is a field of each
	// line where there are several keepers, such as shadow.
	Log  *slog.Logger
	Name string
}

// EventKind is what happened to rules.
type EventKind string

// The events.
const (
	Activated EventKind = "activated" // they are in use
	Refused   EventKind = "refused"   // they arrived, and those before go on
	Failed    EventKind = "failed"    // the source could not be read
	Stale     EventKind = "stale"     // the source has been silent for too long
	Fresh     EventKind = "fresh"     // it speaks again
)

// Event is something that happened to rules.
type Event struct {
	Kind EventKind
	// Digest and Revision are those of the rules in use.
	Digest, Revision string
	// Err says why, for Refused and Failed.
	Err error
}

// Stats tell how the rules are. Times are zero where it did not come to that.
type Stats struct {
	// Source is the location without what could be secret.
	Source string
	// Digest and Revision are those of the rules in use; empty if there are none.
	Digest, Revision string
	// Packages is how many rules there are.
	Packages int
	// FromCache is set while the rules in use are those that were read from disk
	// and the source has not confirmed them.
	FromCache bool
	// Activated is when they were put into use.
	Activated time.Time
	// LastAttempt is when the source was asked last, LastSuccess when it
	// answered with a bundle that is genuine or said that nothing changed.
	LastAttempt, LastSuccess time.Time
	// Age is the time since the source confirmed what it has; always 0 for a folder.
	Age time.Duration
	// Stale is set when Age has reached MaxAge.
	Stale bool
	// Refused says why the rules that the source has are not in use; empty if they are.
	Refused string
	// Failure says why the source could not be read last; empty if it could.
	Failure string
	// Counts since the start: of looks at the source, of bundles downloaded, of
	// rules put into use, of rules refused, of looks that failed.
	Attempts, Downloads, Activations, Refusals, Failures uint64
}

// Keeper keeps the rules of one source up to date. [Keeper.Start] comes first,
// then [Keeper.Run].
type Keeper struct {
	options Options
	log     *slog.Logger
	fetcher *fetcher
	cache   *cache

	// looking is held for a look at the source from start to end, and guards:
	looking sync.Mutex
	rules   *decider.Rules // in use
	shown   shown
	retry   time.Duration // how long to wait after the next failure
	asked   time.Duration // how long the source asked us to stay away
	failing bool          // the last look failed
	lazy    bool          // the rules in use are not compiled as a whole yet
	unkept  *arrival      // what is kept on disk once they are

	mu      sync.Mutex // guards what follows, for Stats
	stats   Stats
	contact time.Time // of the last success; with the monotonic clock, so that Age does not jump
}

// shown is what the source showed last, whether it came into use or not.
type shown struct {
	etag    string
	sum     string // digest of the bundle, or the fingerprint of a folder
	changed string // the fingerprint of a folder that is being changed
	genuine bool   // it is a bundle of those who hold the key
}

// arrival is a bundle that arrived.
type arrival struct {
	packed    []byte
	etag, sum string
}

// New returns a keeper that has no rules yet.
func New(options Options) *Keeper {
	options.Poll = cmp.Or(options.Poll, DefaultPoll)
	log := cmp.Or(options.Log, slog.New(slog.DiscardHandler))
	if options.Name != "" {
		log = log.With("set", options.Name)
	}
	k := &Keeper{options: options, log: log.With("source", options.Location.String()),
		cache: newCache(options.Cache, options.Location), retry: firstRetry, contact: time.Now()}
	k.stats.Source = options.Location.String()
	if options.Location.Kind != Folder {
		k.fetcher = newFetcher(options)
	}
	return k
}

// Start puts the first rules into use. A folder must be good, else that is the
// error. A bundle comes from its source, or if that is away or has none that is
// good, from disk; where neither has one, Start returns nil with no rules in use,
// and [Keeper.Run] goes on trying.
func (k *Keeper) Start(ctx context.Context) error {
	k.looking.Lock()
	defer k.looking.Unlock()
	if k.options.Location.Kind == Folder {
		return k.startFolder(ctx)
	}
	kept, err := k.cache.read(time.Now())
	if err != nil {
		k.log.WarnContext(ctx, "rules on disk are of no use", "file", k.cache.file, "error", err.Error())
	}
	if kept != nil {
		k.shown = shown{etag: kept.etag, sum: kept.sum, genuine: true}
		k.mu.Lock()
		k.contact = k.contact.Add(-kept.age)
		k.mu.Unlock()
	}
	err = k.ask(ctx, startTimeout)
	if k.rules == nil && kept != nil {
		confirmed := err == nil && k.shown.sum == kept.sum
		switch {
		case k.useKept(ctx, kept, !confirmed):
			if confirmed {
				k.confirmed(ctx)
			}
		case k.shown.sum == kept.sum:
			k.shown = shown{} // else the source would be told that we have it
			if confirmed {
				_ = k.ask(ctx, fetchTimeout)
			}
		}
	}
	k.checkAge(ctx)
	if k.rules == nil {
		k.log.ErrorContext(ctx, "no rules yet: devices are held until there are some")
	}
	return ctx.Err()
}

// Run looks at the source again and again, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	compile := time.NewTimer(compileLater)
	defer compile.Stop()
	look := time.NewTimer(k.next())
	defer look.Stop()
	if k.options.Location.Kind == Folder && !k.options.Watch {
		look.Stop()
	}
	age := time.NewTimer(k.untilStale())
	defer age.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-compile.C:
			k.compileRest(ctx)
		case <-look.C:
			_ = k.Refresh(ctx) // logged and counted
			look.Reset(k.next())
		case <-age.C:
		}
		k.checkAge(ctx)
		age.Reset(k.untilStale())
	}
}

// Refresh looks at the source once. Its error says why the source could not be
// read, or why the rules that it has are refused; it is logged and counted.
func (k *Keeper) Refresh(ctx context.Context) error {
	k.looking.Lock()
	defer k.looking.Unlock()
	if k.options.Location.Kind == Folder {
		return k.lookAtFolder(ctx)
	}
	return k.ask(ctx, fetchTimeout)
}

// Stats tell how the rules are.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	stats := k.stats
	if k.options.Location.Kind != Folder {
		stats.Age = time.Since(k.contact)
	}
	return stats
}

// next is how long to wait for the next look.
func (k *Keeper) next() time.Duration {
	k.looking.Lock()
	defer k.looking.Unlock()
	switch {
	case k.options.Location.Kind == Folder:
		return watchInterval
	case k.failing:
		wait := k.retry
		k.retry = min(2*k.retry, max(2*k.options.Poll, firstRetry))
		return max(spread(wait), k.asked)
	default:
		return spread(k.options.Poll)
	}
}

func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}

// untilStale is how long the source may go on being silent.
func (k *Keeper) untilStale() time.Duration {
	const never = 365 * 24 * time.Hour
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.options.MaxAge <= 0 || k.options.Location.Kind == Folder || k.stats.Stale {
		return never
	}
	return max(k.options.MaxAge-time.Since(k.contact), 0)
}

// checkAge raises the alarm, or ends it.
func (k *Keeper) checkAge(ctx context.Context) {
	if k.options.MaxAge <= 0 || k.options.Location.Kind == Folder {
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
		k.tell(Stale, nil)
	} else {
		k.log.InfoContext(ctx, "rules fresh again")
		k.tell(Fresh, nil)
	}
}

// ask fetches the bundle, within a time, and puts it into use if it is new and good.
func (k *Keeper) ask(ctx context.Context, timeout time.Duration) error {
	k.count(func(s *Stats) { s.Attempts++; s.LastAttempt = time.Now() })
	within, cancel := context.WithTimeout(ctx, timeout)
	got, err := k.fetcher.get(within, k.shown.etag)
	cancel()
	if err != nil {
		return k.failed(ctx, err)
	}
	k.failing, k.retry, k.asked = false, firstRetry, 0
	k.count(func(s *Stats) { s.Failure = "" })
	if !got.unchanged {
		k.count(func(s *Stats) { s.Downloads++ })
		sum := digestOf(got.packed)
		k.shown.etag = got.etag
		if sum != k.shown.sum {
			k.shown.sum = sum
			return k.take(ctx, arrival{got.packed, got.etag, sum})
		}
	}
	if k.shown.genuine {
		k.confirmed(ctx)
	}
	return nil
}

// failed notes that the source could not be read.
func (k *Keeper) failed(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return err // we are stopping
	}
	k.failing, k.asked = true, 0
	if answered, ok := errors.AsType[*statusError](err); ok {
		k.asked = answered.retryAfter
	}
	level := slog.LevelWarn
	k.count(func(s *Stats) {
		if s.Failure == err.Error() {
			level = slog.LevelDebug // it is known, and the age tells for how long
		}
		s.Failures++
		s.Failure = err.Error()
	})
	k.log.Log(ctx, level, "rules source failed", "error", err.Error())
	k.tell(Failed, err)
	return err
}

// confirmed notes that the source was heard, and still has what it had.
func (k *Keeper) confirmed(ctx context.Context) {
	k.mu.Lock()
	k.contact = time.Now()
	k.stats.LastSuccess = k.contact
	inUse := k.stats.Refused == "" && k.rules != nil
	if inUse {
		k.stats.FromCache = false
	}
	k.mu.Unlock()
	if inUse {
		k.cache.confirm(time.Now())
	}
	k.checkAge(ctx)
}

// take puts a bundle into use if it is good.
func (k *Keeper) take(ctx context.Context, a arrival) error {
	start := time.Now()
	lazy := k.options.CheckAfter && k.rules == nil
	rules, genuine, err := k.prepare(ctx, a, lazy, true)
	if ctx.Err() != nil && err != nil {
		k.shown.sum, k.shown.etag = "", "" // it was not looked at
		return k.failed(ctx, withoutQuery(err))
	}
	k.shown.genuine = genuine
	if err != nil {
		err = k.refused(ctx, err)
		if _, again := errors.AsType[momentary](err); again {
			k.shown.sum, k.shown.etag = "", "" // it is tried out again at the next look
		}
		return err
	}
	k.activate(ctx, rules, start, false)
	k.confirmed(ctx)
	k.lazy, k.unkept = lazy, nil
	if lazy {
		k.unkept = &a
	} else {
		k.keep(ctx, a)
	}
	return nil
}

// prepare makes rules of a bundle. It tells whether the bundle is genuine, even
// if the rules in it are not good.
func (k *Keeper) prepare(ctx context.Context, a arrival, lazy, isNew bool) (rules *decider.Rules, genuine bool, err error) {
	defer guard(&err)
	bundle, err := rulebundle.Open(bytes.NewReader(a.packed), rulebundle.ReadOptions{Key: k.options.Key})
	if unparsed, ok := errors.AsType[*rulebundle.ContentError](err); ok {
		return nil, true, unparsed
	}
	if err != nil {
		return nil, false, fmt.Errorf("it is no bundle of rules: %w", err)
	}
	options := k.options.Rules
	options.Name, options.Revision, options.Lazy = "", bundle.Revision, lazy
	rules, err = decider.LoadRules(ctx, bundle.Files, options)
	if err != nil {
		return nil, true, err
	}
	if isNew && !k.options.NoSelfTest {
		if err := selfTest(ctx, k.rules, rules, bundle.Files, k.options.Timeout); err != nil {
			return nil, true, err
		}
	}
	return rules, true, nil
}

// useKept puts the bundle that was kept on disk into use, and reports whether that went well.
func (k *Keeper) useKept(ctx context.Context, kept *cached, fromCache bool) bool {
	start := time.Now()
	a := arrival{kept.packed, kept.etag, kept.sum}
	rules, _, err := k.prepare(ctx, a, k.options.CheckAfter, false)
	if err != nil {
		k.log.WarnContext(ctx, "rules on disk are of no use", "file", k.cache.file, "error", err.Error())
		return false
	}
	k.activate(ctx, rules, start, fromCache)
	k.lazy = k.options.CheckAfter
	return true
}

// activate puts rules into use.
func (k *Keeper) activate(ctx context.Context, rules *decider.Rules, start time.Time, fromCache bool) {
	before := ""
	if k.rules != nil {
		before = k.rules.Digest()
	}
	k.rules = rules
	k.options.Use(rules)
	packages := len(rules.All())
	k.count(func(s *Stats) {
		s.Activations++
		s.Activated = time.Now()
		s.Digest, s.Revision, s.Packages = rules.Digest(), rules.Revision(), packages
		s.FromCache = fromCache
		if !fromCache {
			s.Refused = ""
		}
	})
	level := slog.LevelInfo
	if before == "" && k.options.Location.Kind == Folder {
		level = slog.LevelDebug // that goes without saying
	}
	k.log.Log(ctx, level, "rules activated", "rules", rules.Digest(), "revision", rules.Revision(), "before", before,
		"packages", packages, "from_disk", fromCache, "duration_ms", time.Since(start).Milliseconds())
	k.tell(Activated, nil)
}

// refused notes that rules arrived that are not good.
func (k *Keeper) refused(ctx context.Context, err error) error {
	text := cut(err.Error(), maxRefusal)
	k.count(func(s *Stats) { s.Refusals++; s.Refused = text })
	if k.shown.genuine {
		k.confirmed(ctx)
	}
	inUse := ""
	if k.rules != nil {
		inUse = k.rules.Digest()
	}
	k.log.ErrorContext(ctx, "rules refused", "error", text, "bundle", k.shown.sum, "in_use", inUse)
	k.tell(Refused, err)
	return err
}

// keep writes a good bundle to disk.
func (k *Keeper) keep(ctx context.Context, a arrival) {
	if err := k.cache.write(a.packed, a.etag); err != nil {
		k.log.WarnContext(ctx, "rules cannot be kept on disk: a start without their source will have none",
			"folder", k.options.Cache, "error", err.Error())
	}
}

// compileRest finds the errors of rules that were put into use before they were
// compiled as a whole. Those without errors go on serving, unless the last good
// bundle is on disk.
func (k *Keeper) compileRest(ctx context.Context) {
	k.looking.Lock()
	defer k.looking.Unlock()
	a, lazy := k.unkept, k.lazy
	k.unkept, k.lazy = nil, false
	if !lazy {
		return
	}
	start := time.Now()
	if err := compileAll(ctx, k.rules); err != nil {
		k.log.ErrorContext(ctx, "rules do not compile", "error", err.Error())
		if a != nil {
			k.fallBack(ctx, *a, err)
		}
		return
	}
	k.log.InfoContext(ctx, "rules compiled", "duration_ms", time.Since(start).Milliseconds())
	if a != nil {
		k.keep(ctx, *a)
	}
}

func compileAll(ctx context.Context, rules *decider.Rules) (err error) {
	defer guard(&err)
	return rules.CompileAll(ctx)
}

// guard makes an error of a panic. Rules come from elsewhere, and a bug in what reads
// them must not end the process, again at each start.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("a bug of this program: reading them ended in a panic of type %T", p)
	}
}

// fallBack leaves rules that turned out not to compile for those on disk.
func (k *Keeper) fallBack(ctx context.Context, bad arrival, err error) {
	_ = k.refused(ctx, err)
	kept, readErr := k.cache.read(time.Now())
	if readErr != nil || kept == nil || kept.sum == bad.sum {
		return
	}
	start := time.Now()
	if rules, _, err := k.prepare(ctx, arrival{kept.packed, kept.etag, kept.sum}, false, false); err == nil {
		k.activate(ctx, rules, start, true)
	}
}

// startFolder loads the rules of a folder.
func (k *Keeper) startFolder(ctx context.Context) error {
	start := time.Now()
	if k.options.Watch { // else nobody compares, and a start does not look at each file twice
		k.shown.sum = k.fingerprint()
	}
	rules, err := k.loadFolder(ctx, k.options.CheckAfter)
	if err != nil {
		return err
	}
	k.activate(ctx, rules, start, false)
	k.confirmed(ctx)
	k.lazy = k.options.CheckAfter
	return nil
}

func (k *Keeper) loadFolder(ctx context.Context, lazy bool) (*decider.Rules, error) {
	k.count(func(s *Stats) { s.Attempts++; s.LastAttempt = time.Now() })
	folder := k.options.Location.Path
	if info, err := os.Stat(folder); err != nil || info.IsDir() == k.options.Location.Bundle() {
		return nil, fmt.Errorf("there is no folder %s; name the folder of the Rego rules, or a bundle (NAME.tar.gz)", folder)
	}
	options := k.options.Rules
	options.Name, options.Lazy = folder, lazy
	files := os.DirFS(folder)
	if k.options.Location.Bundle() {
		bundle, err := openBundle(folder, k.options.Key)
		if err != nil {
			return nil, fmt.Errorf("%s is no bundle of rules: %w", folder, err)
		}
		files, options.Revision = bundle.Files, bundle.Revision
	}
	rules, err := decider.LoadRules(ctx, files, options)
	if err != nil {
		return nil, fmt.Errorf("the rules in %s cannot be loaded:\n%w", folder, err)
	}
	return rules, nil
}

// openBundle opens a bundle in a file, as a deployment package can hold one.
func openBundle(name string, key *rulebundle.Key) (rulebundle.Bundle, error) {
	file, err := os.Open(name)
	if err != nil {
		return rulebundle.Bundle{}, err
	}
	defer file.Close()
	return rulebundle.Open(file, rulebundle.ReadOptions{Key: key})
}

// lookAtFolder loads a folder again once it has changed and then been left alone
// from one look to the next: an editor writes in several steps. Rules that are
// being written are not tried out, only compiled.
func (k *Keeper) lookAtFolder(ctx context.Context) error {
	now := k.fingerprint()
	if now == k.shown.sum {
		k.shown.changed = ""
		return nil
	}
	if now != k.shown.changed {
		k.shown.changed = now
		return nil
	}
	start := time.Now()
	k.shown.sum, k.shown.changed = now, ""
	rules, err := k.loadFolder(ctx, false)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return k.refused(ctx, err)
	}
	if k.rules != nil && rules.Digest() == k.rules.Digest() {
		k.count(func(s *Stats) { s.Refused = "" })
		return nil // such as a test that was edited
	}
	k.lazy = false
	k.activate(ctx, rules, start, false)
	k.confirmed(ctx)
	return nil
}

// fingerprint tells whether files of the folder have changed, by their names,
// sizes and times. It follows links, which is how Kubernetes replaces files.
func (k *Keeper) fingerprint() string {
	var all bytes.Buffer
	if info, err := os.Stat(k.options.Location.Path); err == nil && !info.IsDir() { // a bundle
		fmt.Fprintf(&all, "%d %d\n", info.Size(), info.ModTime().UnixNano())
		return digestOf(all.Bytes())
	}
	fsys := os.DirFS(k.options.Location.Path)
	_ = fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			fmt.Fprintf(&all, "%q cannot be read\n", name)
			return nil
		case name != "." && entry.Name()[0] == '.':
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if info, err := fs.Stat(fsys, name); err == nil && !info.IsDir() {
			fmt.Fprintf(&all, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	return digestOf(all.Bytes())
}

func (k *Keeper) count(change func(*Stats)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.stats)
}

// tell passes an event on.
func (k *Keeper) tell(kind EventKind, err error) {
	if k.options.Observe == nil {
		return
	}
	stats := k.Stats()
	k.options.Observe(Event{Kind: kind, Digest: stats.Digest, Revision: stats.Revision, Err: err})
}
