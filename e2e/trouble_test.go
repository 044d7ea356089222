package e2e_test

import (
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trouble is a proxy in front of the storage that can make requests fail.
type trouble struct {
	*httptest.Server

	mu     sync.Mutex
	kind   string         // empty if everything succeeds
	over   chan struct{}  // closed when this kind of trouble ends
	failed map[string]int // number of failures by what was requested
	polls  []string       // status of the storage's answers to polls of the rules, since the last change of the kind
}

// The kinds of trouble, and what is requested.
const (
	hangs     = "hangs"   // no answer as long as the trouble lasts
	fails     = "fails"   // 500
	forbids   = "forbids" // 403
	cutsShort = "cuts"    // a bundle ends halfway
	forgets   = "forgets" // the request succeeds, but the connection is closed without an answer
	rules     = "the rules"
	decisions = "decisions"
)

func startTrouble(t *testing.T, w *world) *trouble {
	t.Helper()
	target, err := url.Parse("https://127.0.0.1:" + w.storage.port)
	if err != nil {
		t.Fatal(err)
	}
	p := &trouble{over: make(chan struct{}), failed: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = w.storage.plain.Transport
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients that give up are expected
	proxy.ModifyResponse = func(response *http.Response) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if strings.HasSuffix(response.Request.URL.Path, "/rules.tar.gz") {
			p.polls = append(p.polls, response.Status)
		}
		return nil
	}
	p.Server = w.ca.serveTLS(t, http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		of := decisions
		if strings.HasSuffix(r.URL.Path, "/rules.tar.gz") {
			of = rules
		}
		p.mu.Lock()
		kind, over := p.kind, p.over
		applies := kind == hangs || kind == fails || kind == forbids || kind == cutsShort && of == rules || kind == forgets && of == decisions
		if applies {
			p.failed[of]++
		}
		p.mu.Unlock()
		switch kind {
		case hangs:
			select {
			case <-over:
			case <-r.Context().Done():
				return
			}
		case fails:
			answer.Header().Set("X-Ms-Error-Code", "InternalError")
			answer.WriteHeader(http.StatusInternalServerError)
			return
		case forbids:
			answer.Header().Set("X-Ms-Error-Code", "AuthorizationPermissionMismatch")
			answer.WriteHeader(http.StatusForbidden)
			return
		}
		if !applies || kind == hangs {
			proxy.ServeHTTP(answer, r)
			return
		}
		whole := httptest.NewRecorder()
		proxy.ServeHTTP(whole, r)
		if kind == cutsShort {
			maps.Copy(answer.Header(), whole.Header())
			answer.WriteHeader(whole.Code)
			_, _ = answer.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
			_ = http.NewResponseController(answer).Flush()
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(func() { p.set("") }) // before the server closes
	return p
}

// set starts another kind of trouble, or ends the trouble if kind is empty.
func (p *trouble) set(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.over)
	p.kind, p.over, p.failed, p.polls = kind, make(chan struct{}), map[string]int{}, nil
}

func (p *trouble) failures(of string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed[of]
}

func (p *trouble) polled() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.polls)
}

// Trouble with the storage does not delay decisions and loses no records, and every kind is logged. After it ends, the
// first poll fetches the rules that changed in the meantime.
func TestStorageInTrouble(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newWorld(t)
	p := startTrouble(t, w)
	for name, value := range w.settings {
		w.settings[name] = strings.ReplaceAll(value, "https://127.0.0.1:"+w.storage.port, p.URL)
	}
	w.storage.upload("rules.tar.gz", pack(t, rulesFor(0), "v0", &w.signing))
	r := w.launch()
	w.serves(r, "v0")

	const current, blob = `usher_rules_source="current"`, `usher_record_sink="blob"`
	for i, c := range []struct {
		kind   string
		logged string // in the line about the rules
	}{
		{hangs, ""}, // not before 30 s
		{fails, "500 Internal Server Error (InternalError)"},
		{forbids, "403 Forbidden (AuthorizationPermissionMismatch): access to the bundle is denied; in Blob Storage the identity needs the role Storage Blob Data Reader"},
		{cutsShort, "the bundle did not arrive whole: unexpected EOF"},
		{forgets, ""}, // it does not affect the rules
	} {
		before, revision := hubs[i%2], fmt.Sprint("v", i+1)
		failedPolls, failedRecords := r.metric("usher_rules_failures_total", current), r.metric("usher_records_failures_total", blob)
		pollFails := slices.Contains([]string{fails, forbids, cutsShort}, c.kind)
		recordsFail := slices.Contains([]string{fails, forbids, forgets}, c.kind)
		p.set(c.kind)
		if c.kind != forgets {
			w.storage.upload("rules.tar.gz", pack(t, rulesFor((i+1)%2), revision, &w.signing))
		}
		for _, answered := range w.allocate(r, 10, shadowed, before) {
			if answered.took > 5*time.Second {
				t.Errorf("%s: an answer took %s", c.kind, answered.took)
			}
		}
		until(t, "the storage "+c.kind, func() bool {
			return (p.failures(rules) > 0 || c.kind == forgets) && (p.failures(decisions) > 0 || c.kind == cutsShort) &&
				(!pollFails || r.metric("usher_rules_failures_total", current) > failedPolls) &&
				(!recordsFail || r.metric("usher_records_failures_total", blob) > failedRecords)
		})
		if c.logged != "" {
			until(t, "the log says "+c.logged, func() bool { // the line can arrive after the metric
				return slices.ContainsFunc(r.lines("rules source failed"), func(line map[string]any) bool {
					return strings.Contains(fmt.Sprint(line["error"]), c.logged) && line["level"] == "WARN"
				})
			})
		}
		if pollFails && !r.ready().Rules.Failing {
			t.Errorf("%s: readiness %+v", c.kind, r.ready())
		}
		w.allocate(r, 5, shadowed, before)
		p.set("")
		if c.kind == forgets {
			revision = fmt.Sprint("v", i)
		}
		w.serves(r, revision)
		if polls := p.polled(); c.kind != forgets && (len(polls) == 0 || !strings.HasPrefix(polls[0], "200")) {
			t.Errorf("%s: the answers to the polls after it are %q; the first should have returned %s", c.kind, polls, revision)
		}
	}
	until(t, "all records are delivered", func() bool { return r.metric("usher_records_spooled", blob) == 0 })
	lines := r.lines("records wait")
	if len(lines) == 0 || lines[0]["sink"] != "blob" || lines[0]["level"] != "ERROR" {
		t.Errorf("logged %v", lines)
	}
	if n := r.metric("usher_records_dropped_total"); n > 0 {
		t.Errorf("%v records are lost", n)
	}
	if err := r.stop(); err != nil {
		t.Errorf("the handler stopped with %v: %s", err, r.errors())
	}
	blobs := w.storage.blobs()
	text := ""
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		text += blobs[name]
	}
	records, duplicates := recordsIn(t, text)
	if duplicates > 0 || len(records) != len(w.calls) {
		t.Errorf("%d records and %d duplicates for %d answers", len(records), duplicates, len(w.calls))
	}
	for _, c := range w.calls {
		if records[c.id].Decision.Hub != c.hub {
			t.Errorf("the record of %+v is %+v", c, records[c.id])
		}
	}
	w.checkSecrets(100_000)
}
