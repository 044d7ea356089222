// Package verify searches for requests that break a promise of an allocation rule, and shrinks each to the smallest
// that it can find.
//
// It generates requests from the rule's own text and data: the enrollments that the rule serves, the hubs that it
// names, the values that it compares. It follows some of them through the rule's expressions (paths), and takes from what
// an expression compared the values with which it goes the other way (solver). All values together make a space, of
// which a plan tries what was reached by paths, every pair of values, and others at random, or everything if that is
// little. The webhook's decider.Decider decides each request; the package itself decides nothing.
package verify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// DefaultBudget is the default number of requests for a rule, which takes a few seconds. Each has about five follow-up
// requests.
const DefaultBudget = 5000

// Options say what to search. Rules and Files are required.
type Options struct {
	// Rules make the decisions. They were loaded from Files.
	Rules *decider.Rules
	Files fs.FS

	// Only lists the packages of the rules to search; nil means all.
	Only []string
	// Promises lists the promises to check; nil means all.
	Promises []string
	// Hubs are hubs to link, by host name or first label.
	Hubs []string
	// PayloadSchema adds members of the payload that rules do not name.
	PayloadSchema []Field
	// Requests are real ones to start from, as their documents. Those of other rules are left out.
	Requests []map[string]any
	// Budget is the number of requests for each rule; 0 means DefaultBudget.
	Budget int
	// Seed is the seed of random choices.
	Seed uint64
	// Timeout is the time limit of a rule for one request; 0 means decider.DefaultTimeout.
	Timeout time.Duration
	// Workers is the number of requests to decide at once; 0 means one for each core.
	Workers int
	// Progress, if set, is called from time to time with the number of requests so far and in all. It is called by one
	// goroutine at a time.
	Progress func(done, total int)
}

func (o Options) withDefaults() Options {
	if o.Budget <= 0 {
		o.Budget = DefaultBudget
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o
}

// Report is the result of a search.
type Report struct {
	Rules []RuleReport `json:"rules"`
	Seed  uint64       `json:"seed"`
	// Interrupted is set if the search ended before it was complete.
	Interrupted bool `json:"interrupted"`
}

// Broken counts the promises that are broken and not skipped.
func (r *Report) Broken() int {
	n := 0
	for _, rule := range r.Rules {
		n += len(rule.Broken)
	}
	return n
}

// Invariants reports whether there are invariants for any rule.
func (r *Report) Invariants() bool {
	return slices.ContainsFunc(r.Rules, func(rule RuleReport) bool { return rule.Invariants })
}

// RuleReport is the result of the search of one rule.
type RuleReport struct {
	Rule  string `json:"rule"`
	Title string `json:"title,omitempty"`
	Place string `json:"place"`
	Space Space  `json:"space"`
	// Outcomes counts the results of the requests, and Overrides the cases in which a constraint prevailed over the
	// rule.
	Outcomes  Counts `json:"outcomes"`
	Overrides Counts `json:"overrides,omitempty"`
	// Reasons counts why requests were not assigned: the first reason of each, or what is wrong with the answer.
	Reasons Counts `json:"reasons,omitempty"`
	// Stuck are devices that are held whatever they send.
	Stuck []Stuck `json:"stuck,omitempty"`
	// Unlisted says what devices get whose values the rule does not list, those that are assigned first.
	Unlisted []Unlisted `json:"unlisted,omitempty"`
	// Invariants is set if there are invariants for the rule.
	Invariants bool      `json:"invariants"`
	Broken     []Finding `json:"broken"`
	// Skipped are the promises that the rule's METADATA switches off.
	Skipped []Skip `json:"skipped,omitempty"`
}

// Counts maps names to how often they occurred. Its JSON is a list, because the names of outcomes and constraints are
// values, not members.
type Counts map[string]int

// MarshalJSON writes [{"name": "assigned", "count": 1}], sorted by name.
func (c Counts) MarshalJSON() ([]byte, error) {
	type count struct {
		Name  string `json:"name"`
		Count int    `json:"count"`
	}
	list := []count{}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		list = append(list, count{name, c[name]})
	}
	return json.Marshal(list)
}

