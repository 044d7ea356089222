// Package verify searches for requests that break a promise of an allocation
// rule, and makes the smallest of them that it can.
//
// The requests are made of what the rule's own text and data say: the enrollments
// that it serves, the hubs that it names, the values that it compares. Each is
// decided by an decider.Decider, the webhook's own; the package decides
// nothing itself. Where all requests of that kind are too many, every pair of
// values is asked together, and the rest by chance.
package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// DefaultBudget is how many requests a rule is asked unless told otherwise: a few
// seconds' worth. Each is followed up with some five more.
const DefaultBudget = 5000

// Options say what is searched. Rules and Files are needed.
type Options struct {
	// Rules decide. Files is where they were loaded from.
	Rules *decider.Rules
	Files fs.FS

	// Only lists the packages of the rules to search; nil means all.
	Only []string
	// Promises lists the promises to check; nil means all.
	Promises []string
	// Hubs are host names, or first labels of them, to link.
	Hubs []string
	// PayloadSchema adds members of the payload that rules do not name.
	PayloadSchema []Field
	// Budget is how many requests each rule is asked; 0 means DefaultBudget.
	Budget int
	// Seed makes what is left to chance come out the same again.
	Seed uint64
	// Timeout is how long a rule may take for one request; 0 means decider.DefaultTimeout.
	Timeout time.Duration
	// Workers is how many requests are asked at once; 0 means one for each core.
	Workers int
	// Progress is told from time to time how many of all requests were asked. It
	// is called by one goroutine at a time.
	Progress func(done, total int)
}

