package lookupsource_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/lookup"
)

// declared returns the declaration of a look-up named device.
func declared(t *testing.T, more string) *lookups.Declaration {
	t.Helper()
	text := "device:\n  row: {type: object, properties: {hub: {type: string}}}\n" + more
	found, problems := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte(text)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return found[0]
}

// asked is a backend whose answers a test decides. It counts how often it is asked.
type asked struct {
	find  func(ctx context.Context, key string) (lookup.Answer, error)
	times atomic.Int64
}

func (a *asked) Find(ctx context.Context, key string) (lookup.Answer, error) {
	a.times.Add(1)
	return a.find(ctx, key)
}

func row(hub string) lookup.Answer { return lookup.Answer{Row: map[string]any{"hub": hub}} }

func open(t *testing.T, backend lookupsource.Backend, log *slog.Logger) *lookupsource.Sources {
	t.Helper()
	if backend.Kind == "" {
		backend.Kind = "test"
	}
	s, err := lookupsource.New(lookupsource.Options{Backends: map[string]lookupsource.Backend{"device": backend}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func kindOf(err error) fault.Kind {
	if f, ok := errors.AsType[*lookupsource.Fault](err); ok {
		return f.Kind
	}
	return ""
}

// A row is kept for its time to live, more or less by a tenth, and that there is none for its own.
func TestKept(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer lookup.Answer
		more   string
		ttl    time.Duration
	}{
		"a row":  {row("h"), "  ttl: 1000s\n", 1000 * time.Second},
		"no row": {lookup.Answer{}, "  negative_ttl: 100s\n", 100 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				backend := &asked{find: func(context.Context, string) (lookup.Answer, error) { return test.answer, nil }}
				s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, test.more)
				const keys = 200
				var asOf time.Time // of the last key's
				ask := func() int64 {
					before := backend.times.Load()
					for i := range keys {
						found, err := s.Find(t.Context(), d, fmt.Sprint("press-", i))
						if diff := cmp.Diff(test.answer.Row, found.Row); err != nil || diff != "" || found.Source != "test" {
							t.Fatal(found, err, diff)
						}
						asOf = found.AsOf
					}
					return backend.times.Load() - before
				}
				first := time.Now()
				if n := ask(); n != keys || !asOf.IsZero() {
					t.Fatalf("first asked %d times, as of %s", n, asOf)
				}
				time.Sleep(test.ttl*9/10 - time.Second)
				if n := ask(); n != 0 || !asOf.Equal(first) {
					t.Errorf("%d expired before 90 %% of their time; as of %s", n, asOf)
				}
				time.Sleep(test.ttl/10 + time.Second)
				if n := ask(); n < keys/4 || n > keys*3/4 {
					t.Errorf("%d of %d expired within their time: not spread", n, keys)
				}
				time.Sleep(test.ttl*11/10 + time.Second)
				if n := ask(); n != keys {
					t.Errorf("%d of %d expired after 110 %% of their time", n, keys)
				}
			})
		})
	}
}

// A time to live of 0 keeps nothing.
func TestNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		backend := &asked{find: func(context.Context, string) (lookup.Answer, error) { return row("h"), nil }}
		s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "  ttl: 0s\n")
		for range 3 {
			found, err := s.Find(t.Context(), d, "press-1")
			if err != nil || !found.AsOf.IsZero() {
				t.Fatal(found, err)
			}
			time.Sleep(time.Second)
		}
		if n := backend.times.Load(); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
}

// The memory is bounded. The clock is a fake one, so that no look-up exceeds its time limit on a busy machine.
func TestBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		backend := &asked{find: func(context.Context, string) (lookup.Answer, error) { return row("h"), nil }}
		s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "")
		for i := range 5 * lookupsource.DefaultCache {
			if _, err := s.Find(t.Context(), d, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if rows := s.States()[0].Rows; rows > 2*lookupsource.DefaultCache {
			t.Errorf("%d rows are in memory", rows)
		}
	})
}

