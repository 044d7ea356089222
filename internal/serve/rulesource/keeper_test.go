package rulesource_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
	"github.com/usher-dps/usher/internal/serve/rulesource"
)

// ruleFor sends all devices to the linked hub of this number, and says so in the twin.
func ruleFor(hub int) string {
	return fmt.Sprintf("package allocation.default\n\nhub := input.linkedHubs[%d]\n\ninitial_twin := {\"tags\": {\"hub\": \"%d\"}}\n", hub, hub)
}

const brokenRule = "package allocation.default\n\nhub := inptu.linkedHubs[0]\n"

const requestBody = `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d"},
	"linkedHubs": ["hub-0.azure-devices.net", "hub-1.azure-devices.net"]}`

// pack makes a bundle of one rule and other files, given as name and text in turns.
func pack(t testing.TB, revision, rule string, key *rulebundle.Key, others ...string) []byte {
	t.Helper()
	files := fstest.MapFS{"default/default.rego": {Data: []byte(rule)}}
	names := []string{"default/default.rego"}
	for i := 0; i < len(others); i += 2 {
		files[others[i]] = &fstest.MapFile{Data: []byte(others[i+1])}
		names = append(names, others[i])
	}
	var packed bytes.Buffer
	if err := rulebundle.Write(&packed, files, names, rulebundle.WriteOptions{Revision: revision, Key: key}); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// store offers a bundle, or what it is told to answer in place of one.
type store struct {
	mu       sync.Mutex
	packed   []byte
	noETag   bool
	instead  http.HandlerFunc
	requests []*http.Request
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	packed, instead := s.packed, s.instead
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	etag := fmt.Sprintf(`"%x"`, len(packed)) + strconv.Quote(string(packed[len(packed)-8:]))
	etag = fmt.Sprintf(`"%x"`, etag)
	if !s.noETag {
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	_, _ = w.Write(packed)
}

func (s *store) offer(packed []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packed, s.instead = packed, nil
}

func (s *store) answer(instead http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instead = instead
}

func (s *store) asked() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.requests...)
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// direct reaches a store without a network, so that time can be the test's own.
type direct struct{ *store }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.ServeHTTP(recorder, r)
	}()
	select {
	case <-done:
		response := recorder.Result()
		response.Request = r
		return response, nil
	case <-r.Context().Done():
		<-done
		return nil, r.Context().Err()
	}
}

// bench is a keeper with all that it acts on.
type bench struct {
	*rulesource.Keeper
	allocator *decider.Decider
	log       *safeBuffer
	events    *events
}

type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

type events struct {
	mu   sync.Mutex
	list []rulesource.Event
}

func (e *events) add(event rulesource.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

func (e *events) kinds() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var kinds []string
	for _, event := range e.list {
		kinds = append(kinds, string(event.Kind))
	}
	return strings.Join(kinds, " ")
}