// Report is what a search came to.
type Report struct {
	Rules []RuleReport `json:"rules"`
	Seed  uint64       `json:"seed"`
	// Interrupted is set if the search was ended before it was through.
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

// Invariants reports whether invariants of one's own judge any rule.
func (r *Report) Invariants() bool {
	return slices.ContainsFunc(r.Rules, func(rule RuleReport) bool { return rule.Invariants })
}

// RuleReport is what the search of one rule came to.
type RuleReport struct {
	Rule  string `json:"rule"`
	Title string `json:"title,omitempty"`
	Place string `json:"place"`
	Space Space  `json:"space"`
	// Outcomes counts what became of the requests, and Overrides where a
	// constraint prevailed over the rule.
	Outcomes  Counts `json:"outcomes"`
	Overrides Counts `json:"overrides,omitempty"`
	// Invariants is set if invariants of one's own judge the rule.
	Invariants bool      `json:"invariants"`
	Broken     []Finding `json:"broken"`
	// Skipped are the promises that the rule's METADATA switches off.
	Skipped []Skip `json:"skipped,omitempty"`
}

// Counts are how often something was found. In JSON they are a list, because the
// names of outcomes and constraints are values and no members.
type Counts map[string]int

// MarshalJSON writes [{"name": "assigned", "count": 1}], in the order of the names.
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

// Space says what was covered.
type Space struct {
	Dimensions []Dimension `json:"dimensions"`
	// Size is how many requests there are, counting those twice that come out the
	// same, or math.MaxInt for more; Asked how many different ones were asked. They
	// are all there are if Exhaustive.
	Size       int  `json:"size"`
	Asked      int  `json:"asked"`
	Exhaustive bool `json:"exhaustive"`
	// Pairs of values of two dimensions, and how many of them were asked
	// together, where the space was too large. ByChance is how many more requests
	// were chosen by chance. All are 0 for a search that ended early.
	Pairs    int `json:"pairs,omitempty"`
	Paired   int `json:"paired,omitempty"`
	ByChance int `json:"byChance,omitempty"`
	// Invalid is how many were no requests by the schema.
	Invalid int `json:"invalid,omitempty"`
	// Notes say what was left out of a dimension.
	Notes []string `json:"notes,omitempty"`
}

// Dimension is one aspect of a request.
type Dimension struct {
	Name   string `json:"name"`
	Values int    `json:"values"`
	// Single says why there is one value alone.
	Single string `json:"single,omitempty"`
}

// Finding is a promise that is broken.
type Finding struct {
	Promise string `json:"promise"`
	Says    string `json:"says"`
	Message string `json:"message"`
	Place   string `json:"place"` // file:line
	// Count is how many of the requests that were asked break it.
	Count int `json:"count"`
	// Request breaks it; Then is the second request where the promise is about two.
	Request json.RawMessage `json:"request"`
	Then    json.RawMessage `json:"then,omitempty"`
	// File and ThenFile are where the two were saved, if they were.
	File     string `json:"file,omitempty"`
	ThenFile string `json:"thenFile,omitempty"`
}

// Skip is a promise that a rule's METADATA switches off.
type Skip struct {
	Promise string `json:"promise"`
	Reason  string `json:"reason"`
	// Broken is how many requests break it nevertheless; with 0 the rule may as
	// well promise it.
	Broken int `json:"broken"`
}

// Run searches. Its error says that there is nothing to search with: a
// *ruleset.LoadError where the METADATA or the invariants are at fault, or an
// unknown rule or promise. When ctx ends, it reports what was found so far.
func Run(ctx context.Context, options Options) (*Report, error) {
	if options.Budget <= 0 {
		options.Budget = DefaultBudget
	}
	if options.Workers <= 0 {
		options.Workers = runtime.GOMAXPROCS(0)
	}
	searches, err := newSearches(ctx, options)
	if err != nil {
		return nil, err
	}
	report := &Report{Seed: options.Seed}
	total := 0
	for _, s := range searches {
		if ctx.Err() != nil {
			break
		}
		if s.explore(ctx, options); s.plan != nil {
			total += s.plan.size()
		}
	}
	done := 0
	for _, s := range searches {
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
	set     *ruleset.Ruleset
	skips   []Skip
	plan    *plan

	mu        sync.Mutex
	found     map[string]*tally
	asked     int
	invalid   int
	timeouts  int
	giveUp    context.CancelFunc
	through   bool // all of the plan was asked
	outcomes  map[string]int
	overrides map[string]int
	seen      sync.Map // keys of the bodies asked
}

// tally is one finding while the search goes on.
type tally struct {
	broken broken
	count  int
}

func newSearches(ctx context.Context, options Options) ([]*search, error) {
	set := options.Rules.Set()
	judges, err := invariants.Load(ctx, set, options.Files)
	if err != nil {
		return nil, err
	}
	decides, err := decider.New(decider.Options{Rules: options.Rules, Timeout: options.Timeout})
	if err != nil {
		return nil, err
	}
	wanted, err := wantedPromises(options.Promises)
	if err != nil {
		return nil, err
	}
	var searches []*search
	var problems []ruleset.Problem
	for _, rule := range set.Rules() {
		if len(options.Only) > 0 && !slices.Contains(options.Only, rule.Package) && !slices.Contains(options.Only, strings.TrimPrefix(rule.Package, "allocation.")) {
			continue
		}
		skips, wrong := skipsOf(rule)
		problems = append(problems, wrong...)
		analysis, err := dataflow.Analyze(rule)
		if err != nil {
			return nil, err
		}
		s := &search{set: set, skips: skips, found: map[string]*tally{}, outcomes: map[string]int{}, overrides: map[string]int{}}
		s.checker = checker{decider: decides, rule: rule, analysis: analysis, invariants: judges, wanted: wanted,
			memo: new(memo), findRule: set.Serving, chancy: len(rule.RestrictedCalls()) > 0}
		searches = append(searches, s)
	}
	if len(problems) > 0 {
		return nil, &ruleset.LoadError{Problems: problems}
	}
	if len(searches) < len(options.Only) {
		var names []string
		for _, rule := range set.Rules() {
			names = append(names, rule.Package)
		}
		return nil, &UnknownError{What: "rule", Names: options.Only, Known: names}
	}
	return searches, nil
}

// UnknownError says that the caller named what there is not.
type UnknownError struct {
	What         string // rule or promise
	Names, Known []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("no such %s among %s: there are %s", e.What, strings.Join(e.Names, ", "), strings.Join(e.Known, ", "))
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
			return nil, &UnknownError{What: "promise", Names: []string{id}, Known: known}
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
		return nil, wrong("skip, a list, is all that it can hold")
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

// explore finds out what there is to ask.
func (s *search) explore(ctx context.Context, options Options) {
	name := fnv.New64a()
	name.Write([]byte(s.checker.rule.Package)) // so that a rule's search does not depend on the other rules
	chance := rand.New(rand.NewPCG(options.Seed, name.Sum64()))
	timeouts := 0
	e := explorer{options: options, set: s.set, rule: s.checker.rule, analysis: s.checker.analysis, chance: chance,
		decide: func(body []byte) brief {
			if timeouts >= maxTimeouts {
				return brief{result: answer.Timeout}
			}
			a := s.checker.decide(ctx, body)
			if a.Result == answer.Timeout {
				timeouts++
			}
			return briefOf(&a.Answer)
		}}
	if space := e.space(); space != nil {
		s.plan = planOf(space, options.Budget, chance)
		s.checker.thorough = s.plan.everything
	}
}

// maxTimeouts is after how many the search of a rule ends: each costs seconds,
// and the first says it all.
const maxTimeouts = 8

// run asks all requests of the plan.
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
				body := s.plan.space.draft(s.plan.choice(number)).body()
				if _, again := s.seen.LoadOrStore(memoKey(body), true); again {
					continue
				}
				a, found := s.checker.check(ctx, body)
				if ctx.Err() == nil {
					s.count(&a, found)
				}
			}
		})
	}
	group.Wait()
	s.through = ctx.Err() == nil
}

