package fleet_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/play/fleet"
)

// registrations writes a log of this many devices of ten groups on five hubs.
func registrations(n int) []byte {
	var log bytes.Buffer
	for i := range n {
		fmt.Fprintf(&log, `{"time":"2026-11-22T01:02:03Z","decision":{"outcome":"assigned","hub":"contoso-%d.azure-devices.net"},"request":`+
			`{"enrollmentGroup":{"enrollmentGroupId":"line-%d","attestation":{"type":"symmetricKey"},"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true},`+
			`"initialTwin":{"tags":{},"properties":{"desired":{}}},"allocationPolicy":"custom","iotHubs":["contoso-0.azure-devices.net"],"customAllocationDefinition":{"webhookUrl":"https://contoso.example/api/allocate","apiVersion":"2021-10-01"}},`+
			`"deviceRuntimeContext":{"registrationId":"press-%07d","symmetricKey":{},"payload":{"serial":"%x","site":"plant-%d"}},`+
			`"linkedHubs":["contoso-0.azure-devices.net","contoso-1.azure-devices.net","contoso-2.azure-devices.net","contoso-3.azure-devices.net","contoso-4.azure-devices.net"]}}`+"\n",
			i%5, i%10, i, i*7919, i%37)
	}
	return log.Bytes()
}

func BenchmarkOpen100000(b *testing.B) {
	const n = 100_000
	name := filepath.Join(b.TempDir(), "fleet.ndjson")
	text := registrations(n)
	if err := os.WriteFile(name, text, 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	text = nil
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		f := open(b, name)
		f.Refresh(b.Context())
		if got := f.State(); got.Devices != n || got.Problems != 0 {
			b.Fatalf("got %+v", got)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(f)
		f.Close()
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/registration")
}

func BenchmarkReplay(b *testing.B) {
	const n = 20_000
	name := filepath.Join(b.TempDir(), "fleet.ndjson")
	if err := os.WriteFile(name, registrations(n), 0o600); err != nil {
		b.Fatal(err)
	}
	f := open(b, name)
	f.Refresh(b.Context())
	rules := rulesOf(b, "hub := input.linkedHubs[0]")
	for b.Loop() {
		report, err := f.Replay(context.Background(), replay.Options{Rules: rules, ByDevice: true})
		if err != nil || report.Registrations != n {
			b.Fatal(report, err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
}

func open(t testing.TB, names ...string) *fleet.Fleet {
	t.Helper()
	var sources []fleet.Source
	for _, name := range names {
		file, err := fleet.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, file)
	}
	f, err := fleet.New(sources...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