func newBench(t testing.TB, location string, options rulesource.Options) *bench {
	t.Helper()
	options.Timeout = cmp.Or(options.Timeout, time.Minute) // a busy machine must not fail a self-test
	allocator, err := decider.New(decider.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{allocator: allocator, log: new(safeBuffer), events: new(events)}
	if options.Location, err = rulesource.ParseLocation(location); err != nil {
		t.Fatal(err)
	}
	options.Use = allocator.Use
	options.Observe = b.events.add
	options.Log = slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.Keeper = rulesource.New(options)
	return b
}

func (b *bench) start(t testing.TB) {
	t.Helper()
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// hub is the number of the hub that a device is sent to, -1 for none.
func (b *bench) hub(t testing.TB) int {
	t.Helper()
	_, decision := b.allocator.AllocateJSON(t.Context(), []byte(requestBody))
	if decision.Result != answer.Assigned {
		if decision.Result != answer.NotReady && decision.Result != answer.RulesStale {
			t.Errorf("unexpected answer %+v", decision)
		}
		return -1
	}
	n, err := strconv.Atoi(decision.Response.IotHubHostName[len("hub-"):len("hub-0")])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func serve(t testing.TB, s *store) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL + "/rules.tar.gz"
}

// A bundle arrives, is replaced by broken ones, and by a good one.
func TestLifeOfABundle(t *testing.T) {
	t.Parallel()
	for _, noETag := range []bool{false, true} {
		s := &store{packed: pack(t, "v1", ruleFor(0), nil), noETag: noETag}
		b := newBench(t, serve(t, s), rulesource.Options{Cache: filepath.Join(t.TempDir(), "cache")})
		b.start(t)
		if got := b.Stats(); b.hub(t) != 0 || got.Revision != "v1" || got.Digest != b.allocator.Rules().Digest() || got.Packages != 1 || got.FromCache || got.LastSuccess.IsZero() {
			t.Fatalf("after the start: hub %d, %+v", b.hub(t), got)
		}
		if err := b.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.Stats(); got.Activations != 1 || got.Attempts != 2 || !noETag && got.Downloads != 1 {
			t.Errorf("nothing changed, and %+v", got)
		}
		for _, broken := range []struct {
			packed []byte
			want   string
		}{
			{pack(t, "v2", brokenRule, nil), "default/default.rego:3"},
			{pack(t, "v2", ruleFor(1), nil)[:200], "not a bundle of rules"},
			{[]byte("<html>sign in"), "not a bundle of rules"},
			{pack(t, "v2", "package other\n\na := 1\n", nil), "no rule serves any enrollment"},
		} {
			before := b.Stats()
			s.offer(broken.packed)
			for range 2 { // the second time, nothing is new
				err := b.Refresh(t.Context())
				if err != nil && !strings.Contains(err.Error(), broken.want) {
					t.Errorf("refused with %v, want %q", err, broken.want)
				}
			}
			got := b.Stats()
			if got.Refusals != before.Refusals+1 || !strings.Contains(got.Refused, broken.want) || got.Digest != before.Digest || b.hub(t) != 0 {
				t.Errorf("a bad bundle: hub %d, %+v", b.hub(t), got)
			}
			if !strings.Contains(b.log.String(), broken.want) {
				t.Errorf("%q is not logged: %s", broken.want, b.log)
			}
		}
		s.offer(pack(t, "v3", ruleFor(1), nil))
		if err := b.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.Stats(); b.hub(t) != 1 || got.Revision != "v3" || got.Refused != "" || got.Activations != 2 {
			t.Errorf("after a good bundle: hub %d, %+v", b.hub(t), got)
		}
		if kinds := b.events.kinds(); kinds != "activated refused refused refused refused activated" {
			t.Errorf("events: %s", kinds)
		}
		_, decision := b.allocator.AllocateJSON(t.Context(), []byte(requestBody))
		if decision.Revision != "v3" || decision.Source != answer.SourceCurrent {
			t.Errorf("the answer comes from %+v", decision)
		}
	}
}

// Whatever the source answers, decisions go on, and the operator is told.
func TestFaultsOfTheSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		instead http.HandlerFunc
		want    string
	}{
		"500": {status(500), "500 Internal Server Error"},
		"403": {status(403, "X-Ms-Error-Code", "AuthorizationPermissionMismatch"), "(AuthorizationPermissionMismatch): access to the bundle is denied"},
		"404": {status(404, "X-Ms-Error-Code", "what?\nis this"), "404 Not Found: there is no bundle"},
		"304": {status(304), ""}, // nothing new
		"truncated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("\x1f\x8b"))
		}, "did not arrive whole"},
		"connection lost": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.CopyN(w, zeros{}, rulebundle.MaxSize+10)
		}, "larger than 64 MiB"},
		"redirects without end": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		}, "more than 3 redirects"},
		"away from https": {status(302, "Location", "http://example.com/rules.tar.gz"), "away from https"},
		"to a password":   {status(302, "Location", "https://a:b@example.com/rules.tar.gz"), "user name or a password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &store{packed: pack(t, "", ruleFor(0), nil)}
			b := newBench(t, serve(t, s), rulesource.Options{})
			b.start(t)
			s.answer(c.instead)
			err := b.Refresh(t.Context())
			got := b.Stats()
			switch {
			case c.want == "" && (err != nil || got.Failures != 0):
				t.Errorf("got %v, %+v", err, got)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || got.Failures != 1 || got.Failure != err.Error()):
				t.Errorf("got %v, %+v, want %q", err, got, c.want)
			}
			if b.hub(t) != 0 || got.Refusals != 0 {
				t.Errorf("hub %d, %+v", b.hub(t), got)
			}
			s.offer(pack(t, "", ruleFor(1), nil))
			if err := b.Refresh(t.Context()); err != nil || b.hub(t) != 1 || b.Stats().Failure != "" {
				t.Errorf("when the source is back: %v, hub %d, %+v", err, b.hub(t), b.Stats())
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func secretFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Where a key is set, only what it signed comes into use, from disk too.
func TestSignatures(t *testing.T) {
	t.Parallel()
	good := &rulebundle.Key{File: secretFile(t, "good-secret"), Algorithm: "HS256"}
	bad := &rulebundle.Key{File: secretFile(t, "bad-secret"), Algorithm: "HS256"}
	s := &store{packed: pack(t, "", ruleFor(0), good)}
	folder := filepath.Join(t.TempDir(), "cache")
	url := serve(t, s)
	b := newBench(t, url, rulesource.Options{Key: &rulebundle.Key{Text: "good-secret", Algorithm: "HS256"}, Cache: folder})
	b.start(t)
	if b.hub(t) != 0 {
		t.Fatalf("a signed bundle is not in use: %s", b.log)
	}
	success := b.Stats().LastSuccess
	for name, packed := range map[string][]byte{"unsigned": pack(t, "", ruleFor(1), nil), "by another": pack(t, "", ruleFor(1), bad)} {
		s.offer(packed)
		if err := b.Refresh(t.Context()); err == nil || b.hub(t) != 0 {
			t.Errorf("%s: hub %d, %v", name, b.hub(t), err)
		}
		_ = b.Refresh(t.Context()) // unchanged: that is no sign of life of those who hold the key
		if got := b.Stats(); got.LastSuccess != success {
			t.Errorf("%s counts as a success: %+v", name, got)
		}
	}
	if strings.Contains(b.log.String(), "good-secret") {
		t.Errorf("the key is logged: %s", b.log)
	}
	// The key was changed, and what is on disk is of the old one.
	s.answer(status(503))
	for key, want := range map[*rulebundle.Key]int{good: 0, bad: -1} {
		b := newBench(t, url, rulesource.Options{Key: key, Cache: folder})
		b.start(t)
		if got := b.hub(t); got != want {
			t.Errorf("from disk: hub %d, want %d", got, want)
		}
	}
}

// A start without the source.
func TestColdStart(t *testing.T) {
	t.Parallel()
	s := &store{packed: pack(t, "v1", ruleFor(0), nil)}
	url := serve(t, s)
	folder := filepath.Join(t.TempDir(), "cache")
	start := func(t *testing.T, folder string) *bench {
		b := newBench(t, url, rulesource.Options{Cache: folder})
		b.start(t)
		return b
	}
	file := func(t *testing.T, folder string) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil || len(names) != 1 {
			t.Fatalf("on disk: %v, %v", names, err)
		}
		return names[0]
	}
	start(t, folder)
	asked := len(s.asked())
	if b := start(t, folder); b.hub(t) != 0 || b.Stats().Downloads != 0 || b.Stats().FromCache || len(s.asked()) != asked+1 {
		t.Errorf("unchanged, it is downloaded again: hub %d, %+v", b.hub(t), b.Stats())
	}
	content, err := os.ReadFile(file(t, folder))
	if err != nil {
		t.Fatal(err)
	}
	s.answer(status(500))
	b := start(t, folder)
	if got := b.Stats(); b.hub(t) != 0 || !got.FromCache || got.Failures != 1 || got.Revision != "v1" || !got.LastSuccess.IsZero() {
		t.Errorf("source away: hub %d, %+v", b.hub(t), got)
	}
	s.offer(pack(t, "v1", ruleFor(0), nil))
	if err := b.Refresh(t.Context()); err != nil || b.Stats().FromCache || b.Stats().Activations != 1 {
		t.Errorf("back with the same: %v, %+v", err, b.Stats())
	}
	s.offer(pack(t, "v2", brokenRule, nil))
	if b := start(t, folder); b.hub(t) != 0 || !b.Stats().FromCache || b.Stats().Refusals != 1 {
		t.Errorf("source has a bad one: hub %d, %+v", b.hub(t), b.Stats())
	}

	s.answer(status(500))
	damaged := bytes.Clone(content)
	damaged[len(damaged)/2] ^= 1
	for name, text := range map[string][]byte{
		"a bit":      damaged,
		"the end":    content[:len(content)-1],
		"all of it":  {},
		"the head":   content[10:],
		"the source": bytes.Replace(content, []byte("rules.tar.gz"), []byte("other.tar.gz"), 1),
		"the version": bytes.Replace(content, []byte(`"usherRules":1`),
			[]byte(`"usherRules":2`), 1),
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "cache")
			s.offer(pack(t, "v1", ruleFor(0), nil))
			start(t, folder)
			s.answer(status(500))
			if err := os.WriteFile(file(t, folder), text, 0o600); err != nil {
				t.Fatal(err)
			}
			b := start(t, folder)
			if b.hub(t) != -1 || !strings.Contains(b.log.String(), "rules on disk are of no use") || !strings.Contains(b.log.String(), "no rules yet") {
				t.Errorf("damaged, it is in use: hub %d, %s", b.hub(t), b.log)
			}
			s.offer(pack(t, "v2", ruleFor(1), nil)) // it goes on trying, and mends what is on disk
			if err := b.Refresh(t.Context()); err != nil || b.hub(t) != 1 {
				t.Errorf("hub %d, %v", b.hub(t), err)
			}
			s.answer(status(500))
			if b := start(t, folder); b.hub(t) != 1 {
				t.Errorf("then from disk: hub %d", b.hub(t))
			}
		})
	}

	t.Run("a file in place of the folder", func(t *testing.T) {
		s.offer(pack(t, "v1", ruleFor(0), nil))
		b := start(t, secretFile(t, ""))
		if b.hub(t) != 0 || !strings.Contains(b.log.String(), "rules cannot be kept on disk") {
			t.Errorf("hub %d, %s", b.hub(t), b.log)
		}
	})
	t.Run("a folder that others can write into", func(t *testing.T) {
		above := filepath.Join(t.TempDir(), "like-tmp")
		folder := filepath.Join(above, "cache")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, mode := range map[string]os.FileMode{above: 0o777 | os.ModeSticky, folder: 0o777} {
			if err := os.Chmod(name, mode); err != nil {
				t.Fatal(err)
			}
		}
		link := filepath.Join(above, "link")
		if err := os.Symlink(t.TempDir(), link); err != nil {
			t.Fatal(err)
		}
		for _, folder := range []string{folder, link} {
			if b := start(t, folder); b.hub(t) != 0 || !strings.Contains(b.log.String(), "others can write") {
				t.Errorf("%s: hub %d, %s", folder, b.hub(t), b.log)
			}
		}
	})
}

