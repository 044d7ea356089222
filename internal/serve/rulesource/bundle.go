package rulesource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

const (
	// fetchTimeout bounds a download as a whole.
	fetchTimeout = 30 * time.Second
	// startTimeout is how long a start waits for the source before it uses what is on disk. The Functions host gives a
	// handler 30 s to listen.
	startTimeout = 5 * time.Second
	// firstRetry is how long after a failure the source is read again. Each further failure doubles it, up to twice the
	// poll interval.
	firstRetry = time.Second
	// jitter spreads instances that started together, by a tenth either way.
	jitter = 0.1
)

// bundle fetches rules as a bundle, and keeps the last good one on disk.
type bundle struct {
	*Keeper
	fetcher *remotefile.Fetcher
	cache   *cache

	last    seen
	retry   time.Duration // how long to wait after the next failure
	asked   time.Duration // how long the source asked us to wait
	failing bool          // the last read failed
	pending *packed       // in use; written to disk when it is compiled as a whole
}

// seen is what the source showed last, whether it came into use or not.
type seen struct {
	etag, sum string // sum is the digest of the bundle
	genuine   bool   // its signature is good, or none is required
}

// forget makes the next read return the bundle again, even if it has not changed.
func (s *seen) forget() { s.etag, s.sum = "", "" }

// packed is a bundle as it arrived.
type packed struct {
	bytes     []byte
	etag, sum string
}

func (b *bundle) start(ctx context.Context) error {
	kept, err := b.cache.read(time.Now())
	if err != nil {
		b.log.WarnContext(ctx, "rules on disk are of no use", "file", b.cache.file, "error", err.Error())
	}
	if kept != nil {
		b.last = seen{etag: kept.etag, sum: kept.sum, genuine: true}
		b.mu.Lock()
		b.contact = b.contact.Add(-kept.age)
		b.mu.Unlock()
	}
	err = b.fetch(ctx, startTimeout)
	if b.rules == nil && kept != nil {
		confirmed := err == nil && b.last.sum == kept.sum
		switch {
		case b.useKept(ctx, kept, !confirmed):
			if confirmed {
				b.confirm(ctx)
			}
		case b.last.sum == kept.sum:
			b.last = seen{} // else the source would be told that we have it
			if confirmed {
				_ = b.fetch(ctx, fetchTimeout)
			}
		}
	}
	b.checkAge(ctx)
	if b.rules == nil {
		b.log.ErrorContext(ctx, "no rules yet: devices are held until there are some")
	}
	return ctx.Err()
}

func (b *bundle) refresh(ctx context.Context) error { return b.fetch(ctx, fetchTimeout) }

func (b *bundle) wait() time.Duration {
	if !b.failing {
		return spread(b.options.Poll)
	}
	wait := b.retry
	b.retry = min(2*b.retry, max(2*b.options.Poll, firstRetry))
	return max(spread(wait), b.asked)
}

func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}

// fetch reads the source within a time, and puts its bundle into use if it is new and good.
func (b *bundle) fetch(ctx context.Context, timeout time.Duration) error {
	b.count(func(s *Stats) { s.Attempts++; s.LastAttempt = time.Now() })
	within, cancel := context.WithTimeout(ctx, timeout)
	got, content, err := b.get(within)
	cancel()
	if err != nil {
		return b.fail(ctx, err)
	}
	b.failing, b.retry, b.asked = false, firstRetry, 0
	b.count(func(s *Stats) { s.Failure = "" })
	if !got.Unchanged {
		b.count(func(s *Stats) { s.Downloads++ })
		sum := digestOf(content)
		b.last.etag = got.ETag
		if sum != b.last.sum {
			b.last.sum = sum
			return b.use(ctx, packed{content, got.ETag, sum})
		}
	}
	if b.last.genuine {
		b.confirm(ctx)
	}
	return nil
}

// get reads a bundle that is not the last one.
func (b *bundle) get(ctx context.Context) (got remotefile.Response, content []byte, err error) {
	got, err = b.fetcher.Get(ctx, b.last.etag)
	if err != nil || got.Unchanged {
		return got, nil, err
	}
	defer got.Body.Close()
	content, err = io.ReadAll(got.Body)
	return got, content, err
}

