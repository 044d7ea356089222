package play

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// proveRoutes are those that test and verify the rules.
func (s *server) proveRoutes(api *echo.Group) {
	api.POST("/test", s.test)
	api.POST("/verify", s.verify)
}

// progressInterval is the least time between two events that only say how far work is.
const progressInterval = 100 * time.Millisecond

// progress sends events that say how far work is, but not more than anyone can see.
type progress struct {
	events *stream
	mu     sync.Mutex
	last   time.Time
}

func (p *progress) send(done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); done == total || now.Sub(p.last) >= progressInterval {
		p.last = now
		_ = p.events.send("progress", map[string]int{"done": done, "total": total}) // if it fails, ctx ends
	}
}

// fail sends an event that says why work ended.
func (s *stream) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil // no one is left to hear of it
	}
	if problems := loadProblems(err); problems != nil {
		return s.send("problem", map[string]any{"problems": problems, "error": problems[0].String()})
	}
	return s.send("problem", map[string]any{"problems": []problem{}, "error": err.Error()})
}

// outcome is how a test ended.
type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	errored outcome = "errored"
	skipped outcome = "skipped"
)

// testCase is a test, a case of one, or an exchange.
type testCase struct {
	Name    string  `json:"name"`
	File    string  `json:"file"`
	Line    int     `json:"line"`
	Outcome outcome `json:"outcome"`
	// Message says why it failed, and Printed what the test printed.
	Message string `json:"message,omitempty"`
	Printed string `json:"printed,omitempty"`
	// FailedAt is the place of the expression that was not true, in the test or in the rule.
	FailedAt *place `json:"failedAt,omitempty"`
}

type place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// covered are the lines of a file that tests reached, and those of which they missed something.
type covered struct {
	Covered []int `json:"covered"`
	Missed  []int `json:"missed"`
}

// test runs the tests and the exchanges, as usher test does.
func (s *server) test(c echo.Context) error {
	var body struct {
		Edits workspace.Edits `json:"edits"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	ctx := c.Request().Context()
	events := newStream(c)
	counts := map[outcome]int{passed: 0, failed: 0, errored: 0, skipped: 0}
	report := func(one testCase) error {
		counts[one.Outcome]++
		return events.send("case", one)
	}
	coverage, err := s.runTests(ctx, body.Edits, report)
	if err != nil {
		return events.fail(ctx, err)
	}
	if err := events.send("coverage", coverage); err != nil {
		return err
	}
	return events.send("done", counts)
}

// runTests reports each test and exchange, and returns which lines of each file the tests reached.
func (s *server) runTests(ctx context.Context, edits workspace.Edits, report func(testCase) error) (map[string]covered, error) {
	loaded, err := s.Workspace.Load(edits)
	if err != nil {
		return nil, err
	}
	suite, err := ruletest.Load(ctx, loaded.Files, ruletest.Options{AllowBuiltins: s.Rules.AllowBuiltins, AllowNet: s.Rules.AllowNet, Coverage: true})
	if err != nil {
		return nil, err
	}
	for result, err := range suite.Run(ctx) {
		if err != nil {
			return nil, err
		}
		if err := report(caseOf(result)); err != nil {
			return nil, err
		}
	}
	coverage := map[string]covered{}
	for _, file := range suite.Coverage().Files {
		missed := linesIn(file.Missed)
		reached := slices.DeleteFunc(linesIn(file.Reached), func(line int) bool { return slices.Contains(missed, line) })
		coverage[file.Name] = covered{reached, missed}
	}
	return coverage, s.runExchanges(ctx, loaded, report)
}

func caseOf(result ruletest.Result) testCase {
	one := testCase{Name: result.Name(), File: result.File, Line: result.Line, Message: result.Message, Printed: result.Printed}
	switch result.Outcome {
	case ruletest.Pass:
		one.Outcome = passed
	case ruletest.Skipped:
		one.Outcome = skipped
	case ruletest.Error:
		one.Outcome = errored
	default:
		one.Outcome = failed
	}
	if f := result.Failure; f != nil {
		one.Message, one.FailedAt = f.Text, &place{f.File, f.Line}
	}
	return one
}

func linesIn(ranges []ruletest.Lines) []int {
	list := []int{}
	for _, r := range ranges {
		for line := r.From; line <= r.To; line++ {
			list = append(list, line)
		}
	}
	return list
}

// runExchanges decides the requests of the exchanges, and compares the answers.
func (s *server) runExchanges(ctx context.Context, loaded *workspace.Loaded, report func(testCase) error) error {
	d, err := decider.New(decider.Options{Rules: loaded.Rules, Timeout: s.Timeout})
	if err != nil {
		return err
	}
	return fs.WalkDir(loaded.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		base, ok := strings.CutSuffix(name, exchange.RequestSuffix)
		if err != nil || !ok || entry.IsDir() {
			return err
		}
		one := testCase{Name: base, File: name, Line: 1, Outcome: passed}
		problems, err := exchange.Check(ctx, d, loaded.Files, base)
		if err != nil {
			return err
		}
		if len(problems) > 0 {
			one.Outcome, one.Message = failed, strings.Join(problems, "\n")
		}
		return report(one)
	})
}

// maxBudget bounds how many requests a search tries for each rule.
const maxBudget = 1_000_000

// verify searches for requests that break a promise, as usher verify does.
func (s *server) verify(c echo.Context) error {
	var body struct {
		Edits  workspace.Edits `json:"edits"`
		Rule   string          `json:"rule"`
		Budget int             `json:"budget"`
		Seed   uint64          `json:"seed"`
	}
	body.Seed = 1
	if err := read(c, &body); err != nil {
		return err
	}
	if body.Budget < 0 || body.Budget > maxBudget {
		return fail(http.StatusBadRequest, fmt.Errorf("budget must be from 1 to %d, or 0 for %d", maxBudget, verify.DefaultBudget))
	}
	options := verify.Options{Hubs: s.Hubs, Budget: body.Budget, Seed: body.Seed, Timeout: s.Timeout}
	if body.Rule != "" {
		options.Only = []string{body.Rule}
	}
	if s.PayloadSchema != nil {
		var err error
		if options.PayloadSchema, err = verify.ParsePayloadSchema(s.PayloadSchema); err != nil {
			return fail(http.StatusUnprocessableEntity, fmt.Errorf("--payload-schema: %w", err))
		}
	}
	ctx := c.Request().Context()
	events := newStream(c)
	loaded, err := s.Workspace.LoadAll(body.Edits)
	if err != nil {
		return events.fail(ctx, err)
	}
	options.Rules, options.Files = loaded.Rules, loaded.Files
	far := progress{events: events}
	options.Progress = far.send
	report, err := verify.Run(ctx, options)
	if err != nil || ctx.Err() != nil {
		return events.fail(ctx, err)
	}
	return events.send("report", report)
}