// Rules may be compiled after the start; the first answer does not wait.
func TestCheckedAfterTheStart(t *testing.T) {
	t.Parallel()
	broken := []string{"b/b.rego", "# METADATA\n# custom:\n#   enrollment_groups: [b]\npackage allocation.b\n\nhub := inptu.x\n"}
	synctest.Test(t, func(t *testing.T) {
		s := &store{packed: pack(t, "v1", ruleFor(0), nil)}
		options := rulesource.Options{CheckAfter: true, Cache: filepath.Join(t.TempDir(), "cache"), Transport: direct{s}}
		run := func() *bench {
			b := newBench(t, "https://rules.example.com/rules.tar.gz", options)
			b.start(t)
			go b.Run(t.Context())
			return b
		}
		b := run()
		time.Sleep(2 * time.Second)
		if b.hub(t) != 0 || !strings.Contains(b.log.String(), "rules compiled") {
			t.Errorf("hub %d, %s", b.hub(t), b.log)
		}
		s.offer(pack(t, "v2", ruleFor(1), nil, broken...))
		b = run()
		if b.hub(t) != 1 {
			t.Errorf("hub %d before the rest is compiled", b.hub(t))
		}
		time.Sleep(2 * time.Second)
		if got := b.Stats(); b.hub(t) != 0 || got.Revision != "v1" || !strings.Contains(got.Refused, "b/b.rego:6") || !got.FromCache {
			t.Errorf("it does not compile: hub %d, %+v", b.hub(t), got)
		}
	})
}

