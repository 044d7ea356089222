package sink_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
)

const token = "the-secret-token"

// identity always returns the same token.
type identity struct{ scopes []string }

func (i *identity) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	i.scopes = options.Scopes
	return azcore.AccessToken{Token: token, ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// storage is the part of the Blob service that a Blob calls, without a network.
type storage struct {
	t *testing.T

	mu     sync.Mutex
	blobs  map[string]string
	blocks map[string]int
	calls  []string
	// before can answer instead of the service, after can lose its answer.
	before func(w http.ResponseWriter, call string) bool
	after  func(call string) (lost bool)
}

// Do makes storage the transport of a client.
func (s *storage) Do(r *http.Request) (*http.Response, error) {
	header := http.Header{} // as it is after HTTP
	for name, values := range r.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	r.Header = header
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	call := r.Method + " " + r.URL.Path
	if comp := r.URL.Query().Get("comp"); comp != "" {
		call += " " + comp + " at " + r.Header.Get("X-Ms-Blob-Condition-Appendpos")
	}
	s.calls = append(s.calls, call)
	if r.Header.Get("Authorization") != "Bearer "+token || r.Header.Get("X-Ms-Version") == "" || r.URL.Scheme != "https" {
		s.t.Errorf("%s: called without what is needed: %v", call, r.URL)
	}
	w := httptest.NewRecorder()
	if s.before == nil || !s.before(w, call) {
		s.serve(w, r)
	}
	if s.after != nil && s.after(call) {
		return nil, errors.New("connection reset by peer")
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>some\nwords</Message></Error>", code)
}

func (s *storage) serve(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path
	text, there := s.blobs[name]
	switch {
	case r.Method == http.MethodPut && r.URL.Query().Get("comp") == "":
		if r.Header.Get("X-Ms-Blob-Type") != "AppendBlob" || r.Header.Get("If-None-Match") != "*" ||
			r.Header.Get("X-Ms-Blob-Content-Type") != "application/x-ndjson" {
			s.t.Errorf("created with %v", r.Header)
		}
		if there {
			refuse(w, http.StatusConflict, "BlobAlreadyExists")
			return
		}
		s.blobs[name] = ""
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut && r.URL.Query().Get("comp") == "appendblock":
		position, err := strconv.Atoi(r.Header.Get("X-Ms-Blob-Condition-Appendpos"))
		block, _ := io.ReadAll(r.Body)
		switch {
		case err != nil || int64(len(block)) != r.ContentLength || len(block) > 4<<20:
			s.t.Errorf("appended %d bytes with %v", len(block), r.Header)
		case !there:
			refuse(w, http.StatusNotFound, "BlobNotFound")
		case position != len(text):
			refuse(w, http.StatusPreconditionFailed, "AppendPositionConditionNotMet")
		case s.blocks[name] == 50_000:
			refuse(w, http.StatusConflict, "BlockCountExceedsLimit")
		default:
			s.blobs[name] += string(block)
			s.blocks[name]++
			w.WriteHeader(http.StatusCreated)
		}
	case r.Method == http.MethodGet:
		var from int
		if asked := r.Header.Get("X-Ms-Range"); asked != "" {
			if _, err := fmt.Sscanf(asked, "bytes=%d-", &from); err != nil {
				s.t.Errorf("read the range %s", asked)
			}
		}
		if from > 0 && from >= len(text) {
			refuse(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
			return
		}
		w.WriteHeader(http.StatusPartialContent)
		fmt.Fprint(w, text[from:])
	default:
		s.t.Errorf("called with %s %s", r.Method, r.URL)
	}
}

func newStorage(t *testing.T) *storage {
	return &storage{t: t, blobs: map[string]string{}, blocks: map[string]int{}}
}

func (s *storage) expect(want map[string]string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !reflect.DeepEqual(s.blobs, want) {
		s.t.Errorf("got %q, want %q\ncalls:\n%s", s.blobs, want, strings.Join(s.calls, "\n"))
	}
}

func newBlob(t *testing.T, s *storage, instance string) *sink.Blob {
	t.Helper()
	b, err := sink.NewBlob(sink.BlobOptions{
		Container: "https://contoso.blob.core.windows.net/records/usher", Credential: new(identity), Instance: instance, Transport: s,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func deliver(t *testing.T, b *sink.Blob, records ...string) {
	t.Helper()
	if err := b.Deliver(t.Context(), batch(records...)); err != nil {
		t.Fatal(err)
	}
}

func batch(records ...string) (batch [][]byte) {
	for _, record := range records {
		batch = append(batch, []byte(record))
	}
	return batch
}

const folder = "/records/usher/records/2000/01/01/"

// Blocks go to one blob. Another process starts another blob, and so does another day.
func TestBlob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, who := newStorage(t), new(identity)
		b, err := sink.NewBlob(sink.BlobOptions{
			Container: "https://contoso.blob.core.windows.net/records/usher", Credential: who, Instance: "web 1/ä", Transport: s,
		})
		if err != nil {
			t.Fatal(err)
		}
		deliver(t, b, "1", "2")
		deliver(t, b, "3")
		deliver(t, newBlob(t, s, "web1"), "4")
		time.Sleep(24 * time.Hour)
		deliver(t, b, "5")
		s.expect(map[string]string{
			folder + "web1-1.ndjson": "1\n2\n3\n", folder + "web1-2.ndjson": "4\n",
			"/records/usher/records/2000/01/02/web1-1.ndjson": "5\n",
		})
		if !reflect.DeepEqual(who.scopes, []string{"https://storage.azure.com/.default"}) {
			t.Errorf("a token was asked for %v", who.scopes)
		}
	})
}

// A block whose answer was lost is not appended again, even if more records came in between.
func TestBlobLostAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		b := newBlob(t, s, "web")
		deliver(t, b, "1")
		lose := true
		s.after = func(call string) bool {
			lost := lose && strings.Contains(call, "appendblock")
			lose = false
			return lost
		}
		if err := b.Deliver(t.Context(), batch("2", "3")); err == nil || !strings.Contains(err.Error(), "connection reset") {
			t.Fatalf("got %v", err)
		}
		deliver(t, b, "2", "3")
		lose = true
		if err := b.Deliver(t.Context(), batch("4")); err == nil {
			t.Fatal("no error")
		}
		deliver(t, b, "4", "5", "6")
		deliver(t, b, "7")
		s.expect(map[string]string{folder + "web-1.ndjson": "1\n2\n3\n4\n5\n6\n7\n"})

		// The creation's answer is lost: an empty blob is left behind.
		lose, s.after = true, func(string) bool { lost := lose; lose = false; return lost }
		b = newBlob(t, s, "other")
		if err := b.Deliver(t.Context(), batch("1")); err == nil {
			t.Fatal("no error")
		}
		deliver(t, b, "1")
		s.expect(map[string]string{folder + "web-1.ndjson": "1\n2\n3\n4\n5\n6\n7\n", folder + "other-1.ndjson": "", folder + "other-2.ndjson": "1\n"})
	})
}

