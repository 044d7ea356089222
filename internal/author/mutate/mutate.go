// Package mutate finds what the tests of rules do not notice. It changes the rules in one place at a time, and runs the
// tests, exchanges and invariants that the change can affect. If none of them notices, it looks for a request that the
// changed rules answer differently, by which a test would.
//
// A change for which there is no such request is set aside: it may make no difference. That is no proof, because only
// some requests are tried.
package mutate

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// DefaultRequests is the default of [Options.Requests].
const DefaultRequests = 2000

// maxChanges bounds the changes of one kind to one file, in case of a table with thousands of entries.
const maxChanges = 100

// A test of changed rules may take testPatience times as long as the slowest of the unchanged ones, and leastLimit in any
// case, because the machine may be busy. A test that takes longer has noticed the change.
const (
	testPatience = 10
	leastLimit   = 5 * time.Second
)

// Options say what to change. Files are required.
type Options struct {
	// Files are the rules, with their tests, data and invariants.
	Files fs.FS
	// Rules are the options that they are loaded with.
	Rules decider.RulesOptions
	// Exchanges notice changes too.
	Exchanges []exchange.Exchange
	// Run selects tests, as in [ruletest.Options]. If it is not nil, only rules are changed that a selected test or
	// exchange is for.
	Run *regexp.Regexp
	// TestTimeout is the time limit of one test; 0 means [ruletest.DefaultTimeout].
	TestTimeout time.Duration
	// Requests is the number of requests to generate for each rule from the unchanged rules; 0 means DefaultRequests. A
	// quarter as many are generated from the changed rules, in case these tell other requests apart.
	Requests int
	// Workers is the number of changes to try at once; 0 means one for each core.
	Workers int
	// Progress, if set, is called with the number of changes that were tried and of all. It is called by one goroutine at
	// a time.
	Progress func(done, total int)
}

// BaselineError reports a test or an exchange that fails although nothing was changed.
type BaselineError struct{ Name string }

func (e *BaselineError) Error() string {
	return e.Name + " fails without any change: fix it, then look for changes that the tests do not notice"
}

// Run tries all changes. It returns a *BaselineError if the tests fail without any, and a *ruleset.LoadError if rules,
// tests or invariants do not load. When ctx ends, Run reports what it has found so far.
func Run(ctx context.Context, options Options) (*Report, error) {
	options.Requests = cmp.Or(options.Requests, DefaultRequests)
	options.Workers = cmp.Or(options.Workers, runtime.GOMAXPROCS(0))
	options.TestTimeout = cmp.Or(options.TestTimeout, ruletest.DefaultTimeout)
	options.Rules.Lazy = true
	t := &trial{options: options, texts: map[string][]byte{}, graph: graph{}}
	files, err := t.load(ctx)
	if err != nil {
		return nil, err
	}
	selected, err := t.runUnchanged(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return newReport(nil, 0), nil
		}
		return nil, err
	}
	hubs, err := t.hubs()
	if err != nil {
		return nil, err
	}
	var mutants []mutant
	leftOut := 0
	for _, f := range files {
		if options.Run != nil && !slices.ContainsFunc(t.packagesOf(f), func(key string) bool { return selected[key] }) {
			continue
		}
		found, more := mutantsOf(f, hubs)
		mutants = append(mutants, found...)
		leftOut += more
	}
	return newReport(t.tryAll(ctx, mutants), leftOut), nil
}

// mutantsOf returns the changes to a file in the order of their places, and how many more there would be.
func mutantsOf(f *file, hubs map[string]bool) (mutants []mutant, leftOut int) {
	seen := map[string]bool{string(f.text): true}
	for _, operator := range Operators() {
		all := operator.edits(f, hubs)
		for i, edits := range all {
			if n := min(len(all), maxChanges); i*n/len(all) == (i+1)*n/len(all) {
				leftOut++
				continue
			}
			m := mutant{f, operator.Name, edits}
			if text := string(m.changed()); !seen[text] {
				seen[text] = true
				mutants = append(mutants, m)
			}
		}
	}
	slices.SortStableFunc(mutants, func(a, b mutant) int { return cmp.Compare(a.edits[0].from, b.edits[0].from) })
	return mutants, leftOut
}

// trial tries changes. After it has run the unchanged rules, it does not change.
type trial struct {
	options   Options
	texts     map[string][]byte // of all files, by their names
	graph     graph
	rules     *decider.Rules    // unchanged
	decides   *decider.Decider  // by them
	decidedBy map[string]string // the package that decides an exchange, by its name
	limit     time.Duration     // of a test
	corpora   map[string]func() (*corpus, error)
}