// fail notes that the source could not be read.
func (b *bundle) fail(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return err // we are stopping
	}
	b.failing, b.asked = true, 0
	if status, ok := errors.AsType[*remotefile.StatusError](err); ok {
		b.asked = status.RetryAfter
	}
	level := slog.LevelWarn
	b.count(func(s *Stats) {
		if s.Failure == err.Error() {
			level = slog.LevelDebug // it is known, and the age shows for how long
		}
		s.Failures++
		s.Failure = err.Error()
	})
	b.log.Log(ctx, level, "rules source failed", "error", err.Error())
	b.notify(Failed, err)
	return err
}

// confirm notes that the source answered, on disk as well.
func (b *bundle) confirm(ctx context.Context) {
	if b.rules != nil && b.Stats().Refused == "" {
		b.cache.confirm(time.Now())
	}
	b.Keeper.confirm(ctx)
}

// use puts a bundle that arrived into use if it is good.
func (b *bundle) use(ctx context.Context, p packed) error {
	start := time.Now()
	lazy := b.options.CheckAfter && b.rules == nil
	rules, genuine, err := b.load(ctx, p, lazy, true)
	if ctx.Err() != nil && err != nil {
		b.last.forget()
		return b.fail(ctx, remotefile.Presentable(err))
	}
	b.last.genuine = genuine
	if err != nil {
		b.refuse(ctx, p.sum, err)
		if _, again := errors.AsType[momentary](err); again {
			b.last.forget()
		}
		return err
	}
	b.activate(ctx, rules, start, lazy, false)
	b.confirm(ctx)
	b.pending = &p
	if !lazy {
		b.keep(ctx)
	}
	return nil
}

// refuse notes that the bundle is not good. If it is genuine, the source is up to date all the same.
func (b *bundle) refuse(ctx context.Context, sum string, err error) {
	b.Keeper.refuse(ctx, sum, err)
	if b.last.genuine {
		b.confirm(ctx)
	}
}

// load makes rules of a bundle. It reports whether the bundle is genuine, even if the rules in it are not good.
func (b *bundle) load(ctx context.Context, p packed, lazy, isNew bool) (rules *decider.Rules, genuine bool, err error) {
	defer guard(&err)
	opened, err := rulebundle.Read(bytes.NewReader(p.bytes), b.options.Key)
	if err != nil {
		return nil, false, fmt.Errorf("it is not a bundle of rules: %w", err)
	}
	options := b.options.Rules
	options.Name, options.Revision, options.Lazy = "", opened.Revision, lazy
	rules, err = b.loadRules(ctx, opened.Files, options)
	if err == nil && isNew && !b.options.NoSelfTest {
		err = selfTest(ctx, b.rules, rules, opened.Files, b.options.Timeout)
	}
	return rules, true, err
}

// useKept puts the bundle from disk into use, and reports whether that succeeded.
func (b *bundle) useKept(ctx context.Context, kept *cached, fromCache bool) bool {
	start := time.Now()
	rules, _, err := b.load(ctx, packed{kept.packed, kept.etag, kept.sum}, b.options.CheckAfter, false)
	if err != nil {
		b.log.WarnContext(ctx, "rules on disk are of no use", "file", b.cache.file, "error", err.Error())
		return false
	}
	b.activate(ctx, rules, start, b.options.CheckAfter, fromCache)
	return true
}

// keep writes the pending bundle to disk.
func (b *bundle) keep(ctx context.Context) {
	p := b.pending
	b.pending = nil
	if err := b.cache.write(p.bytes, p.etag); err != nil {
		b.log.WarnContext(ctx, "rules cannot be kept on disk: a start without their source will have none",
			"folder", b.options.Cache, "error", err.Error())
	}
}

// compiled keeps the pending bundle, or replaces it by the one on disk if it does not compile.
func (b *bundle) compiled(ctx context.Context, err error) {
	switch bad := b.pending; {
	case bad == nil:
	case err == nil:
		b.keep(ctx)
	default:
		b.pending = nil
		b.refuse(ctx, bad.sum, err)
		kept, readErr := b.cache.read(time.Now())
		if readErr != nil || kept == nil || kept.sum == bad.sum {
			return
		}
		start := time.Now()
		if rules, _, err := b.load(ctx, packed{kept.packed, kept.etag, kept.sum}, false, false); err == nil {
			b.activate(ctx, rules, start, false, true)
		}
	}
}