// If someone else changes the blob, or it is full, another one is started.
func TestBlobStartsAnother(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(s *storage, name string){
		"deleted":     func(s *storage, name string) { delete(s.blobs, name) },
		"appended to": func(s *storage, name string) { s.blobs[name] += "strange\n" },
		"replaced":    func(s *storage, name string) { s.blobs[name] = "" },
		"full":        func(s *storage, name string) { s.blocks[name] = 50_000 },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStorage(t)
			b := newBlob(t, s, "web")
			deliver(t, b, "1")
			first := folder + "web-1.ndjson"
			change(s, first)
			before, there := s.blobs[first]
			deliver(t, b, "2")
			deliver(t, b, "3")
			if got := s.blobs[folder+"web-2.ndjson"]; name != "deleted" && got != "2\n3\n" {
				t.Errorf("%s: got %q", name, s.blobs)
			}
			if after, still := s.blobs[first]; still != there && after != before {
				t.Errorf("%s: got %q", name, s.blobs)
			}
		})
	}
}

// Errors are one line, say what to do and how long to wait, and contain no token.
func TestBlobErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			status     int
			code       string
			retryAfter string
			want       string
			wait       time.Duration
		}{
			{403, "AuthorizationPermissionMismatch", "", "403 AuthorizationPermissionMismatch; give the app's identity the role Storage Blob Data Contributor", 0},
			{401, "InvalidAuthenticationInfo", "", "401 InvalidAuthenticationInfo; the account does not accept", 0},
			{404, "ContainerNotFound", "", "404 ContainerNotFound; create the container", 0},
			{500, "InternalError", "", "500 InternalError", 0},
			{503, "ServerBusy", "7", "503 ServerBusy", 7 * time.Second},
			{503, "ServerBusy", "Sat, 01 Jan 2000 00:00:30 GMT", "503 ServerBusy", 30 * time.Second},
			{503, "ServerBusy", "soon", "503 ServerBusy", 0},
			{429, "", "60", "429 Too Many Requests", time.Minute},
		} {
			s := newStorage(t)
			failing := true
			s.before = func(w http.ResponseWriter, _ string) bool {
				if failing {
					w.Header().Set("Retry-After", c.retryAfter)
					refuse(w, c.status, c.code)
				}
				return failing
			}
			b := newBlob(t, s, "web")
			err := b.Deliver(t.Context(), batch("1"))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%d: got %v", c.status, err)
			}
			busy, _ := errors.AsType[*spool.Busy](err)
			if c.wait > 0 && (busy == nil || busy.Wait != c.wait) || c.wait == 0 && busy != nil {
				t.Errorf("%d: got %+v, want a wait of %s", c.status, busy, c.wait)
			}
			if len(s.calls) != 1 {
				t.Errorf("%d: called %v", c.status, s.calls)
			}
			failing = false
			deliver(t, b, "1")
			s.expect(map[string]string{folder + "web-1.ndjson": "1\n"})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := newBlob(t, newStorage(t), "web").Deliver(ctx, batch("1")); err == nil {
			t.Error("no error")
		}
	})
	for want, options := range map[string]sink.BlobOptions{
		"blob needs https":        {Container: "http://a/c", Credential: new(identity)},
		"blob needs a credential": {Container: "https://a/c"},
	} {
		if _, err := sink.NewBlob(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
}

// Spool and storage together: although the service is away, refuses, and loses answers, and the process restarts, each
// record is there once, except those that were being delivered when the process ended.
func TestBlobThroughASpool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, calls := newStorage(t), 0
		s.before = func(w http.ResponseWriter, _ string) bool {
			if calls++; calls%5 == 2 {
				refuse(w, []int{500, 403, 503}[calls%3], "InternalError")
				return true
			}
			return false
		}
		s.after = func(string) bool { return calls%7 == 3 }
		folder := filepath.Join(t.TempDir(), "spool")
		var want strings.Builder
		for process := range 3 {
			b := newBlob(t, s, "web")
			q, err := spool.Open(spool.Options{
				Name: "blob", Folder: folder, Deliver: b.Deliver, BatchBytes: sink.BlobBatchBytes, BatchRecords: 10_000, Linger: sink.BlobLinger,
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				record := fmt.Sprintf(`{"decisionId":"%d-%d"}`, process, i)
				want.WriteString(record + "\n")
				if err := q.Write([]byte(record)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
			if err := q.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var got strings.Builder
		for n := range len(s.blobs) {
			got.WriteString(s.blobs[fmt.Sprintf("/records/usher/records/2000/01/01/web-%d.ndjson", n+1)])
		}
		if got.String() != want.String() {
			t.Errorf("-want +got:\n%s\n%s", cmp.Diff(strings.Fields(want.String()), strings.Fields(got.String())), strings.Join(s.calls, "\n"))
		}
	})
}

// The same over HTTPS, with the address that has the account in its path.
func TestBlobOverHTTPS(t *testing.T) {
	t.Parallel()
	s := newStorage(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Scheme = "https"
		response, err := s.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		for name, values := range response.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	}))
	defer server.Close()
	b, err := sink.NewBlob(sink.BlobOptions{Container: server.URL + "/contoso/records", Credential: new(identity), Transport: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, b, "1", "2")
	deliver(t, b, "3")
	for name, text := range s.blobs {
		if !strings.HasPrefix(name, "/contoso/records/records/2") || !strings.HasSuffix(name, "/instance-1.ndjson") || text != "1\n2\n3\n" {
			t.Errorf("got %s with %q", name, text)
		}
	}
	if len(s.blobs) != 1 {
		t.Errorf("got %q", s.blobs)
	}
}