// MostFirst returns the names, the most frequent first.
func (c Counts) MostFirst() []string {
	return slices.SortedFunc(maps.Keys(c), func(a, b string) int { return cmp.Or(c[b]-c[a], strings.Compare(a, b)) })
}

// Space says what the search covered.
type Space struct {
	Dimensions []Dimension `json:"dimensions"`
	// Size is the number of requests in the space, including duplicates, or math.MaxInt if there are more. Asked is the
	// number of different requests that were tried. Exhaustive is set if these are all.
	Size       int  `json:"size"`
	Asked      int  `json:"asked"`
	Exhaustive bool `json:"exhaustive"`
	// If the space was too large, Pairs is the number of pairs of values of two dimensions, Paired how many of them
	// were tried together, and Random the number of further requests that were chosen at random. All are 0 if the
	// search was interrupted.
	Pairs  int `json:"pairs,omitempty"`
	Paired int `json:"paired,omitempty"`
	Random int `json:"byChance,omitempty"`
	// Followed is the number of requests that the search by paths evaluated, and Branches what it reached.
	Followed int      `json:"followed"`
	Branches Branches `json:"branches"`
	// Failing is how often a request was decided again while a source of its look-ups failed.
	Failing int `json:"failing,omitempty"`
	// Invalid is the number of bodies that did not match the schema.
	Invalid int `json:"invalid,omitempty"`
	// Notes say what was left out of a dimension.
	Notes []string `json:"notes,omitempty"`
}

// Endless reports whether Size is too large to count.
func (s Space) Endless() bool { return s.Size == math.MaxInt }

// Dimension is one aspect of a request.
type Dimension struct {
	Name   string `json:"name"`
	Values int    `json:"values"`
	// Single says why there is only one value.
	Single string `json:"single,omitempty"`
}

// Finding is a promise that is broken.
type Finding struct {
	Promise   string `json:"promise"`
	Statement string `json:"says"`
	Message   string `json:"message"`
	Place     string `json:"place"` // file:line
	// At is the time of the decision, if the rule can read it.
	At time.Time `json:"at,omitzero"`
	// Count is the number of requests that break it.
	Count int `json:"count"`
	// Request breaks the promise. Then is the second request if the promise is about two.
	Request json.RawMessage `json:"request"`
	Then    json.RawMessage `json:"then,omitempty"`
	// Rows are what the rule looked up for the request.
	Rows []Row `json:"rows,omitempty"`
	// File and ThenFile are the files in which the caller saved them.
	File     string `json:"file,omitempty"`
	ThenFile string `json:"thenFile,omitempty"`
}

// Skip is a promise that a rule's METADATA switches off.
type Skip struct {
	Promise string `json:"promise"`
	Reason  string `json:"reason"`
	// Broken is the number of requests that break it. If it is 0, the skip can be removed.
	Broken int `json:"broken"`
}

// Run searches. It returns a *ruleset.LoadError if the METADATA or the invariants are wrong, and an *UnknownError if
// the options name an unknown rule or promise. When ctx ends, Run reports what it has found so far.
func Run(ctx context.Context, options Options) (*Report, error) {
	options = options.withDefaults()
	searches, err := newSearches(ctx, options)
	if err != nil {
		return nil, err
	}
	report := &Report{Seed: options.Seed}
	if err := exploreAll(ctx, searches, options); err != nil {
		return nil, err
	}
	total := 0
	for _, s := range searches {
		if s.plan != nil {
			total += s.plan.size()
		}
	}
	done := 0
	for i, s := range searches {
		searches[i] = nil // so that its memo can be collected while others run
		if s.plan != nil && ctx.Err() == nil {
			s.run(ctx, options.Workers, func(asked int) {
				if options.Progress != nil {
					options.Progress(done+asked, total)
				}
			})
			done += s.plan.size()
		}
		report.Rules = append(report.Rules, s.report(ctx))
	}
	report.Interrupted = ctx.Err() != nil
	return report, nil
}

