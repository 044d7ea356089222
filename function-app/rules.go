package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/azureauth"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/internal/serve/rulesource"
	"github.com/usher-dps/usher/internal/serve/shadow"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// liveRules are the rules that answer, the rules on trial next to them, and what keeps both up to date.
type liveRules struct {
	allocator *decider.Decider
	current   *rulesource.Keeper
	// second and shadow are nil without rules on trial.
	second *rulesource.Keeper
	shadow *shadow.Shadow
	// started is set if second was started, whether it found rules or not.
	started bool
	lookups liveLookups
	log     *slog.Logger
	// evaluations count what evaluated rules, those on trial included.
	evaluations decider.Evaluations
}

// startRules puts the first rules into use. It compiles them and the schema at the same time: each takes about half of
// the time from the start to the first answer. record receives what shadow rules decide; it may be nil.
func startRules(ctx context.Context, settings settings, getenv func(string) string, log *slog.Logger, record answer.Observer, lookups liveLookups) (*liveRules, error) {
	r := &liveRules{log: log, lookups: lookups}
	options := rulesource.Options{
		Rules: decider.RulesOptions{AllowBuiltins: settings.builtins, AllowNet: settings.allowNet,
			Evaluator: settings.evaluator, Memory: settings.decisionMemory, Evaluations: &r.evaluations},
		Prepare:    lookups.prepare,
		CheckAfter: settings.rulesCheck == checkAfter,
		NoSelfTest: settings.rules.NoTest,
		Timeout:    settings.decisionTimeout,
		Key:        settings.rules.Key,
		Token:      settings.rules.Token,
		Credential: func() (azcore.TokenCredential, error) { return azureauth.Credential(getenv) },
		Cache:      settings.rules.Cache,
		Poll:       settings.rules.Poll,
		Watch:      settings.rules.Watch,
		Log:        log,
	}
	var allocatorErr, rulesErr error
	built := make(chan struct{})
	current := options
	current.Location = settings.rules.Source
	current.MaxAge = settings.rules.MaxAge
	current.Use = func(rules *decider.Rules) {
		if <-built; r.allocator != nil {
			r.allocator.Use(rules)
		}
	}
	if settings.rules.HoldStale {
		current.Stale = func(stale bool) {
			if <-built; r.allocator != nil {
				r.holdStale(stale)
			}
		}
	}
	r.current = rulesource.New(current)
	var group sync.WaitGroup
	group.Go(func() { rulesErr = r.current.Start(ctx) })
	group.Go(func() {
		defer close(built)
		r.allocator, allocatorErr = decider.New(decider.Options{Timeout: settings.decisionTimeout, Lookups: lookups})
		if allocatorErr == nil && settings.rules.Second.Kind != "" {
			allocatorErr = r.newSecond(options, settings, record)
		}
	})
	group.Wait()
	if allocatorErr != nil {
		return nil, allocatorErr
	}
	if rulesErr != nil {
		return nil, fmt.Errorf("%s: %w", settingRules, rulesErr)
	}
	if len(settings.rules.Canary) > 0 {
		r.startSecond(ctx) // before the first answer: the canary's devices must not be decided by the other rules first
	}
	return r, nil
}

// newSecond prepares the rules on trial. They have a decider of their own for shadow decisions, so that rules which run
// on past their time limits take nothing from devices that are answered.
func (r *liveRules) newSecond(options rulesource.Options, settings settings, record answer.Observer) error {
	apart, err := decider.New(decider.Options{Timeout: settings.decisionTimeout, Lookups: r.lookups})
	if err != nil {
		return err
	}
	options.Location, options.Name = settings.rules.Second, "shadow"
	if first := settings.rules.Source; first.Kind == remotefile.HTTPS && first.Host() != options.Location.Host() {
		options.Token = "" // it belongs to the other host
	}
	options.Use = func(rules *decider.Rules) {
		apart.Use(rules)
		r.allocator.Try(&decider.Trial{Rules: rules, Canary: settings.rules.Canary})
	}
	r.second = rulesource.New(options)
	r.shadow = shadow.New(shadow.Options{Decider: apart, Shares: settings.rules.Shadow, Record: record})
	return nil
}

