package doctor_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/operate/doctor"
	"github.com/usher-dps/usher/internal/operate/enrollment"
)

// The first answer that is timed comes from the handler: without a key the Functions host answers by itself, however
// long the handler takes to start.
func TestColdStartOfTheHandler(t *testing.T) {
	t.Parallel()
	const key = "function-key-of-the-test"
	var clock atomic.Int64 // nanoseconds
	started := false       // requests are sequential
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("code") != key {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !started {
			started = true
			clock.Add(int64(7 * time.Second))
		}
		w.WriteHeader(http.StatusBadRequest)
	}))
	t.Cleanup(server.Close)
	webhook := enrollment.Webhook{URL: server.URL + "/api/allocate?code=" + key, APIVersion: enrollment.DefaultAPIVersion}
	group := enrollment.Target{Webhook: webhook}.Apply(enrollment.New(enrollment.Group, "line-a", enrollment.SymmetricKey()))
	report, err := doctor.Examine(t.Context(), doctor.Options{
		Enrollments: []enrollment.Enrollment{group},
		Webhook:     webhook,
		Client:      server.Client(),
		Now:         func() time.Time { return time.Unix(0, clock.Load()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Probe == nil || report.Probe.ColdMs != 7000 || report.Probe.WarmMs != 0 {
		t.Errorf("probe %+v", report.Probe)
	}
	if !slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool { return f.ID == "cold" }) {
		t.Errorf("no cold start in %+v", report.Findings)
	}
}

// Plain HTTP matters where calls leave the machine.
func TestInsecure(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"http://usher.example/api/allocate": true, "http://192.0.2.1:7071/api/allocate": true, "http://localhost.example/api/allocate": true,
		"https://usher.example/api/allocate": false, "http://localhost:7071/api/allocate": false, "http://127.0.0.1:7071/api/allocate": false,
		"http://127.1.2.3/api/allocate": false, "http://[::1]:7071/api/allocate": false,
	} {
		webhook := enrollment.Webhook{URL: address, APIVersion: enrollment.DefaultAPIVersion}
		group := enrollment.Target{Webhook: webhook}.Apply(enrollment.New(enrollment.Group, "line-a", enrollment.SymmetricKey()))
		report, err := doctor.Examine(t.Context(), doctor.Options{Enrollments: []enrollment.Enrollment{group}, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool { return f.ID == "webhook-insecure" }); got != want {
			t.Errorf("%s: findings %+v", address, report.Findings)
		}
		if refused := (enrollment.Target{Webhook: webhook}).Check() != nil; refused != want {
			t.Errorf("%s: enrolling is refused: %t", address, refused)
		}
	}
}