// One request serves all that ask for a key at the same time, also if the first of them goes away.
func TestOneRequestForAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		backend := &asked{find: func(ctx context.Context, _ string) (lookup.Answer, error) {
			select {
			case <-time.After(100 * time.Millisecond):
				return row("h"), nil
			case <-ctx.Done():
				return lookup.Answer{}, ctx.Err()
			}
		}}
		s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "")
		first, leave := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := s.Find(first, d, "press-1"); !errors.Is(err, context.Canceled) || kindOf(err) != "" {
				t.Errorf("who went away got %v", err)
			}
		})
		synctest.Wait()
		for range 50 {
			wait.Go(func() {
				if found, err := s.Find(t.Context(), d, "press-1"); err != nil || found.Row["hub"] != "h" {
					t.Error(found, err)
				}
			})
		}
		synctest.Wait()
		leave()
		wait.Wait()
		if n := backend.times.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		state := s.States()[0]
		want := map[lookupsource.Outcome]uint64{lookupsource.Hit: 0, lookupsource.Row: 50, lookupsource.Absent: 0, lookupsource.Stale: 0, lookupsource.Faulty: 0}
		if diff := cmp.Diff(want, state.Counts); diff != "" || state.Asking != 100*time.Millisecond || state.Fault != "" {
			t.Errorf("%s%+v", diff, state)
		}
	})
}

// A source that does not answer is a fault after the timeout, even if it ignores that its context ended.
func TestTimeout(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(context.Context){
		"heeds":   func(ctx context.Context) { <-ctx.Done() },
		"ignores": func(context.Context) { time.Sleep(time.Hour) },
	} {
		for _, local := range []bool{false, true} {
			if local && name == "ignores" {
				continue // what is local is asked by the decision itself
			}
			t.Run(fmt.Sprint(name, local), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					backend := &asked{find: func(ctx context.Context, _ string) (lookup.Answer, error) {
						wait(ctx)
						return lookup.Answer{}, ctx.Err()
					}}
					s, d := open(t, lookupsource.Backend{Source: backend, Local: local}, nil), declared(t, "  timeout: 200ms\n")
					start := time.Now()
					_, err := s.Find(t.Context(), d, "press-1")
					const want = "the test source: timeout: no answer in time (timeout is 200ms at rules/lookups.yaml:1)"
					if kindOf(err) != fault.Timeout || err.Error() != want || time.Since(start) > 220*time.Millisecond {
						t.Errorf("after %s: %v", time.Since(start), err)
					}
					time.Sleep(time.Hour) // until all have returned
				})
			})
		}
	}
}

// After repeated faults a source is spared, then tried once, and asked as before when it answers.
func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		backend := &asked{find: func(context.Context, string) (lookup.Answer, error) {
			if down.Load() {
				return lookup.Answer{}, fault.New(fault.Unavailable, "it answers 503 Service Unavailable")
			}
			return row("h"), nil
		}}
		s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "  ttl: 0s\n")
		fails := func(kind fault.Kind) {
			t.Helper()
			_, err := s.Find(t.Context(), d, "press-1")
			if kindOf(err) != kind || !strings.HasSuffix(err.Error(), "it answers 503 Service Unavailable") {
				t.Errorf("got %v", err)
			}
		}
		for range 5 {
			fails(fault.Unavailable)
		}
		if state := s.States()[0]; state.Breaker != "open" || state.Fault != "unavailable: it answers 503 Service Unavailable" {
			t.Errorf("got %+v", state)
		}
		time.Sleep(4 * time.Second)
		fails(fault.Breaker)
		if n := backend.times.Load(); n != 5 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(2 * time.Second)
		fails(fault.Unavailable) // the trial
		fails(fault.Breaker)
		down.Store(false)
		time.Sleep(6 * time.Second)
		for range 3 {
			if found, err := s.Find(t.Context(), d, "press-1"); err != nil || found.Row["hub"] != "h" {
				t.Error(found, err)
			}
		}
		if state := s.States()[0]; state.Breaker != "closed" || state.Fault != "" {
			t.Errorf("got %+v", state)
		}
	})
}

// While a source has faults, the last answer is used if the declaration allows it, and no longer than it does. A fault is
// never kept.
func TestStale(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]lookup.Answer{"a row": row("h"), "no row": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var down atomic.Bool
				backend := &asked{find: func(context.Context, string) (lookup.Answer, error) {
					if down.Load() {
						return lookup.Answer{}, errors.New("killed")
					}
					return last, nil
				}}
				s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "  ttl: 10s\n  negative_ttl: 10s\n  on_fault: {stale: 1h}\n")
				finds := func(key string, stale bool) {
					t.Helper()
					found, err := s.Find(t.Context(), d, key)
					if diff := cmp.Diff(last.Row, found.Row); err != nil || diff != "" || (found.Fault != nil) != stale {
						t.Errorf("got %+v, %v", found, err)
					}
				}
				start := time.Now()
				finds("press-1", false)
				down.Store(true)
				time.Sleep(time.Minute)
				finds("press-1", true)
				if _, err := s.Find(t.Context(), d, "press-2"); kindOf(err) != fault.Failed {
					t.Errorf("a key that was never found: %v", err)
				}
				time.Sleep(time.Hour - time.Since(start))
				finds("press-1", true)
				time.Sleep(time.Second)
				if _, err := s.Find(t.Context(), d, "press-1"); kindOf(err) != fault.Failed {
					t.Errorf("after an hour: %v", err)
				}
				down.Store(false)
				time.Sleep(time.Minute)
				finds("press-1", false)
				finds("press-2", false)
			})
		})
	}
}

