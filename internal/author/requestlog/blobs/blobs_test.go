package blobs_test

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/requestlog/blobs"
)

const token = "the-secret-token"

// identity always returns the same token, or fails.
type identity struct{ err error }

func (i identity) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: token, ExpiresOn: time.Now().Add(time.Hour)}, i.err
}

// service is the part of the Blob service that reading calls. It lists two blobs a page, and breaks off the first answer
// for each blob in the middle.
type service struct {
	blobs   map[string]string // by container/name
	begun   sync.Map
	refuses func(w http.ResponseWriter, r *http.Request) bool
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+token {
		http.Error(w, "who is it?", http.StatusUnauthorized)
		return
	}
	if s.refuses != nil && s.refuses(w, r) {
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/account/")
	if r.URL.Query().Get("comp") == "list" {
		s.list(w, name, r.URL.Query().Get("prefix"), r.URL.Query().Get("marker"))
		return
	}
	text, ok := s.blobs[name]
	if !ok {
		w.Header().Set("x-ms-error-code", "BlobNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("ETag", `"1"`)
	if _, begun := s.begun.LoadOrStore(name, true); !begun {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = io.WriteString(w, text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	from, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("x-ms-range")+r.Header.Get("Range"), "bytes="), "-")
	start, err := strconv.Atoi(from)
	if err != nil || r.Header.Get("If-Match") != `"1"` {
		http.Error(w, "no range of the same blob", http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusPartialContent)
	_, _ = io.WriteString(w, text[start:])
}

func (s *service) list(w http.ResponseWriter, container, prefix, marker string) {
	type blob struct {
		Name   string `xml:"Name"`
		Length int    `xml:"Properties>Content-Length"`
	}
	type results struct {
		XMLName xml.Name `xml:"EnumerationResults"`
		Blobs   []blob   `xml:"Blobs>Blob"`
		Next    string   `xml:"NextMarker"`
	}
	var all []blob
	for name, text := range s.blobs {
		if below, ok := strings.CutPrefix(name, container+"/"); ok && strings.HasPrefix(below, prefix) && below >= marker {
			all = append(all, blob{below, len(text)})
		}
	}
	slices.SortFunc(all, func(a, b blob) int { return strings.Compare(a.Name, b.Name) })
	page := results{Blobs: all}
	if len(all) > 2 {
		page.Blobs, page.Next = all[:2], all[2].Name
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(page)
}

func start(t *testing.T, s *service) (url string, options blobs.Options) {
	t.Helper()
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	return server.URL + "/account/", blobs.Options{Credential: identity{}, Transport: server.Client()}
}

// All logs that a prefix names are read, in the order of their names, also if connections break.
func TestLogs(t *testing.T) {
	t.Parallel()
	s := &service{blobs: map[string]string{}}
	var want []string
	for day := range 5 {
		name := fmt.Sprintf("records/2026/11/%02d/a-1.ndjson", day)
		s.blobs["decisions/"+name] = fmt.Sprintf("{\"day\": %d}\n", day) + strings.Repeat("x", 200<<10) + "\n"
		want = append(want, name)
	}
	s.blobs["decisions/records/2026/11/index.html"] = "<html>"
	s.blobs["decisions/records/2026/12/a b%2.jsonl.gz"] = strings.Repeat("{}\n", 50_000)
	s.blobs["other/records/2026/11/01/a-1.ndjson"] = "{}\n"
	url, options := start(t, s)
	for prefix, want := range map[string][]string{
		"decisions/records/2026/11/":           want,
		"decisions/records/2026/11/0":          want,
		"decisions/records/2026/11/03":         want[3:4],
		"decisions":                            append(slices.Clone(want), "records/2026/12/a b%2.jsonl.gz"),
		"decisions/records/2026/11/index.html": {"records/2026/11/index.html"},
		"decisions/records/2026/12/a%20b%252":  {"records/2026/12/a b%2.jsonl.gz"},
	} {
		logs, err := blobs.Logs(t.Context(), url+prefix, options)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, log := range logs {
			name := strings.TrimPrefix(log.Name, url+"decisions/")
			names = append(names, name)
			in, err := log.Open()
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(in)
			if err != nil || in.Close() != nil || string(text) != s.blobs["decisions/"+name] || log.Size != int64(len(text)) {
				t.Errorf("%s: %d bytes, %v", name, len(text), err)
			}
			s.begun.Delete("decisions/" + name)
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s: -want +got:\n%s", prefix, diff)
		}
	}
	logs, err := blobs.Logs(t.Context(), url+"decisions/records/2026/11/", options)
	if err != nil {
		t.Fatal(err)
	}
	items := 0
	for _, err := range requestlog.Items(t.Context(), logs...) {
		if err != nil {
			t.Fatal(err)
		}
		items++
	}
	if items != 10 {
		t.Errorf("%d items", items)
	}
}

// Errors name the fix, and no secret.
func TestErrors(t *testing.T) {
	t.Parallel()
	answer := func(status int, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("x-ms-error-code", code)
			w.WriteHeader(status)
			return true
		}
	}
	for name, test := range map[string]struct {
		url     string // after that of the service, unless it is a whole one
		refuses func(http.ResponseWriter, *http.Request) bool
		who     error
		want    string
	}{
		"a shared access signature": {url: "c/p?sv=1&sig=SECRET", want: "Storage Blob Data Reader, and write https://ACCOUNT"},
		"a password":                {url: "https://me:SECRET@a.example/c", want: "no shared access signature, user"},
		"no container":              {url: "https://a.blob.core.windows.net/", want: "names no container"},
		"no container of emulators": {url: "https://127.0.0.1:1/account", want: "names no container"},
		"http":                      {url: "http://a.blob.core.windows.net/c", want: "must start with https"},
		"no URL":                    {url: "https:///c/SECRET", want: "not a URL such as"},
		"no host name":              {url: "https://:443/c/SECRET", want: "not a URL such as"},
		"no right":                  {url: "c/", refuses: answer(403, "AuthorizationPermissionMismatch"), want: "/account/c cannot be listed: 403 AuthorizationPermissionMismatch; give your identity the role"},
		"another tenant":            {url: "c/", refuses: answer(401, ""), want: "of the same tenant?"},
		"no such container":         {url: "c/", refuses: answer(404, "ContainerNotFound"), want: "404 ContainerNotFound; check the name"},
		"nothing there":             {url: "c/x", want: `no log whose name starts with "x": they end in .ndjson, .jsonl, .json, .log or .csv`},
		"nobody is signed in":       {url: "c/", who: errors.New("run az login"), want: "run az login"},
	} {
		url, options := start(t, &service{refuses: test.refuses})
		options.Credential = identity{test.who}
		if test.url = url + test.url; strings.Contains(test.url[len(url):], "://") || strings.HasPrefix(test.url[len(url):], "https:") {
			test.url = test.url[len(url):]
		}
		_, err := blobs.Logs(t.Context(), test.url, options)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("https://a.blob.core.windows.net/c/p")
	f.Add("https://127.0.0.1/a/c/p?sig=x")
	f.Add("https://%zz/[::1")
	ended, end := context.WithCancel(context.Background())
	end()
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := blobs.Logs(ended, text, blobs.Options{Credential: identity{}}); err == nil {
			t.Errorf("%q was read by no one", text)
		}
	})
}