func (s *search) count(a *decided, found []broken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.invalid() {
		s.invalid++
		return
	}
	s.asked++
	s.outcomes[string(a.Result)]++
	if a.Result == answer.Timeout {
		if s.timeouts++; s.timeouts == maxTimeouts {
			s.plan.space.note("ended after %d timeouts", maxTimeouts)
			s.giveUp()
		}
	}
	for _, override := range a.Overrides {
		s.overrides[string(override)]++
	}
	for _, b := range found {
		t := s.found[b.key()]
		if t == nil {
			t = &tally{broken: b}
			s.found[b.key()] = t
		}
		t.count++
		// The smallest, and of equals always the same, whichever worker came first.
		if c := cmp.Or(len(b.body)-len(t.broken.body), strings.Compare(string(b.body), string(t.broken.body))); c < 0 {
			t.broken = b
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
		r.Space.Notes = []string{"no enrollment was found that this rule serves and no other rule with more precision"}
	}
	says := map[string]string{}
	var order []string
	for _, p := range Promises() {
		says[p.ID] = p.Says
		order = append(order, p.ID)
	}
	keys := slices.SortedFunc(maps.Keys(s.found), func(a, b string) int {
		return cmp.Or(slices.Index(order, s.found[a].broken.promise)-slices.Index(order, s.found[b].broken.promise), strings.Compare(a, b))
	})
	for _, key := range keys {
		t := s.found[key]
		if i := slices.IndexFunc(s.skips, func(skip Skip) bool { return skip.Promise == t.broken.promise }); i >= 0 {
			r.Skipped[i].Broken += t.count
			continue
		}
		smallest := t.broken
		if ctx.Err() == nil {
			smallest = s.checker.shrink(ctx, t.broken)
		}
		r.Broken = append(r.Broken, Finding{Promise: smallest.promise, Says: says[smallest.promise], Message: smallest.message,
			Place: cmp.Or(smallest.place, rule.Place), Count: t.count, Request: indented(smallest.body), Then: indented(smallest.then)})
	}
	return r
}

func (s *search) space() Space {
	p := s.plan
	space := Space{Size: p.space.size(), Asked: s.asked, Exhaustive: p.everything && s.through, Invalid: s.invalid, Notes: p.space.notes}
	if s.through {
		space.Pairs, space.Paired, space.ByChance = p.pairs, p.paired, p.byChance
	}
	for _, d := range p.space.dimensions {
		space.Dimensions = append(space.Dimensions, Dimension{d.name, len(d.values), d.single})
	}
	return space
}

// Endless reports whether Size is too large to count.
func (s Space) Endless() bool { return s.Size == math.MaxInt }

func indented(body []byte) json.RawMessage {
	if body == nil {
		return nil
	}
	var value any
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil
	}
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return nil
	}
	return text
}

// IsLoadError returns the problems of rules that do not load, one to a line.
func IsLoadError(err error) bool {
	_, ok := errors.AsType[*ruleset.LoadError](err)
	return ok
}