// Without on_fault: stale, an answer whose time is over is not used.
func TestHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answers := []func() (lookup.Answer, error){
			func() (lookup.Answer, error) { return row("h"), nil },
			func() (lookup.Answer, error) { return lookup.Answer{}, errors.New("down") },
		}
		backend := &asked{}
		backend.find = func(context.Context, string) (lookup.Answer, error) { return answers[backend.times.Load()-1]() }
		s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "  ttl: 10s\n")
		if _, err := s.Find(t.Context(), d, "press-1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if found, err := s.Find(t.Context(), d, "press-1"); err == nil {
			t.Errorf("got %+v", found)
		}
	})
}

// A connection that broke is no fault if the next one does not.
func TestBrokenConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		backend := &asked{}
		backend.find = func(context.Context, string) (lookup.Answer, error) {
			if backend.times.Load() == 1 {
				return lookup.Answer{}, fault.New(fault.Unreachable, "the connection broke")
			}
			return row("h"), nil
		}
		s := open(t, lookupsource.Backend{Source: backend}, nil)
		if found, err := s.Find(t.Context(), declared(t, ""), "press-1"); err != nil || found.Row["hub"] != "h" || s.States()[0].Fault != "" {
			t.Error(found, err)
		}
	})
}

// No source is asked for a key that it cannot have.
func TestKeysWithoutRows(t *testing.T) {
	t.Parallel()
	backend := &asked{find: func(context.Context, string) (lookup.Answer, error) { return row("h"), nil }}
	s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "")
	for _, key := range []string{"", strings.Repeat("k", 1025), "press-\xff"} {
		if found, err := s.Find(t.Context(), d, key); err != nil || found.Row != nil {
			t.Errorf("%q: got %+v, %v", key, found, err)
		}
	}
	if n := backend.times.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
	if _, err := s.Find(t.Context(), d, strings.Repeat("k", 1024)); err != nil || backend.times.Load() != 1 {
		t.Error(err)
	}
}

// A row that is not as declared is a fault that ends when it is corrected. Other rows are found meanwhile.
func TestWrongRow(t *testing.T) {
	t.Parallel()
	var right atomic.Bool
	backend := &asked{find: func(_ context.Context, key string) (lookup.Answer, error) {
		if key == "wrong" && !right.Load() {
			return lookup.Answer{Row: map[string]any{"hub": json.Number("424242")}}, nil
		}
		return row("h"), nil
	}}
	s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "")
	for i := range 20 {
		if _, err := s.Find(t.Context(), d, "wrong"); kindOf(err) != fault.Schema || !strings.Contains(err.Error(), "a row is not as rules/lookups.yaml:1 declares: /hub: ") || strings.Contains(err.Error(), "424242") {
			t.Errorf("got %v", err)
		}
		if _, err := s.Find(t.Context(), d, fmt.Sprint("right-", i)); err != nil {
			t.Error(err)
		}
	}
	right.Store(true)
	if found, err := s.Find(t.Context(), d, "wrong"); err != nil || found.Row["hub"] != "h" {
		t.Errorf("got %+v, %v", found, err)
	}
}

// A bug of a backend is a fault.
func TestPanic(t *testing.T) {
	t.Parallel()
	s := open(t, lookupsource.Backend{Source: &asked{find: func(context.Context, string) (lookup.Answer, error) { panic("SECRET") }}}, nil)
	if _, err := s.Find(t.Context(), declared(t, ""), "press-1"); kindOf(err) != fault.Failed || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("got %v", err)
	}
}

// lines are those of a log, without their time.
func lines(log *bytes.Buffer) []string {
	var list []string
	for line := range strings.Lines(log.String()) {
		list = append(list, strings.TrimSpace(line))
	}
	return list
}