// startSecond loads the rules on trial. If they are not good, the rules that answer are not affected.
func (r *liveRules) startSecond(ctx context.Context) {
	r.started = true
	if err := r.second.Start(ctx); err != nil && ctx.Err() == nil {
		r.log.ErrorContext(ctx, "rules on trial cannot be used", "setting", settingShadow, "error", err.Error())
	}
}

// holdStale holds devices while the rules may be out of date.
func (r *liveRules) holdStale(stale bool) {
	detail := ""
	if stale {
		detail = "the source of the rules has been silent for too long (" + settingRulesMaxAge + ")"
	}
	r.allocator.Stop(detail)
}

// run keeps the rules up to date until ctx ends.
func (r *liveRules) run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { r.current.Run(ctx) })
	if r.second != nil {
		group.Go(func() {
			if !r.started {
				r.startSecond(ctx)
			}
			r.second.Run(ctx)
		})
		group.Go(func() { r.shadow.Run(ctx) })
	}
	group.Wait()
}

// sourceDetails is what GET /readyz shows of a source of rules. It needs no key, so it shows no location; the log does.
type sourceDetails struct {
	Revision    string    `json:"revision,omitempty"`
	Digest      string    `json:"digest,omitempty"`
	FromDisk    bool      `json:"fromDisk"` // and not confirmed by the source
	Activated   time.Time `json:"activated,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	LastAttempt time.Time `json:"lastAttempt,omitzero"`
	AgeSeconds  int64     `json:"ageSeconds"`
	Stale       bool      `json:"stale"`
	Refused     bool      `json:"refused"` // the rules at the source are not good
	Failing     bool      `json:"failing"` // the last read
}

// details describes the sources of the rules.
func (r *liveRules) details() any {
	details := struct {
		Rules   sourceDetails   `json:"rules"`
		Shadow  *sourceDetails  `json:"shadow,omitempty"`
		Lookups []lookupDetails `json:"lookups,omitempty"`
	}{Rules: detailsOf(r.current.Stats()), Lookups: r.lookups.details()}
	if r.second != nil {
		second := detailsOf(r.second.Stats())
		details.Shadow = &second
	}
	return details
}

func detailsOf(s rulesource.Stats) sourceDetails {
	return sourceDetails{Revision: s.Revision, Digest: s.Digest, FromDisk: s.FromCache, Activated: s.Activated.UTC(),
		LastSuccess: s.LastSuccess.UTC(), LastAttempt: s.LastAttempt.UTC(), AgeSeconds: int64(s.Age.Seconds()), Stale: s.Stale,
		Refused: s.Refused != "", Failing: s.Failure != ""}
}

// states are for the metrics.
func (r *liveRules) states() []telemetry.Rules {
	state := func(name string, s rulesource.Stats) telemetry.Rules {
		return telemetry.Rules{Source: name, Revision: s.Revision, Digest: s.Digest, Refreshed: s.LastSuccess, Age: s.Age,
			Stale: s.Stale, Refusals: s.Refusals, Failures: s.Failures}
	}
	states := []telemetry.Rules{state(string(answer.SourceCurrent), r.current.Stats())}
	if r.second != nil {
		states = append(states, state(string(answer.SourceShadow), r.second.Stats()))
	}
	return states
}

// comparisons are for the metrics; nil without rules on trial.
func (r *liveRules) comparisons() []telemetry.Comparisons {
	if r.shadow == nil {
		return nil
	}
	stats := r.shadow.Stats()
	list := []telemetry.Comparisons{{Comparison: "dropped", Count: stats.Dropped}}
	for _, c := range stats.Enrollments {
		list = append(list, telemetry.Comparisons{Kind: c.Kind, Enrollment: c.Enrollment, Comparison: "agreed", Count: c.Agreed})
		for _, kind := range answer.Differences() {
			if n := c.Differences[kind]; n > 0 {
				list = append(list, telemetry.Comparisons{Kind: c.Kind, Enrollment: c.Enrollment, Comparison: string(kind), Count: n})
			}
		}
	}
	return list
}

// evaluated counts what evaluated the rules.
func (r *liveRules) evaluated() telemetry.Evaluations {
	e := &r.evaluations
	return telemetry.Evaluations{ByPlan: e.ByPlan.Load(), ByTopdown: e.ByTopdown.Load(), Different: e.Different.Load()}
}
