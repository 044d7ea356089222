package lookupsource_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
)

// identity is a credential whose tokens take their time.
type identity struct {
	get   func(context.Context) (azcore.AccessToken, error)
	asked atomic.Int64
}

func (i *identity) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	i.asked.Add(1)
	return i.get(ctx)
}

type answers func(*http.Request) *http.Response

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// The first token may take longer than a look-up may. It is not requested again and again.
func TestSlowToken(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]lookupsource.Setting{
		"web":   {Name: "device", Kind: lookupsource.Web, Address: "https://devices.example.com/{key}", Audience: "api://devices", Cache: 10},
		"table": {Name: "device", Kind: lookupsource.Table, Address: "https://a.table.core.windows.net/devices?partition=d&row={key}", Cache: 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				who := &identity{}
				who.get = func(ctx context.Context) (azcore.AccessToken, error) {
					if who.asked.Load() == 1 {
						select {
						case <-time.After(3 * time.Second):
						case <-ctx.Done():
							return azcore.AccessToken{}, ctx.Err()
						}
					}
					return azcore.AccessToken{Token: "a-token", ExpiresOn: time.Now().Add(time.Hour)}, nil
				}
				s, err := lookupsource.New(lookupsource.Options{
					Settings: lookupsource.Settings{setting}, Credential: func() (azcore.TokenCredential, error) { return who, nil },
					Transport: answers(func(r *http.Request) *http.Response {
						w := httptest.NewRecorder()
						if r.Header.Get("Authorization") != "Bearer a-token" {
							w.WriteHeader(http.StatusUnauthorized)
						} else {
							_, _ = w.WriteString(`{"PartitionKey": "d", "RowKey": "press-1", "hub": "h"}`)
						}
						return w.Result()
					}),
				})
				if err != nil {
					t.Fatal(err)
				}
				d := declared(t, "")
				if _, err := s.Find(t.Context(), d, "press-1"); kindOf(err) != fault.Timeout || setting.Kind == lookupsource.Web && !strings.Contains(err.Error(), "no token for ") {
					t.Errorf("got %v", err)
				}
				if _, err := s.Find(t.Context(), d, "press-1"); kindOf(err) != fault.Timeout {
					t.Errorf("got %v", err)
				}
				time.Sleep(3 * time.Second)
				if found, err := s.Find(t.Context(), d, "press-1"); err != nil || found.Row["hub"] != "h" || found.Source != string(setting.Kind) {
					t.Errorf("got %v, %v", found, err)
				}
				if n := who.asked.Load(); n > 2 { // azidentity answers the second from its memory
					t.Errorf("%d tokens were requested", n)
				}
			})
		})
	}
}

// An identity that is missing does not end a start, and is what the operator reads.
func TestNoIdentity(t *testing.T) {
	t.Parallel()
	s, err := lookupsource.New(lookupsource.Options{
		Settings:   lookupsource.Settings{{Name: "device", Kind: lookupsource.Web, Address: "https://devices.example.com/{key}", Audience: "api://devices"}},
		Credential: func() (azcore.TokenCredential, error) { return nil, errors.New("no Azure credential:\n nothing") },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), []*lookups.Declaration{declared(t, "")}); err != nil {
		t.Error(err)
	}
	if got, want := s.States()[0].Fault, "denied: no token for api://devices: no Azure credential: nothing"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A look-up without a source, or whose setting is fixture, is answered by the fixture next to the rules while they are
// developed, and by no one elsewhere. An operator is told once.
func TestNoSource(t *testing.T) {
	t.Parallel()
	for _, fixtures := range []bool{true, false} {
		var log bytes.Buffer
		s, err := lookupsource.New(lookupsource.Options{Settings: lookupsource.Settings{{Name: "device", Kind: lookupsource.Fixture}}, Fixtures: fixtures, Log: logger(&log)})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"device", "lot"} {
			d := *declared(t, "")
			d.Name = name
			for range 2 {
				if err := s.Prepare(t.Context(), []*lookups.Declaration{&d}); err != nil {
					t.Error(err)
				}
			}
			_, err := s.Find(t.Context(), &d, "press-1")
			if fixtures && !errors.Is(err, lookups.ErrUseFixture) || !fixtures && (kindOf(err) != fault.Missing || !strings.Contains(err.Error(), "set USHER_LOOKUP_"+strings.ToUpper(name))) {
				t.Errorf("got %v", err)
			}
		}
		if got, want := strings.Count(log.String(), "look-up has no source"), 2; (got == want) == fixtures {
			t.Errorf("logged %s", &log)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	s := open(t, lookupsource.Backend{Source: &asked{}, Run: func(ctx context.Context) { close(ran); <-ctx.Done() }}, nil)
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	<-ran
	cancel()
	<-done
}