func logger(to *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// The log has a line when faults start and one when they end, and no more than that each minute.
func TestLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var down atomic.Bool
		s := open(t, lookupsource.Backend{Source: &asked{find: func(context.Context, string) (lookup.Answer, error) {
			if down.Load() {
				return lookup.Answer{}, fault.New(fault.Denied, "it answers 403 Forbidden")
			}
			return row("h"), nil
		}}}, logger(&log))
		d := declared(t, "  ttl: 0s\n")
		ask := func(isDown bool) {
			down.Store(isDown)
			_, _ = s.Find(t.Context(), d, "press-1")
		}
		for range 4 {
			ask(true)
		}
		time.Sleep(7 * time.Second)
		for range 4 {
			ask(false)
		}
		for range 1000 { // within the minute
			ask(true)
			ask(false)
		}
		time.Sleep(time.Minute)
		ask(true)
		want := []string{
			`level=WARN msg="look-up source has faults" lookup=device source=test fault=denied error="it answers 403 Forbidden" fix="check the credential or the role of the app's identity" faults=1`,
			`level=INFO msg="look-up source answers again" lookup=device source=test after_s=7`,
			`level=WARN msg="look-up source has faults" lookup=device source=test fault=denied error="it answers 403 Forbidden" fix="check the credential or the role of the app's identity" faults=1004`,
		}
		if diff := cmp.Diff(want, lines(&log)); diff != "" {
			t.Error(diff)
		}
	})
}

// A start needs columns that fit. It does not need a source that is up, or that there is one: it is told.
func TestPrepare(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	backend := lookupsource.Backend{Source: &asked{}, Kind: "test"}
	d := declared(t, "")
	both, _ := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte("device: &d\n  row: {type: object, properties: {hub: {type: string}}}\nlot: *d\n")}})
	prepare := func(result error, declarations ...*lookups.Declaration) string {
		backend.Prepare = func(_ context.Context, got *lookups.Declaration) error {
			if got.Name != "device" {
				t.Errorf("prepared for %s", got.Name)
			}
			return result
		}
		s, err := lookupsource.New(lookupsource.Options{
			Backends: map[string]lookupsource.Backend{"device": backend}, Log: logger(&log),
			Settings: lookupsource.Settings{{Name: "lott", Kind: lookupsource.Table, Address: "https://a.table.core.windows.net/lots?partition=x&row={key}"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Prepare(t.Context(), declarations); err != nil {
			return err.Error()
		}
		return ""
	}
	if got := prepare(nil, d); got != "" {
		t.Error(got)
	}
	if got, want := prepare(errors.New("the query returns no column hub"), d), "rules/lookups.yaml:1: look-up device, which USHER_LOOKUP_DEVICE is the source of: the query returns no column hub"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := prepare(nil, both...); got != "" || !strings.Contains(log.String(), `fix="set USHER_LOOKUP_LOT to where its rows are"`) || !strings.Contains(log.String(), `fix="correct the name of USHER_LOOKUP_LOTT, or remove it"`) {
		t.Errorf("got %s, log %s", got, &log)
	}
	if got := prepare(fault.New(fault.Unreachable, "no connection"), d); got != "" || !strings.Contains(log.String(), "fault=unreachable") {
		t.Errorf("got %s, log %s", got, &log)
	}
}

// Sources that have a fault now and then, for many callers at once: whoever gets a row gets that of the key.
func TestUnderLoad(t *testing.T) {
	t.Parallel()
	backend := &asked{}
	backend.find = func(_ context.Context, key string) (lookup.Answer, error) {
		if n := backend.times.Load(); n%7 == 0 {
			return lookup.Answer{}, fault.New(fault.Unreachable, "killed")
		}
		return row(key), nil
	}
	s, d := open(t, lookupsource.Backend{Source: backend}, nil), declared(t, "  ttl: 1ms\n  on_fault: {stale: 1h}\n")
	var wait sync.WaitGroup
	for g := range 32 {
		wait.Go(func() {
			for i := range 300 {
				key := fmt.Sprint("press-", (g+i)%50)
				if found, err := s.Find(t.Context(), d, key); err == nil && found.Row["hub"] != key {
					t.Errorf("%s got %v", key, found.Row)
				} else if err != nil && kindOf(err) == "" {
					t.Error(err)
				}
				s.States()
			}
		})
	}
	wait.Wait()
}

// What is local is asked each time, in the decision's own time.
func TestLocal(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	backend := &asked{find: func(context.Context, string) (lookup.Answer, error) { return row("h"), nil }}
	s := open(t, lookupsource.Backend{Source: backend, Local: true, Kind: "snapshot", State: func() (string, time.Time) { return "digest", at }}, nil)
	for range 3 {
		if _, err := s.Find(t.Context(), declared(t, ""), "press-1"); err != nil {
			t.Fatal(err)
		}
	}
	if state := s.States()[0]; backend.times.Load() != 3 || state.Breaker != "" || state.Version != "digest" || !state.AsOf.Equal(at) {
		t.Errorf("got %+v", state)
	}
}