// The times between looks at the source.
func TestPolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{packed: pack(t, "", ruleFor(0), nil)}
		b := newBench(t, "https://rules.example.com/rules.tar.gz", rulesource.Options{Poll: time.Minute, Transport: direct{s}})
		var mu sync.Mutex
		var noted []time.Time
		note := func(then http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				noted = append(noted, time.Now())
				mu.Unlock()
				then(w, r)
			}
		}
		expect := func(what string, want ...time.Duration) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			times := noted
			noted = nil
			if len(times) < len(want)+1 {
				t.Fatalf("%s: %d looks only", what, len(times))
			}
			for i, w := range want {
				got := times[i+1].Sub(times[i])
				if got < w*9/10 || got > w*11/10+time.Second/100 {
					t.Errorf("%s: look %d came after %s, want %s give or take a tenth", what, i+1, got, w)
				}
			}
		}
		b.start(t)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { b.Run(ctx); close(ended) }()

		s.answer(note(status(304)))
		time.Sleep(10 * time.Minute)
		mu.Lock()
		if len(noted) > 2 && noted[1].Sub(noted[0]) == noted[2].Sub(noted[1]) {
			t.Error("no jitter")
		}
		mu.Unlock()
		expect("unchanged", time.Minute, time.Minute, time.Minute)

		s.answer(note(status(500)))
		time.Sleep(20 * time.Minute)
		expect("failing", time.Second, 2*time.Second, 4*time.Second, 8*time.Second, 16*time.Second, 32*time.Second,
			64*time.Second, 2*time.Minute, 2*time.Minute, 2*time.Minute)

		s.answer(note(status(304)))
		time.Sleep(5 * time.Minute)
		expect("back", time.Minute, time.Minute)
		s.answer(note(status(429, "Retry-After", "300")))
		time.Sleep(20 * time.Minute)
		expect("told to stay away", 5*time.Minute, 5*time.Minute)
		s.answer(note(status(503, "Retry-After", time.Now().Add(8*time.Minute).UTC().Format(http.TimeFormat))))
		time.Sleep(15 * time.Minute)
		expect("told to stay away until a time")
		s.answer(note(status(503, "Retry-After", "2000000000")))
		time.Sleep(40 * time.Minute)
		expect("told to stay away for ever", 10*time.Minute, 10*time.Minute)
		stop()
		<-ended
	})
}

// A source that is silent too long: the alarm, and holding if that is set.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{packed: pack(t, "", ruleFor(0), nil)}
		var b *bench
		b = newBench(t, "https://rules.example.com/rules.tar.gz", rulesource.Options{
			Poll: time.Minute, MaxAge: time.Hour, Transport: direct{s},
			Stale: func(stale bool) {
				b.allocator.Stop(map[bool]string{true: "the rules are stale"}[stale])
			},
		})
		b.start(t)
		go b.Run(t.Context())
		time.Sleep(3 * time.Hour) // confirmed each minute
		if b.Stats().Stale || b.hub(t) != 0 {
			t.Fatalf("stale though confirmed: %+v", b.Stats())
		}
		s.answer(status(500))
		time.Sleep(50 * time.Minute)
		if b.Stats().Stale {
			t.Errorf("stale after 50 minutes: %+v", b.Stats())
		}
		time.Sleep(11 * time.Minute)
		if got := b.Stats(); !got.Stale || got.Age < time.Hour || b.hub(t) != -1 || !strings.Contains(b.log.String(), "rules stale") {
			t.Errorf("not stale after an hour: %+v, hub %d", got, b.hub(t))
		}
		webhook := handler.New(handler.Options{Allocator: b.allocator})
		for path, method := range map[string]string{handler.AllocatePath: http.MethodPost, handler.ReadinessPath: http.MethodGet} {
			answer := httptest.NewRecorder()
			webhook.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(requestBody)))
			if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "rules_stale") {
				t.Errorf("%s answers %d %s", path, answer.Code, answer.Body)
			}
		}
		s.offer(pack(t, "", ruleFor(1), nil))
		time.Sleep(3 * time.Minute)
		if got := b.Stats(); got.Stale || b.hub(t) != 1 {
			t.Errorf("stale though it is back: %+v, hub %d", got, b.hub(t))
		}
		// A bad bundle is a sign of life: it must not hold the fleet up.
		for i, broken := range []string{brokenRule, "package allocation.default\n\nhub := {{" + strings.Repeat("1, ", 1<<16)} {
			s.offer(pack(t, "", broken, nil))
			time.Sleep(3 * time.Hour)
			if got := b.Stats(); got.Stale || got.Refusals != uint64(i+1) || b.hub(t) != 1 || len(got.Refused) > 10<<10 {
				t.Errorf("a bad bundle makes the rules stale: %.300v, hub %d", got, b.hub(t))
			}
			if len(b.log.String()) > 100<<10 {
				t.Error("it fills the log")
			}
		}
		if kinds := b.events.kinds(); !strings.HasSuffix(kinds, "stale activated fresh refused refused") && !strings.HasSuffix(kinds, "activated fresh refused refused") {
			t.Errorf("events: %s", kinds)
		}
	})
}

// The age of what is on disk counts, whatever the clock did in between.
func TestAgeOfWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		changed time.Duration // from now
		stale   bool
	}{"fresh": {-time.Minute, false}, "old": {-48 * time.Hour, true}, "of the future": {48 * time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &store{packed: pack(t, "", ruleFor(0), nil)}
			folder := filepath.Join(t.TempDir(), "cache")
			options := rulesource.Options{Cache: folder, MaxAge: time.Hour}
			url := serve(t, s)
			newBench(t, url, options).start(t)
			names, err := filepath.Glob(filepath.Join(folder, "*"))
			if err != nil || len(names) != 1 {
				t.Fatal(names, err)
			}
			at := time.Now().Add(c.changed)
			if err := os.Chtimes(names[0], at, at); err != nil {
				t.Fatal(err)
			}
			s.answer(status(500))
			b := newBench(t, url, options)
			b.start(t)
			if got := b.Stats(); got.Stale != c.stale || got.Age < 0 || b.hub(t) != 0 {
				t.Errorf("%+v, hub %d", got, b.hub(t))
			}
			s.offer(pack(t, "", ruleFor(0), nil))
			if err := b.Refresh(t.Context()); err != nil || b.Stats().Stale || b.Stats().Age > time.Minute {
				t.Errorf("confirmed: %v, %+v", err, b.Stats())
			}
		})
	}
}

