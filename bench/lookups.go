package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/snapshot"
)

// snapshotRows is how many rows the snapshot has.
const snapshotRows = 1_000_000

// lookedUp declares the look-up of the benchmark.
const lookedUp = `device:
  row: {type: object, required: [open], properties: {open: {type: boolean}, tenant: {type: string}, lot: {type: integer}}}
  ttl: %s
`

// lookupsSection compares mediumt with the same rule behind a look-up, from each kind of source.
func lookupsSection(ctx context.Context, b bench) error {
	table, made, err := b.writeSnapshot(ctx)
	if err != nil {
		return err
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"open": true, "tenant": "contoso", "lot": 7}`)
	}))
	defer service.Close()
	kinds := []lookedUpKind{
		{name: "none", group: "bench-mediumt"},
		{name: "in memory", group: "bench-looked", ttl: "1h", environment: []string{"USHER_LOOKUP_DEVICE=" + service.URL + "/{key}"}},
		{name: fmt.Sprintf("a snapshot of %d rows", snapshotRows), group: "bench-looked", ttl: "0s", environment: []string{"USHER_LOOKUP_DEVICE=" + table}},
	}
	switch address, stop, err := startDatabase(ctx); {
	case errors.Is(err, errNoDatabase):
		fmt.Println("\nPostgreSQL is not installed: its row is left out")
	case err != nil:
		return err
	default:
		defer stop()
		kinds = append(kinds, lookedUpKind{name: "PostgreSQL, each time", group: "bench-looked", ttl: "0s", environment: []string{
			"USHER_LOOKUP_DEVICE=" + address, "USHER_LOOKUP_DEVICE_QUERY=SELECT open, tenant, lot FROM devices WHERE id = $1"}})
	}
	b.rounds = min(b.rounds, 5)
	t := newTable("mediumt with a look-up: CPU per request as a ratio to that without, 16 connections; waiting times at 200 requests/s, one processor",
		"look-up", "CPU", "ratio", "p50", "p99", "ratio")
	var floorWait time.Duration
	var floor *server
	for i, kind := range kinds {
		rules, err := b.lookedUpRules(kind)
		if err != nil {
			return err
		}
		body := []byte(strings.Replace(string(b.requests["mediumt"]), "bench-mediumt", kind.group, 1))
		environment := append(kind.environment, "USHER_RULES="+rules, "USHER_LOOKUPS_FOLDER="+filepath.Join(b.scratch, "kept"), "USHER_LOG_LEVEL=error")
		s, err := start(ctx, []string{b.handler}, environment, body, nil)
		if err != nil {
			return err
		}
		defer s.stop()
		if i == 0 {
			floor = s
		}
		plain := b.requests["mediumt"]
		perRequest := func(s *server, body []byte) func() (float64, error) {
			return func() (float64, error) {
				made, cpu, err := s.fullLoad(1500*time.Millisecond, body)
				return cpu / float64(made), err
			}
		}
		cells, err := b.compare(perRequest(floor, plain), perRequest(s, body))
		if err != nil {
			return err
		}
		alone, err := start(ctx, []string{b.handler}, append(environment, "GOMAXPROCS=1"), body, nil)
		if err != nil {
			return err
		}
		waits, err := alone.openLoop(200, 5*time.Second, body)
		alone.stop()
		if err != nil {
			return err
		}
		p99 := percentile(waits, 0.99)
		if i == 0 {
			floorWait = p99
		}
		t.add(kind.name, cells[1], cells[2], milli(percentile(waits, 0.5)), milli(p99), ratio(float64(p99)/float64(floorWait)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return b.lookedUpStart(ctx, table, made)
}

// lookedUpKind is a source that rules are compared with.
type lookedUpKind struct {
	name, group, ttl string
	environment      []string
}

// lookedUpRules writes a folder with mediumt and, unless the kind has no look-up, the same rule behind one.
func (b bench) lookedUpRules(kind lookedUpKind) (string, error) {
	folder := filepath.Join(b.scratch, "looked-up", strings.ReplaceAll(kind.name, " ", "-"))
	text, err := files.ReadFile("rules/mediumt/mediumt.rego")
	if err != nil {
		return "", err
	}
	if err := writeFile(filepath.Join(folder, "mediumt.rego"), text); err != nil || kind.ttl == "" {
		return folder, err
	}
	behind := strings.NewReplacer("bench-mediumt", "bench-looked", "allocation.mediumt", "allocation.looked",
		"hub := model.hub", "device := lookup.device(input.deviceRuntimeContext.registrationId)\n\nhub := model.hub if device.open").Replace(string(text))
	if err := writeFile(filepath.Join(folder, "looked.rego"), []byte(behind)); err != nil {
		return "", err
	}
	return folder, writeFile(filepath.Join(folder, "lookups.yaml"), fmt.Appendf(nil, lookedUp, kind.ttl))
}

// writeSnapshot makes a snapshot that has a row for the benchmark's device, and returns how long that took.
func (b bench) writeSnapshot(ctx context.Context) (name string, took time.Duration, err error) {
	declared, problems := lookups.Declare("", []lookups.File{{Name: "lookups.yaml", Text: fmt.Appendf(nil, lookedUp, "0s")}})
	if len(problems) > 0 {
		return "", 0, errors.New(problems[0].Message)
	}
	var table bytes.Buffer
	w := bufio.NewWriter(&table)
	fmt.Fprintln(w, "key,open,tenant,lot")
	fmt.Fprintln(w, "breakroom499-contoso-tstrsd-007,true,contoso,7")
	for i := range snapshotRows - 1 {
		fmt.Fprintf(w, "device-%07d,%t,tenant-%03d,%d\n", i, i%10 > 0, i%tenants, i/100)
	}
	if err := w.Flush(); err != nil {
		return "", 0, err
	}
	name = filepath.Join(b.scratch, "devices.sqlite")
	begin := time.Now()
	_, _, err = snapshot.Build(ctx, &table, "devices.csv", declared[0], name)
	return name, time.Since(begin), err
}

// lookedUpStart measures a start with a snapshot, the first time and when it is on disk.
func (b bench) lookedUpStart(ctx context.Context, table string, made time.Duration) error {
	rules, err := b.lookedUpRules(lookedUpKind{name: "start", group: "bench-looked", ttl: "0s"})
	if err != nil {
		return err
	}
	body := []byte(strings.Replace(string(b.requests["mediumt"]), "bench-mediumt", "bench-looked", 1))
	t := newTable(fmt.Sprintf("From exec to the first decision, with a snapshot of %d rows (made of CSV in %.0f s)", snapshotRows, made.Seconds()),
		"snapshot", "time", "resident after the load")
	for _, name := range []string{"arrives", "is on disk"} {
		s, err := start(ctx, []string{b.handler}, []string{"USHER_RULES=" + rules, "USHER_LOOKUP_DEVICE=" + table,
			"USHER_LOOKUPS_FOLDER=" + filepath.Join(b.scratch, "started"), "USHER_LOG_LEVEL=error"}, body, nil)
		if err != nil {
			return err
		}
		_, _, err = s.fullLoad(2*time.Second, body)
		if err != nil {
			return err
		}
		resident, _, err := residentMemory(s.command.Process.Pid)
		s.stop()
		if err != nil {
			return err
		}
		t.add(name, milli(s.firstAnswer), megabytes(resident))
	}
	return t.Flush()
}

// fillDatabase makes the table that the benchmark looks up.
func fillDatabase(ctx context.Context, connection *pgx.Conn) error {
	for _, statement := range []string{
		"CREATE TABLE devices (id text PRIMARY KEY, open boolean NOT NULL, tenant text, lot integer)",
		"INSERT INTO devices SELECT 'device-' || i, i % 10 > 0, 'tenant-' || i % 1000, i / 100 FROM generate_series(1, 100000) AS i",
		"INSERT INTO devices VALUES ('breakroom499-contoso-tstrsd-007', true, 'contoso', 7)",
		"ANALYZE devices",
	} {
		if _, err := connection.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// socketAddress is the URL of a database that listens on a socket in a folder.
func socketAddress(folder string, port int) string {
	return "postgres://postgres@/postgres?" + url.Values{"host": {folder}, "port": {strconv.Itoa(port)}}.Encode()
}

// errNoDatabase says that PostgreSQL is not installed.
var errNoDatabase = errors.New("PostgreSQL is not installed")