// search is the search of one rule.
type search struct {
	checker checker
	skips   []Skip
	plan    *plan
	// branches are the expressions of the rule, and reached the sides of them that the search by paths reached, with
	// followed requests.
	branches *branches
	reached  sides
	followed int
	failing  int // requests that were tried again while a source failed

	mu        sync.Mutex
	found     map[string]*tally
	asked     int
	invalid   int
	timeouts  int
	giveUp    context.CancelFunc
	complete  bool // the whole plan was tried
	outcomes  Counts
	overrides Counts
	reasons   Counts
	newcomers newcomers
	holds     map[[16]byte]*hold
	stuck     []Stuck
	unlisted  []Unlisted
	seen      map[[16]byte]bool // keys of the requests that were tried
}

// tally is a finding during the search.
type tally struct {
	broken broken
	key    [16]byte // of the request's draft, which has more than the request: the rows and the time
	count  int
}

func newSearches(ctx context.Context, options Options) ([]*search, error) {
	set := options.Rules.Set()
	loaded, err := invariants.Load(ctx, set, options.Files)
	if err != nil {
		return nil, err
	}
	loaded = loaded.With(sources{})
	decides, err := decider.New(decider.Options{Rules: options.Rules, Timeout: options.Timeout, Lookups: sources{}})
	if err != nil {
		return nil, err
	}
	wanted, err := wantedPromises(options.Promises)
	if err != nil {
		return nil, err
	}
	var searches []*search
	var problems []ruleset.Problem
	var known []string
	unknown := slices.Clone(options.Only)
	for _, rule := range set.Rules() {
		known = append(known, rule.Package)
		unknown = slices.DeleteFunc(unknown, func(name string) bool { return isNamed(rule, name) })
		if len(options.Only) > 0 && !slices.ContainsFunc(options.Only, func(name string) bool { return isNamed(rule, name) }) {
			continue
		}
		skips, wrong := skipsOf(rule)
		problems = append(problems, wrong...)
		analysis, err := dataflow.Analyze(rule)
		if err != nil {
			return nil, err
		}
		searches = append(searches, &search{
			checker: checker{decider: decides, set: set, rule: rule, analysis: analysis, invariants: loaded, wanted: wanted,
				memo: &memo{answers: map[[16]byte]brief{}}, nondeterministic: len(rule.RestrictedCalls()) > 0},
			skips: skips, found: map[string]*tally{}, seen: map[[16]byte]bool{}, outcomes: Counts{}, overrides: Counts{},
			reasons: Counts{}, holds: map[[16]byte]*hold{},
		})
	}
	if len(problems) > 0 {
		return nil, &ruleset.LoadError{Problems: problems}
	}
	if len(unknown) > 0 {
		return nil, &UnknownError{"rule", unknown[0], known}
	}
	return searches, nil
}

// isNamed reports whether a name, such as tenants or allocation.tenants, is that of a rule.
func isNamed(rule *ruleset.Rule, name string) bool {
	return name == rule.Package || "allocation."+name == rule.Package
}

// UnknownError reports a name that does not exist.
type UnknownError struct {
	What  string // rule or promise
	Name  string
	Known []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("there is no %s %q: use %s", e.What, e.Name, strings.Join(e.Known, ", "))
}

func wantedPromises(ids []string) (map[string]bool, error) {
	wanted := map[string]bool{}
	var known []string
	for _, p := range Promises() {
		known = append(known, p.ID)
		wanted[p.ID] = len(ids) == 0
	}
	for _, id := range ids {
		if !slices.Contains(known, id) {
			return nil, &UnknownError{"promise", id, known}
		}
		wanted[id] = true
	}
	return wanted, nil
}