// A source that does not answer holds a start up for a few seconds only.
func TestSlowSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{packed: pack(t, "", ruleFor(0), nil)}
		options := rulesource.Options{Cache: filepath.Join(t.TempDir(), "cache"), Transport: direct{s}}
		newBench(t, "https://rules.example.com/rules.tar.gz", options).start(t)
		s.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		begin := time.Now()
		b := newBench(t, "https://rules.example.com/rules.tar.gz", options)
		b.start(t)
		if waited := time.Since(begin); waited > 6*time.Second || b.hub(t) != 0 || !strings.Contains(b.Stats().Failure, "too long") {
			t.Errorf("waited %s, hub %d, %+v", waited, b.hub(t), b.Stats())
		}
		begin = time.Now()
		if err := b.Refresh(t.Context()); err == nil || time.Since(begin) > 31*time.Second {
			t.Errorf("a look took %s, %v", time.Since(begin), err)
		}
	})
}

// What proves who we are goes to the source alone, and nowhere into words.
func TestCredentials(t *testing.T) {
	t.Parallel()
	const secret = "CANARYx4711"
	other := &store{packed: pack(t, "", ruleFor(1), nil)}
	otherURL := serve(t, other)
	s := &store{packed: pack(t, "", ruleFor(0), nil)}
	url := serve(t, s)
	for name, c := range map[string]struct {
		location string
		options  rulesource.Options
		header   string
	}{
		"token":     {url, rulesource.Options{Token: secret}, "Bearer " + secret},
		"signature": {url + "?sv=2021&sig=" + secret, rulesource.Options{}, ""},
		"identity": {"blob:" + url, rulesource.Options{Credential: func() (azcore.TokenCredential, error) {
			return identity(secret), nil
		}}, "Bearer " + secret},
		"no identity": {"blob:" + url, rulesource.Options{Credential: func() (azcore.TokenCredential, error) {
			return nil, errors.New("none at https://identity?key=" + secret)
		}}, ""},
	} {
		b := newBench(t, c.location, c.options)
		b.start(t)
		if name == "no identity" {
			if b.hub(t) != -1 {
				t.Error("read without an identity")
			}
		} else if b.hub(t) != 0 {
			t.Fatalf("%s: %s", name, b.log)
		}
		for _, r := range s.asked() {
			if got := r.Header.Get("Authorization"); got != c.header {
				t.Errorf("%s: Authorization is %q", name, got)
			}
			if got := r.Header.Get("X-Ms-Version"); (got != "") != strings.HasPrefix(c.location, "blob:") {
				t.Errorf("%s: x-ms-version is %q", name, got)
			}
		}
		// Elsewhere, and every failure that quotes an address.
		s.answer(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, otherURL, http.StatusTemporaryRedirect)
		})
		_ = b.Refresh(t.Context())
		for _, r := range other.asked() {
			if head := fmt.Sprint(r.Header, r.URL); strings.Contains(head, secret) {
				t.Errorf("%s: another host was shown %s", name, head)
			}
		}
		if len(other.asked()) == 0 && name != "no identity" {
			t.Errorf("%s: a redirect was not followed", name)
		}
		for _, instead := range []http.HandlerFunc{
			status(302, "Location", "https://[::1/?sig="+secret), status(302, "Location", "/x?sig="+secret),
			status(500), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		} {
			s.answer(instead)
			_ = b.Refresh(t.Context())
		}
		b.events.mu.Lock()
		said := b.log.String() + fmt.Sprintf("%+v %v", b.Stats(), b.events.list)
		b.events.mu.Unlock()
		if strings.Contains(said, secret) {
			t.Errorf("%s: the secret is in %s", name, said)
		}
		s.offer(pack(t, "", ruleFor(0), nil))
		s.mu.Lock()
		s.requests = nil
		s.mu.Unlock()
		other.mu.Lock()
		other.requests = nil
		other.mu.Unlock()
	}
}

type identity string