// load reads all files, and returns those to change in the order of their names.
func (t *trial) load(ctx context.Context) ([]*file, error) {
	var err error
	if t.rules, err = decider.LoadRules(ctx, t.options.Files, t.options.Rules); err != nil {
		return nil, err
	}
	if t.decides, err = decider.New(decider.Options{Rules: t.rules}); err != nil {
		return nil, err
	}
	names, err := ruleset.Files(t.options.Files, true)
	if err != nil {
		return nil, err
	}
	var files []*file
	for _, name := range names {
		if t.texts[name], err = fs.ReadFile(t.options.Files, name); err != nil {
			return nil, err
		}
		place := path.Join(t.options.Rules.Name, name)
		if path.Ext(name) == ".rego" && !ruleset.IsInvariants(name) {
			module, err := t.rules.Set().Parse(place, t.texts[name])
			if err != nil {
				return nil, err
			}
			t.graph.add(name, module)
		}
		f, err := readFile(t.rules.Set(), place, name, t.texts[name])
		if err != nil {
			return nil, err
		}
		if f != nil {
			files = append(files, f)
		}
	}
	t.corpora = map[string]func() (*corpus, error){}
	for _, rule := range t.rules.All() {
		t.corpora[rule.Package] = sync.OnceValues(func() (*corpus, error) { return t.corpusOf(ctx, rule.Package) })
	}
	return files, nil
}

// hubs are the names and patterns of hubs that any rule uses.
func (t *trial) hubs() (map[string]bool, error) {
	hubs := map[string]bool{}
	for _, rule := range t.rules.All() {
		analysis, err := dataflow.Analyze(rule)
		if err != nil {
			return nil, err
		}
		for _, hub := range analysis.HubNames {
			hubs[hub.Name] = true
		}
	}
	return hubs, nil
}

// runUnchanged runs the tests and exchanges, and returns the packages that they are for.
func (t *trial) runUnchanged(ctx context.Context) (map[string]bool, error) {
	suite, err := ruletest.Load(ctx, t.options.Files, t.suiteOptions(t.options.TestTimeout))
	if err != nil {
		return nil, err
	}
	selected := map[string]bool{}
	var slowest time.Duration
	for result, err := range suite.Run(ctx) {
		if err != nil {
			return nil, err
		}
		if result.Outcome == ruletest.Fail || result.Outcome == ruletest.Error {
			return nil, &BaselineError{result.Name()}
		}
		slowest = max(slowest, result.Duration)
		for key, n := range t.graph {
			if n.path.String() == result.Package {
				selected[key], selected[strings.TrimSuffix(key, "_test")] = true, true
			}
		}
	}
	t.limit = min(t.options.TestTimeout, max(leastLimit, testPatience*slowest))
	t.decidedBy = map[string]string{}
	for _, e := range t.options.Exchanges {
		result, err := e.Run(ctx, t.decides, false)
		if err != nil {
			return nil, err
		}
		if len(result.Problems) > 0 {
			return nil, &BaselineError{e.Name}
		}
		t.decidedBy[e.Name] = result.Rule
		selected[result.Rule] = true
	}
	return selected, nil
}

func (t *trial) suiteOptions(timeout time.Duration) ruletest.Options {
	o := t.options
	return ruletest.Options{Name: o.Rules.Name, AllowBuiltins: o.Rules.AllowBuiltins, AllowNet: o.Rules.AllowNet, Run: o.Run, Timeout: timeout}
}

// packagesOf returns the package of a file of rules, or those next to a file of data.
func (t *trial) packagesOf(f *file) []string {
	if f.module != nil {
		return []string{ruleset.PackageName(f.module)}
	}
	var keys []string
	for key, n := range t.graph {
		if slices.ContainsFunc(n.files, func(name string) bool { return path.Dir(name) == path.Dir(f.name) }) {
			keys = append(keys, key)
		}
	}
	return keys
}

// tryAll returns what became of the changes. A change without an outcome was not tried because ctx ended.
func (t *trial) tryAll(ctx context.Context, mutants []mutant) []Change {
	changes := make([]Change, len(mutants))
	var next, done atomic.Int64
	var workers sync.WaitGroup
	var progress sync.Mutex
	for range t.options.Workers {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(mutants)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if change := t.try(ctx, &mutants[i]); ctx.Err() == nil {
					changes[i] = change
				}
				if t.options.Progress != nil {
					progress.Lock()
					t.options.Progress(int(done.Add(1)), len(mutants))
					progress.Unlock()
				}
			}
		})
	}
	workers.Wait()
	return changes
}

// filesWith are the files with a change. If keys is not nil, only those of these packages, and all data.
func (t *trial) filesWith(m *mutant, keys map[string]bool) (fs.FS, error) {
	texts := t.texts
	if keys != nil {
		texts = map[string][]byte{}
		for name, text := range t.texts {
			if path.Ext(name) != ".rego" {
				texts[name] = text
			}
		}
		for key := range keys {
			for _, name := range t.graph[key].files {
				texts[name] = t.texts[name]
			}
		}
	}
	archive := &txtar.Archive{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		text := texts[name]
		if name == m.name {
			text = m.changed()
		}
		archive.Files = append(archive.Files, txtar.File{Name: name, Data: text})
	}
	fsys, err := txtar.FS(archive)
	if err != nil {
		return nil, fmt.Errorf("keep the rules in memory: %w", err)
	}
	return fsys, nil
}
