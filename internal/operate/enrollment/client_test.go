package enrollment_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/usher-dps/usher/internal/operate/enrollment"
)

// signedIn is a user who is signed in with Microsoft Entra.
type signedIn struct{ scopes []string }

func (s *signedIn) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	s.scopes = options.Scopes
	return azcore.AccessToken{Token: "entra-token-of-the-test", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// The stand-in for DPS accepts only keys. This server accepts a token of Entra, and answers in pages.
func TestEntraAndPages(t *testing.T) {
	t.Parallel()
	who := &signedIn{}
	var calls []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer entra-token-of-the-test" {
			t.Errorf("%s has the authorization %q", r.URL, r.Header.Get("Authorization"))
		}
		if r.URL.Query().Get("api-version") == "" {
			t.Errorf("%s has no api-version", r.URL)
		}
		page := r.Header.Get("X-Ms-Continuation")
		calls = append(calls, r.Method+" "+r.URL.Path+" "+page)
		switch page {
		case "":
			if strings.HasPrefix(r.URL.Path, "/enrollments/") {
				fmt.Fprint(w, `[{"registrationId": "c"}]`)
				return
			}
			w.Header().Set("x-ms-continuation", "next")
			fmt.Fprint(w, `[{"enrollmentGroupId": "a", "initialTwin": {"tags": {"n": 9007199254740993}}}]`)
		case "next":
			fmt.Fprint(w, `[{"enrollmentGroupId": "b"}]`)
		}
	}))
	defer server.Close()
	client, err := enrollment.NewClient(enrollment.Options{Host: strings.TrimPrefix(server.URL, "https://"), Credential: who, Transport: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	all, err := client.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(all[0], all[1], all[2]) != "group a group b individual c" || len(all) != 3 {
		t.Errorf("enrollments %v", all)
	}
	if text, err := json.Marshal(all[0].Document); err != nil || !strings.Contains(string(text), "9007199254740993") {
		t.Errorf("a number changed: %s, %v", text, err)
	}
	if got := fmt.Sprint(calls); got != "[POST /enrollmentGroups/query  POST /enrollmentGroups/query next POST /enrollments/query ]" {
		t.Errorf("calls %s", got)
	}
	if fmt.Sprint(who.scopes) != "[https://azure-devices-provisioning.net/.default]" {
		t.Errorf("the token is for %v", who.scopes)
	}
}

// A change that someone else made in the meantime is not overwritten, and errors say what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		http.StatusPreconditionFailed: "someone changed", http.StatusNotFound: "no such enrollment",
		http.StatusForbidden: "Device Provisioning Service Data Contributor", http.StatusBadRequest: "400004: iotHubs: wrong",
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/attestationmechanism") {
				fmt.Fprint(w, `{"type": "symmetricKey", "symmetricKey": {"primaryKey": "kept"}}`)
				return
			}
			if r.Method == http.MethodGet {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"errorCode": 400004, "message": "Unsupported API version."}`)
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Header.Get("If-Match") != `"1"` || !strings.Contains(string(body), "kept") || strings.Contains(string(body), "createdDateTimeUtc") {
				t.Errorf("If-Match %q, body %s", r.Header.Get("If-Match"), body)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, `{"errorCode": 400004, "message": "iotHubs: wrong"}`)
		}))
		client, err := enrollment.NewClient(enrollment.Options{Host: strings.TrimPrefix(server.URL, "https://"), Credential: &signedIn{}, Transport: server.Client()})
		if err != nil {
			t.Fatal(err)
		}
		err = client.Put(t.Context(), enrollment.Enrollment{Kind: enrollment.Group, Document: map[string]any{
			"enrollmentGroupId": "a", "etag": `"1"`, "createdDateTimeUtc": "2026-01-01T00:00:00Z"}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "group enrollment a") {
			t.Errorf("%d: %v, want %q", status, err, want)
		}
		if status == http.StatusPreconditionFailed && !errors.Is(err, enrollment.ErrChanged) {
			t.Errorf("%v is not ErrChanged", err)
		}
		server.Close()
	}
	for _, host := range []string{"", "https://a.example", "a b", "me@a.example"} {
		if _, err := enrollment.NewClient(enrollment.Options{Host: host, Credential: &signedIn{}}); err == nil {
			t.Errorf("%q is accepted as a host", host)
		}
	}
	if _, err := enrollment.NewClient(enrollment.Options{Host: "a.example"}); err == nil {
		t.Error("a client without credentials is accepted")
	}
}

// A service shapes records by the version of the call. No write loses a member that the version hides.
func TestVersions(t *testing.T) {
	t.Parallel()
	members := map[string]string{"enrollmentGroupId": "2018-09-01-preview", "etag": "2018-09-01-preview", "certificatePolicyName": "2026-11-01", "deviceTypeRefs": "2026-11-02-preview"}
	only := map[string]string{"trustBundleId": "2021-11-01-preview"}
	for _, test := range []struct {
		name, newest string // the newest version that the service takes
		stored       []string
		version      string // of the options
		used, fails  string
	}{
		{"newest", "2026-11-15-preview", []string{"certificatePolicyName"}, "", "2026-11-01", ""},
		{"an older service", "2021-11-01-preview", nil, "", "2021-10-01", ""},
		{"a preview member", "2026-11-15-preview", []string{"certificatePolicyName", "deviceTypeRefs"}, "", "",
			"it has deviceTypeRefs, which API version 2026-11-01 would reset: use --service-version 2026-11-15-preview"},
		{"a preview member of a service without the newest preview", "2026-11-02-preview", []string{"deviceTypeRefs"}, "", "", "use --service-version 2026-11-02-preview"},
		{"a member of an old preview", "2026-11-15-preview", []string{"trustBundleId"}, "", "", "it has trustBundleId, which API version 2026-11-01 would reset: use --service-version 2021-11-01-preview"},
		{"with the preview", "2026-11-15-preview", []string{"certificatePolicyName", "deviceTypeRefs"}, "2026-11-02-preview", "2026-11-02-preview", ""},
		{"a version that the service does not take", "2021-10-01", nil, "2026-11-01", "", "DPS does not take this API version: 2026-11-01"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var written []string // versions
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				version := r.URL.Query().Get("api-version")
				if version > test.newest {
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprintf(w, `{"errorCode": 400004, "message": "Unsupported API version %s."}`, version)
					return
				}
				shown := map[string]any{}
				for _, name := range append([]string{"enrollmentGroupId", "etag"}, test.stored...) {
					if members[name] <= version && (only[name] == "" || only[name] == version) {
						shown[name] = "a"
					}
				}
				switch {
				case r.Method == http.MethodPut:
					var document map[string]any
					if err := json.NewDecoder(r.Body).Decode(&document); err != nil {
						t.Error(err)
					}
					for _, name := range test.stored {
						if document[name] == nil {
							t.Errorf("%s is lost", name)
						}
					}
					written = append(written, version)
				case strings.HasSuffix(r.URL.Path, "/attestationmechanism"):
					shown = map[string]any{"type": "none"}
				}
				_ = json.NewEncoder(w).Encode(shown)
			}))
			defer server.Close()
			client, err := enrollment.NewClient(enrollment.Options{
				Host: strings.TrimPrefix(server.URL, "https://"), Credential: &signedIn{}, Transport: server.Client(), Version: test.version})
			if err != nil {
				t.Fatal(err)
			}
			group, err := client.Get(t.Context(), enrollment.Group, "a")
			if err == nil {
				err = client.Put(t.Context(), group)
			}
			if fmt.Sprint(written) != "["+test.used+"]" || (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("written with %v: %v", written, err)
			}
		})
	}
}

// transport answers each call in the same way.
type transport func() (*http.Response, error)

func (f transport) Do(*http.Request) (*http.Response, error) { return f() }

// What can pass is tried again, and the caller learns why it takes so long; what cannot is not.
func TestRetries(t *testing.T) {
	t.Parallel()
	refused := func(err error) transport {
		return func() (*http.Response, error) { return nil, &url.Error{Op: "Post", URL: "https://a.example", Err: err} }
	}
	answers := func(status int) transport {
		return func() (*http.Response, error) {
			return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: http.NoBody}, nil
		}
	}
	for name, test := range map[string]struct {
		transport transport
		reason    string // of the repetition; empty if there is none
	}{
		"no such host":          {refused(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}), ""},
		"unknown authority":     {refused(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), ""},
		"another host's name":   {refused(&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}), ""},
		"no TLS":                {refused(http.ErrSchemeMismatch), ""},
		"a bad request":         {answers(http.StatusBadRequest), ""},
		"the resolver is away":  {refused(&net.DNSError{Err: "server misbehaving", IsTemporary: true}), "server misbehaving"},
		"nobody listens":        {refused(errors.New("connection refused")), "connection refused"},
		"too many requests":     {answers(http.StatusTooManyRequests), "it answers 429"},
		"the service is unwell": {answers(http.StatusServiceUnavailable), "it answers 503"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			reason := ""
			client, err := enrollment.NewClient(enrollment.Options{Host: "a.example", Credential: &signedIn{}, Transport: test.transport,
				Retry: func(why string) { reason = why; cancel() }}) // the test need not wait
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.All(ctx)
			if (reason == "") != (test.reason == "") || !strings.Contains(reason, test.reason) {
				t.Errorf("it is repeated because of %q, want %q", reason, test.reason)
			}
			if permanent := test.reason == "" && name != "a bad request"; err == nil || errors.Is(err, enrollment.ErrUnreachable) != permanent {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