func (i identity) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(options.Scopes) != 1 || options.Scopes[0] != "https://storage.azure.com/.default" {
		return azcore.AccessToken{}, fmt.Errorf("asked for %v", options.Scopes)
	}
	return azcore.AccessToken{Token: string(i), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// New rules are tried out before they answer anybody.
func TestSelfTest(t *testing.T) {
	t.Parallel()
	const allocationDefault = "package allocation.default\n\n"
	const first = allocationDefault + "hub := input.linkedHubs[0]\n"
	const second = allocationDefault + "hub := input.linkedHubs[1]\n" // shipped requests have one hub, some of them
	const picky = allocationDefault + "hub := input.linkedHubs[0] if input.deviceRuntimeContext.payload.model == \"x\"\n"
	const slow = allocationDefault + "hub := input.linkedHubs[0] if count([1 | some a in numbers.range(1, 9999); " +
		"some b in numbers.range(1, 9999); a * b == 0]) == 0\n"
	const torn = allocationDefault + "hub := input.linkedHubs[0]\n\nhub := input.linkedHubs[1]\n"
	const decision = `{"outcome": "assigned", "rule": "allocation.default", "hub": "hub-0.azure-devices.net"}`
	request := []string{"default/a.request.json", requestBody}
	expecting := func(decision string) []string { return append(request[:2:2], "default/a.decision.json", decision) }
	const byRow = allocationDefault + "hub := input.linkedHubs[lookup.device(\"d\").index]\n"
	declared := []string{"lookups.yaml", "device: {row: {type: object, properties: {index: {type: integer}}}, fixture: device_fixture.csv}\n"}
	fixture := func(index string) []string {
		return slices.Concat(declared, []string{"device_fixture.csv", "key,index\nd," + index + "\n"}, expecting(decision))
	}
	for name, c := range map[string]struct {
		rule   string
		others []string
		off    bool
		want   []string // in the refusal; none if it is used
	}{
		"the same, in other words":          {rule: first + "\n"},
		"decides less of what is shipped":   {rule: second},
		"runs out of time":                  {rule: slow, want: []string{"timeout"}},
		"is in conflict":                    {rule: torn, want: []string{"is decided by the current rules", "undecided", "default/default.rego:"}},
		"decides nothing that is shipped":   {rule: picky, want: []string{"shipped with Usher is decided"}},
		"decides nothing, and is not tried": {rule: picky, off: true},
		"decides its own":                   {rule: second, others: request},
		"no longer decides its own":         {rule: picky, others: request, want: []string{"default/a.request.json", "undecided"}},
		"as expected":                       {rule: first, others: expecting(decision)},
		"otherwise than expected":           {rule: second, others: expecting(decision), want: []string{"default/a.request.json", "/hub: want"}},
		"by the row of a fixture":           {rule: byRow, others: fixture("0")},
		"by another row than expected":      {rule: byRow, others: fixture("1"), want: []string{"default/a.request.json", "/hub: want"}},
		"by a row without a fixture":        {rule: byRow, others: slices.Concat(declared, expecting(decision))},
		"by no row, and without a fixture":  {rule: byRow, others: slices.Concat(declared, request)},
		"expecting what is no JSON":         {rule: first, others: expecting("{"), want: []string{"is not JSON"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := &rulebundle.Key{Text: "s3cret", Algorithm: "HS256"}
			s := &store{packed: pack(t, "", first, signing(t, key))}
			options := rulesource.Options{NoSelfTest: c.off, Key: key}
			if c.rule == slow {
				options.Timeout = 500 * time.Millisecond
			}
			b := newBench(t, serve(t, s), options)
			b.start(t)
			before := b.Stats().Digest
			s.offer(pack(t, "new", c.rule, signing(t, key), c.others...))
			err := b.Refresh(t.Context())
			if len(c.want) == 0 && (err != nil || b.Stats().Revision != "new") {
				t.Errorf("refused: %v", err)
			}
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) || b.Stats().Digest != before {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		})
	}
}

// A machine that is busy once does not refuse a bundle for ever.
func TestSlowSelfTestIsRepeated(t *testing.T) {
	t.Parallel()
	s := &store{packed: pack(t, "slow", "package allocation.default\n\nhub := input.linkedHubs[0] if count([1 | some a in numbers.range(1, 9999); "+
		"some b in numbers.range(1, 9999); a * b == 0]) == 0\n", nil)}
	b := newBench(t, serve(t, s), rulesource.Options{Timeout: 200 * time.Millisecond})
	b.start(t)
	err := b.Refresh(t.Context())
	if err == nil || !strings.Contains(err.Error(), "ends in timeout") || b.Stats().Refusals != 2 {
		t.Errorf("got %v, %+v", err, b.Stats())
	}
	s.offer(pack(t, "broken", brokenRule, nil))
	if err := errors.Join(b.Refresh(t.Context()), b.Refresh(t.Context())); err == nil || b.Stats().Refusals != 3 {
		t.Errorf("what does not compile is looked at once: %v, %+v", err, b.Stats())
	}
}

// signing writes a key to a file, from where bundles are signed.
func signing(t *testing.T, key *rulebundle.Key) *rulebundle.Key {
	t.Helper()
	return &rulebundle.Key{File: secretFile(t, key.Text), Algorithm: key.Algorithm}
}

// A folder is read again once it has changed and is quiet.
func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		save := func(name, text string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		save("default.rego", ruleFor(0))
		b := newBench(t, folder, rulesource.Options{Watch: true})
		still := newBench(t, folder, rulesource.Options{})
		for _, b := range []*bench{b, still} {
			b.start(t)
			go b.Run(t.Context())
		}
		time.Sleep(time.Minute)
		if got := b.Stats(); got.Activations != 1 || got.Attempts != 1 {
			t.Errorf("unchanged: %+v", got)
		}
		save("default.rego", brokenRule+"\n")
		time.Sleep(5 * time.Second)
		if got := b.Stats(); b.hub(t) != 0 || got.Refusals != 1 || !strings.Contains(got.Refused, "default.rego:3") {
			t.Errorf("broken: hub %d, %+v", b.hub(t), got)
		}
		save("default.rego", ruleFor(1)+"# mended\n")
		time.Sleep(5 * time.Second)
		if got := b.Stats(); b.hub(t) != 1 || got.Refused != "" {
			t.Errorf("mended: hub %d, %+v", b.hub(t), got)
		}
		save(".default.rego.swp", "x")
		save("notes.txt", "x")
		time.Sleep(5 * time.Second)
		if got := b.Stats(); got.Activations != 2 {
			t.Errorf("other files count: %+v", got)
		}
		if still.hub(t) != 0 {
			t.Error("it is not told to watch, and does")
		}
		time.Sleep(500 * time.Millisecond) // between two looks, lest it be chance which comes first
		for i := range 5 {                 // a file that is being written is left alone
			save("default.rego", brokenRule+strings.Repeat("#\n", i+2))
			time.Sleep(time.Second)
		}
		save("default.rego", ruleFor(0)+"\n\n")
		time.Sleep(5 * time.Second)
		if got := b.Stats(); b.hub(t) != 0 || got.Refusals > 1 {
			t.Errorf("after quick edits: hub %d, %+v", b.hub(t), got)
		}
	})
}