// skipsOf reads custom.verify.skip of a rule's METADATA.
func skipsOf(rule *ruleset.Rule) ([]Skip, []ruleset.Problem) {
	value, place, ok := rule.Custom("verify")
	if !ok {
		return nil, nil
	}
	wrong := func(format string, args ...any) []ruleset.Problem {
		return []ruleset.Problem{{Place: place, Message: "custom.verify: " + fmt.Sprintf(format, args...),
			Fix: "write skip: [{promise: order, reason: \"why\"}]"}}
	}
	object, _ := value.(map[string]any)
	list, ok := object["skip"].([]any)
	if !ok || len(object) != 1 {
		return nil, wrong("it must contain only skip, a list")
	}
	var skips []Skip
	for _, element := range list {
		entry, _ := element.(map[string]any)
		promise, _ := entry["promise"].(string)
		reason, _ := entry["reason"].(string)
		if _, err := wantedPromises([]string{promise}); err != nil {
			return nil, wrong("%v", err)
		}
		if strings.TrimSpace(reason) == "" {
			return nil, wrong("the promise %s is skipped without a reason", promise)
		}
		skips = append(skips, Skip{Promise: promise, Reason: reason})
	}
	return skips, nil
}

// exploreAll plans the requests of all searches. Each plan is the work of one goroutine, so that it does not depend on
// the number of workers.
func exploreAll(ctx context.Context, searches []*search, options Options) error {
	var group errgroup.Group
	group.SetLimit(options.Workers)
	for _, s := range searches {
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil // Run reports what it has found so far
			}
			return s.explore(ctx, options)
		})
	}
	return group.Wait()
}

// explore plans the requests to try.
func (s *search) explore(ctx context.Context, options Options) error {
	name := fnv.New64a()
	name.Write([]byte(s.checker.rule.Package)) // so that the search of a rule does not depend on other rules
	random := rand.New(rand.NewPCG(options.Seed, name.Sum64()))
	f, err := newFollower(&s.checker, cmp.Or(options.Timeout, decider.DefaultTimeout))
	if err != nil {
		return err
	}
	s.branches = newBranches(f.syntax, s.checker.rule.RestrictedCalls(), func(file string) bool { return s.checker.analysis.Home[file] })
	e := explorer{options: options, set: s.checker.set, rule: s.checker.rule, analysis: s.checker.analyze(), branches: s.branches, random: random,
		decide:  func(d *draft) brief { return f.brief(ctx, d) },
		verdict: func(d *draft) string { return f.verdict(ctx, d) },
		follow:  func(d *draft) evaluated { return f.follow(ctx, d) },
		isHome:  f.isHome,
	}
	space, paths := e.space()
	if space == nil {
		return nil
	}
	s.reached = paths.sides
	s.plan = planOf(space, paths, options.Budget, random)
	s.followed = len(paths.asked)
	s.checker.thorough = s.plan.everything
	return nil
}

// maxTimeouts is the number of timeouts after which the search of a rule ends, because each takes seconds and more of
// them tell nothing new.
const maxTimeouts = 8

// run tries all requests of the plan.
func (s *search) run(ctx context.Context, workers int, progress func(asked int)) {
	ctx, s.giveUp = context.WithCancel(ctx)
	defer s.giveUp()
	var next atomic.Int64
	var group sync.WaitGroup
	size := s.plan.size()
	for worker := range workers {
		group.Go(func() {
			for ctx.Err() == nil {
				number := int(next.Add(1) - 1)
				if number >= size {
					return
				}
				if worker == 0 {
					progress(number)
				}
				d := s.plan.request(number)
				c, body := s.checker.at(d), d.body()
				key := d.keyOf(body, c.world)
				if !s.isNew(key) {
					continue
				}
				a, found := c.check(ctx, body)
				if ctx.Err() == nil {
					s.count(d, key, &a, found)
				}
			}
		})
	}
	group.Wait()
	s.failing = int(s.checker.memo.failing.Load())
	if s.complete = ctx.Err() == nil; s.complete {
		s.stuck, s.unlisted = s.findStuck(ctx), s.findUnlisted(ctx)
	}
}