// After a refusal there is an all-clear, once, whichever way the rules become good.
func TestAllClear(t *testing.T) {
	t.Parallel()
	rule := func(b *bench) int { return strings.Count(b.log.String(), `"rules good again"`) }
	refresh := func(t *testing.T, b *bench) {
		t.Helper()
		_ = b.Refresh(t.Context()) // of a folder, the first one only notes the change
		_ = b.Refresh(t.Context())
	}
	check := func(t *testing.T, b *bench, offer func(rule string)) {
		t.Helper()
		b.start(t)
		for i, step := range []struct {
			rule    string
			refused bool
			clears  int // so far
		}{
			{ruleFor(0) + "\n", false, 0}, {brokenRule, true, 0}, {ruleFor(0) + "\n", false, 1}, {brokenRule + "\n", true, 1},
			{brokenRule + "\n\n", true, 1}, {ruleFor(1), false, 2}, {ruleFor(0), false, 2},
		} {
			offer(step.rule)
			refresh(t, b)
			if got := b.Stats(); (got.Refused != "") != step.refused || rule(b) != step.clears {
				t.Errorf("step %d: %d all-clears, refused: %q", i, rule(b), got.Refused)
			}
		}
	}
	t.Run("bundle", func(t *testing.T) {
		t.Parallel()
		s := &store{packed: pack(t, "", ruleFor(0), nil)}
		revision := 0
		check(t, newBench(t, serve(t, s), rulesource.Options{}), func(rule string) {
			revision++
			s.offer(pack(t, strconv.Itoa(revision), rule, nil))
		})
	})
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		save := func(rule string) { saveRule(t, folder, rule) }
		save(ruleFor(0))
		check(t, newBench(t, folder, rulesource.Options{Watch: true}), save)
	})
}

// saveRule writes a rule, at a time of its own: a file system may count time in steps.
func saveRule(t *testing.T, folder, rule string) {
	t.Helper()
	name := filepath.Join(folder, "default.rego")
	before := time.Unix(0, 0)
	if info, err := os.Stat(name); err == nil {
		before = info.ModTime()
	}
	if err := os.WriteFile(name, []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, time.Time{}, before.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
}

// A folder that is watched is tested like a bundle.
func TestSelfTestOfAFolder(t *testing.T) {
	t.Parallel()
	const first = "package allocation.default\n\nhub := input.linkedHubs[0]\n"
	const torn = first + "\nhub := input.linkedHubs[1]\n"
	for name, c := range map[string]struct {
		rule string
		off  bool
		want string // in the refusal; none if it is used
	}{
		"good":                        {rule: first + "\nreject contains \"no\" if false\n"},
		"otherwise than expected":     {rule: ruleFor(1), want: "a.request.json does not get the expected decision"},
		"in conflict":                 {rule: torn, want: "undecided"},
		"in conflict, and not tested": {rule: torn, off: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			for name, text := range map[string]string{"a.request.json": requestBody,
				"a.decision.json": `{"outcome": "assigned", "rule": "allocation.default", "hub": "hub-0.azure-devices.net"}`} {
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			saveRule(t, folder, first)
			b := newBench(t, folder, rulesource.Options{Watch: true, NoSelfTest: c.off})
			b.start(t)
			saveRule(t, folder, c.rule)
			err := errors.Join(b.Refresh(t.Context()), b.Refresh(t.Context()))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || (b.Stats().Activations == 2) != (c.want == "") {
				t.Errorf("got %v, %+v", err, b.Stats())
			}
		})
	}
}

// The rows of a fixture are no part of the digest, and yet new ones take effect.
func TestFixtureOfAFolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		save := func(name, text string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		const declaration = "device: {row: {type: object, properties: {index: {type: integer}}}, fixture: device_fixture.csv}\n"
		save("default.rego", "package allocation.default\n\nhub := input.linkedHubs[lookup.device(\"d\").index]\n")
		save("lookups.yaml", declaration)
		save("device_fixture.csv", "key,index\nd,0\n")
		b := newBench(t, folder, rulesource.Options{Watch: true})
		b.start(t)
		digest := b.Stats().Digest
		go b.Run(t.Context())
		for i, step := range []struct {
			name, text  string
			hub         int
			activations uint64
			refused     string
		}{
			{"device_fixture.csv", "key,index\nd,one\n", 0, 1, "device_fixture.csv:2"},
			{"device_fixture.csv", "key,index\nd,1\n\n\n", 1, 2, ""},
			{"notes.txt", "x", 1, 2, ""},
			{"lookups.yaml", declaration + "# more\n", 1, 3, ""},
		} {
			save(step.name, step.text)
			time.Sleep(5 * time.Second)
			got := b.Stats()
			if b.hub(t) != step.hub || got.Activations != step.activations || !strings.Contains(got.Refused, step.refused) || step.refused == "" && got.Refused != "" {
				t.Errorf("step %d: hub %d, %+v", i, b.hub(t), got)
			}
			if same := got.Digest == digest; same != (step.name != "lookups.yaml") {
				t.Errorf("step %d: the digest is the same: %t", i, same)
			}
		}
	})
}

// A machine that is busy once does not refuse a folder for ever, and is not kept busy by trying.
func TestSlowSelfTestOfAFolder(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	saveRule(t, folder, ruleFor(0))
	b := newBench(t, folder, rulesource.Options{Watch: true, Timeout: 200 * time.Millisecond, Poll: time.Hour})
	b.start(t)
	saveRule(t, folder, "package allocation.default\n\nhub := input.linkedHubs[0] if count([1 | some a in numbers.range(1, 9999); "+
		"some b in numbers.range(1, 9999); a * b == 0]) == 0\n")
	for range 5 {
		_ = b.Refresh(t.Context())
	}
	if got := b.Stats(); got.Refusals != 1 || !strings.Contains(got.Refused, "ends in timeout") {
		t.Errorf("%+v", got)
	}
	saveRule(t, folder, ruleFor(1))
	if err := errors.Join(b.Refresh(t.Context()), b.Refresh(t.Context())); err != nil || b.hub(t) != 1 {
		t.Errorf("the next change: %v, %+v", err, b.Stats())
	}
}

// A deployment package can hold the rules as one file.
func TestBundleInAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.tar.gz")
	key := &rulebundle.Key{Text: "good-secret", Algorithm: "HS256"}
	if err := os.WriteFile(file, pack(t, "v7", ruleFor(1), signing(t, key)), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, file, rulesource.Options{Key: key})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.Stats(); b.hub(t) != 1 || got.Revision != "v7" {
		t.Errorf("hub %d, %+v", b.hub(t), got)
	}
	other := &rulebundle.Key{Text: "other-secret", Algorithm: "HS256"}
	if err := newBench(t, file, rulesource.Options{Key: other}).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "rules.tar.gz is not a bundle of rules") {
		t.Errorf("signed by somebody else: %v", err)
	}
	folder := t.TempDir() + "/folder.tar.gz" // a folder is never verified
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := newBench(t, folder, rulesource.Options{Key: key}).Start(t.Context()); err == nil {
		t.Error("a folder was taken for a bundle")
	}
}

// What a new bundle does not change is not compiled again, and what cannot be parsed is refused with its place.
func TestUnchangedRulesAreKept(t *testing.T) {
	t.Parallel()
	s := &store{packed: pack(t, "v0", ruleFor(0), nil)}
	b := newBench(t, serve(t, s), rulesource.Options{NoSelfTest: true})
	b.start(t)
	compiled := func() any {
		syntax, err := b.allocator.Rules().All()[0].Syntax()
		if err != nil {
			t.Fatal(err)
		}
		return syntax.Compiler
	}
	first := compiled()
	s.offer(pack(t, "v1", ruleFor(0), nil))
	if err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if compiled() != first || b.Stats().Revision != "v1" {
		t.Errorf("the same rules were compiled again, or not put into use: %+v", b.Stats())
	}
	s.offer(pack(t, "v2", ruleFor(1), nil))
	if err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if compiled() == first || b.hub(t) != 1 {
		t.Errorf("the changed rule was not compiled: hub %d", b.hub(t))
	}
	s.offer(pack(t, "v3", "package allocation.default\n\nhub :=\n", nil))
	if err := b.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "default/default.rego:4: rego_parse_error") {
		t.Errorf("%v, want the place of the syntax error", err)
	}
	if got := b.Stats(); got.Refusals != 1 || got.Revision != "v2" || got.Failures != 0 {
		t.Errorf("%+v", got)
	}
}

func TestBrokenFolderIsAnError(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "default.rego"), []byte(brokenRule), 0o600); err != nil {
		t.Fatal(err)
	}
	for location, want := range map[string]string{folder: "default.rego:3", filepath.Join(folder, "nowhere"): "there is no folder"} {
		if err := newBench(t, location, rulesource.Options{}).Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", location, err, want)
		}
	}
}

// No request fails while rules are replaced again and again, and none sees two sets: hub and twin of each answer are
// from the same.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	bundles := [][]byte{pack(t, "v0", ruleFor(0), nil), pack(t, "v1", ruleFor(1), nil), pack(t, "v2", brokenRule, nil)}
	s := &store{packed: bundles[0]}
	b := newBench(t, serve(t, s), rulesource.Options{Cache: filepath.Join(t.TempDir(), "cache")})
	b.start(t)
	server := httptest.NewServer(handler.New(handler.Options{Allocator: b.allocator}))
	defer server.Close()
	want := map[string]bool{}
	for hub := range 2 {
		want[fmt.Sprintf(`{"iotHubHostName":"hub-%d.azure-devices.net","initialTwin":{"tags":{"hub":"%d"}}}`, hub, hub)] = true
	}
	const swaps, perSwap = 15, 40
	var answered atomic.Int64
	var seen sync.Map
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				response, err := http.Post(server.URL+handler.AllocatePath, "application/json", strings.NewReader(requestBody))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK || !want[string(body)] {
					t.Errorf("answered %d %s, %v", response.StatusCode, body, err)
					return
				}
				seen.Store(string(body), true)
				answered.Add(1)
			}
		})
	}
	for i := range swaps {
		s.offer(bundles[(i+1)%len(bundles)])
		_ = b.Refresh(t.Context())
		for until := answered.Load() + perSwap; answered.Load() < until && !t.Failed(); {
			_ = b.Stats()
			time.Sleep(100 * time.Microsecond) // polls the counter; the requests set the pace
		}
	}
	close(stop)
	group.Wait()
	for body := range want {
		if _, ok := seen.Load(body); !ok {
			t.Errorf("never answered: %s", body)
		}
	}
	if got := b.Stats(); got.Refusals < swaps/4 || got.Activations < swaps/3 {
		t.Errorf("%+v", got)
	}
}

// FuzzRulesOnDisk: whatever stands in the file on disk, a start goes on without it.
func FuzzRulesOnDisk(f *testing.F) {
	const url = "https://rules.example.com/rules.tar.gz"
	s := &store{packed: pack(f, "v1", ruleFor(0), nil)}
	folder := filepath.Join(f.TempDir(), "cache")
	newBench(f, url, rulesource.Options{Cache: folder, Transport: direct{s}}).start(f)
	names, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(names) != 1 {
		f.Fatal(names, err)
	}
	good, err := os.ReadFile(names[0])
	if err != nil {
		f.Fatal(err)
	}
	head, _, _ := bytes.Cut(good, []byte("\n"))
	f.Add(good)
	f.Add(head)
	f.Add(append(head, "\n\x1f\x8b"...))
	f.Add([]byte("{}\n"))
	s.answer(status(503))
	f.Fuzz(func(t *testing.T, content []byte) {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(names[0])), content, 0o600); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, url, rulesource.Options{Cache: folder, Transport: direct{s}})
		b.start(t)
		_, bundle, _ := bytes.Cut(content, []byte("\n"))
		_, whole, _ := bytes.Cut(good, []byte("\n"))
		if got := b.hub(t); (got == 0) && !bytes.Equal(bundle, whole) {
			t.Errorf("a bundle that nobody shipped is in use: %q", content)
		}
	})
}