// isNew reports whether no request with this key was tried yet.
func (s *search) isNew(key [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.seen[key]
	s.seen[key] = true
	return !known
}

func (s *search) count(d *draft, key [16]byte, a *decided, found []broken) {
	device := d.device()
	deviceKey := memoKey(device.body()) // without the lock, because it takes a while
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.invalid() {
		s.invalid++
		return
	}
	s.asked++
	s.outcomes[string(a.Result)]++
	s.notAssigned(a)
	s.noteHold(device, deviceKey, a)
	if a.Result == answer.Timeout {
		if s.timeouts++; s.timeouts == maxTimeouts {
			s.plan.space.note("stopped after %d timeouts", maxTimeouts)
			s.giveUp()
		}
	}
	for _, override := range a.Overrides {
		s.overrides[string(override)]++
	}
	for _, b := range found {
		t := s.found[b.key()]
		if t == nil {
			t = &tally{broken: b, key: key}
			s.found[b.key()] = t
		}
		t.count++
		// Keep the smallest, and among equals always the same, whichever worker was first.
		if cmp.Or(len(b.body)-len(t.broken.body), bytes.Compare(b.body, t.broken.body), bytes.Compare(key[:], t.key[:])) < 0 {
			t.broken, t.key = b, key
		}
	}
}

func (s *search) report(ctx context.Context) RuleReport {
	rule := s.checker.rule
	r := RuleReport{Rule: rule.Package, Title: rule.Title, Place: rule.Place, Outcomes: s.outcomes, Overrides: s.overrides,
		Invariants: s.checker.invariants.Has(rule.Package), Broken: []Finding{}, Skipped: s.skips}
	switch {
	case s.plan != nil:
		r.Space = s.space()
	case ctx.Err() == nil:
		r.Space.Notes = []string{"no enrollment reaches this rule, because other rules serve them more precisely"}
	}
	r.Reasons, r.Stuck, r.Unlisted = s.reasons, s.stuck, s.unlisted
	if s.plan != nil && s.complete {
		s.checkAssigns()
	}
	promises := Promises()
	index := func(b broken) int {
		return slices.IndexFunc(promises, func(p Promise) bool { return p.ID == b.promise })
	}
	keys := slices.SortedFunc(maps.Keys(s.found), func(a, b string) int {
		return cmp.Or(index(s.found[a].broken)-index(s.found[b].broken), strings.Compare(a, b))
	})
	for _, key := range keys {
		t := s.found[key]
		if i := slices.IndexFunc(s.skips, func(skip Skip) bool { return skip.Promise == t.broken.promise }); i >= 0 {
			r.Skipped[i].Broken += t.count
			continue
		}
		smallest := t.broken
		if ctx.Err() == nil && t.broken.promise != assignsPromise {
			c := s.checker
			c.known, c.world = t.broken.known, t.broken.world
			smallest = c.shrink(ctx, t.broken)
		}
		r.Broken = append(r.Broken, Finding{Promise: smallest.promise, Statement: promises[index(smallest)].Statement, Message: smallest.message,
			Place: cmp.Or(smallest.place, rule.Place), At: timeOf(smallest.known), Rows: rowsOf(smallest.asked), Count: t.count, Request: indented(smallest.body), Then: indented(smallest.then)})
	}
	return r
}

func (s *search) space() Space {
	p := s.plan
	space := Space{Size: p.space.size(), Asked: s.asked, Exhaustive: p.everything && s.complete, Invalid: s.invalid, Notes: p.space.notes,
		Followed: s.followed, Failing: s.failing, Branches: s.branches.report(s.reached)}
	if s.complete {
		space.Pairs, space.Paired, space.Random = p.pairs, p.paired, p.random
	}
	for _, d := range p.space.dimensions {
		space.Dimensions = append(space.Dimensions, Dimension{d.name, len(d.values), d.single})
	}
	return space
}

// timeOf is the time of the decision among look-ups; zero if there is none.
func timeOf(known []answer.Lookup) time.Time {
	for _, call := range known {
		if number, ok := call.Result.(json.Number); ok && call.Builtin == nowBuiltin {
			if now, err := number.Int64(); err == nil {
				return time.Unix(0, now).UTC()
			}
		}
	}
	return time.Time{}
}

func indented(body []byte) json.RawMessage {
	var text bytes.Buffer
	if json.Indent(&text, body, "", "  ") != nil {
		return nil // there is no body
	}
	return text.Bytes()
}
