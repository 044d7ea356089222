package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// echoCommand makes this program the no-op server that others are measured
// against: the same framework, reads the body, answers a fixed one.
const echoCommand = "echo-server"

func runEcho() {
	e := echo.New()
	answer := []byte(`{"iotHubHostName":"contoso-toasters.azure-devices.net"}`)
	e.POST("/api/allocate", func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return err
		}
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, answer)
	})
	e.GET("/", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	if err := http.ListenAndServe(os.Getenv("USHER_LISTEN"), e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// server is a process under measurement.
type server struct {
	url     string
	command *exec.Cmd
	client  *http.Client
	// firstAnswer is the time from exec to the first answer to a request.
	firstAnswer time.Duration
}

// start runs a server and asks it until it answers. Its output is lost.
func start(ctx context.Context, program []string, environment []string, first []byte) (*server, error) {
	return launch(ctx, program, environment, first, nil)
}

// launch is start with somebody who reads the server's output through a pipe, unless nil.
func launch(ctx context.Context, program []string, environment []string, first []byte, output io.Writer) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, program[0], program[1:]...)
	command.Env = append(append(os.Environ(), environment...), "USHER_LISTEN="+address)
	var errors bytes.Buffer
	command.Stdout, command.Stderr = output, &errors
	s := &server{url: "http://" + address + "/api/allocate", command: command, client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 1000},
		Timeout:   30 * time.Second,
	}}
	begin := time.Now()
	if err := command.Start(); err != nil {
		return nil, err
	}
	for {
		if connection, err := net.Dial("tcp", address); err == nil {
			connection.Close()
			break
		}
		if time.Since(begin) > 30*time.Second {
			s.stop()
			return nil, fmt.Errorf("%s does not answer: %s", program[0], errors.String())
		}
		time.Sleep(200 * time.Microsecond)
	}
	if _, err := s.post(first); err != nil {
		s.stop()
		return nil, fmt.Errorf("%s: %w", program[0], err)
	}
	s.firstAnswer = time.Since(begin)
	return s, nil
}

func (s *server) stop() {
	_ = s.command.Process.Kill()
	_ = s.command.Wait()
}

func (s *server) post(body []byte) (time.Duration, error) {
	begin := time.Now()
	response, err := s.client.Post(s.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, answer)
	}
	return time.Since(begin), err
}

// cpu reads what the process has used, in seconds, from the kernel (ticks of
// 10 ms).
func (s *server) cpu() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, err := strconv.ParseFloat(fields[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100, err
}

// memory reads VmRSS, or VmHWM for the most there ever was.
func (s *server) memory(name string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.command.Process.Pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kilobytes, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return fmt.Sprintf("%d MB", kilobytes>>10), err
		}
	}
	return "", fmt.Errorf("no %s", name)
}

// closed keeps connections busy for a while and returns the requests made.
func (s *server) closed(connections int, length time.Duration, body []byte) (int, error) {
	var group sync.WaitGroup
	made := make([]int, connections)
	failures := make([]error, connections)
	begin := time.Now()
	for i := range connections {
		group.Go(func() {
			for time.Since(begin) < length {
				if _, err := s.post(body); err != nil {
					failures[i] = err
					return
				}
				made[i]++
			}
		})
	}
	group.Wait()
	total := 0
	for i := range made {
		if failures[i] != nil {
			return 0, failures[i]
		}
		total += made[i]
	}
	return total, nil
}

// perRequest is the CPU that the server uses for one request.
func (s *server) perRequest(body []byte) (float64, error) {
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	made, err := s.closed(16, 1500*time.Millisecond, body)
	if err != nil {
		return 0, err
	}
	after, err := s.cpu()
	return (after - before) / float64(made), err
}

func (b bench) usher(ctx context.Context, body []byte, environment ...string) (*server, error) {
	return start(ctx, []string{b.handler}, append([]string{"USHER_RULES=" + b.rules}, environment...), body)
}

func (b bench) echo(ctx context.Context, body []byte, environment ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, []string{self, echoCommand}, environment, body)
}

// servers compares the handler with a no-op server.
func servers(ctx context.Context, b bench) error {
	body := b.workloads[0].body
	floor, err := b.echo(ctx, body)
	if err != nil {
		return err
	}
	defer floor.stop()
	usher, err := b.usher(ctx, body)
	if err != nil {
		return err
	}
	defer usher.stop()
	idle, err := usher.memory("VmRSS")
	if err != nil {
		return err
	}
	goals := map[string]float64{"trivial": 3, "mediumt": 8, "larget": 10}
	t := table{title: "The server, 16 connections, CPU per request as a ratio to a no-op server"}
	t.add("rule", "no-op", "usher", "ratio", "goal")
	for _, w := range b.workloads {
		var noops, ours, ratios []float64
		for range min(b.rounds, 5) {
			n, err := floor.perRequest(w.body)
			if err != nil {
				return err
			}
			u, err := usher.perRequest(w.body)
			if err != nil {
				return err
			}
			noops, ours, ratios = append(noops, n), append(ours, u), append(ratios, u/n)
		}
		goal := ""
		if g, ok := goals[w.name]; ok {
			goal = atMost(g)
		}
		t.add(w.name, micro(median(noops)), micro(median(ours)), ratio(median(ratios)), goal)
	}
	t.print()
	most, err := usher.memory("VmHWM")
	if err != nil {
		return err
	}
	m := table{title: "Memory of the handler (with the benchmark's rules and data of 1,000 tenants)"}
	m.add("resident", "", "goal")
	m.add("after the first answer", idle, "≤ 40 MB")
	m.add("the most under the load above", most, "≤ 80 MB")
	m.print()
	return nil
}

// latencies measures what a caller waits at a steady rate, and a rush.
func latencies(ctx context.Context, b bench) error {
	t := table{title: "Waiting times at 200 requests/s, open loop, one processor for the server"}
	t.add("rule", "server", "p50", "p99", "p99.9", "goal for p99")
	for _, name := range []string{"trivial", "mediumt", "larget"} {
		w := b.workloads[slices.Index(workloadNames, name)]
		for _, kind := range []string{"no-op", "usher"} {
			run, goal := b.echo, ""
			if kind == "usher" {
				run, goal = b.usher, "≤ 2 ms"
			}
			s, err := run(ctx, w.body, "GOMAXPROCS=1")
			if err != nil {
				return err
			}
			waits, err := s.open(200, 5*time.Second, w.body)
			s.stop()
			if err != nil {
				return err
			}
			t.add(name, kind, milli(percentile(waits, 0.5)), milli(percentile(waits, 0.99)), milli(percentile(waits, 0.999)), goal)
		}
	}
	t.print()

	w := b.workloads[slices.Index(workloadNames, "mediumt")]
	s, err := b.usher(ctx, w.body, "GOMAXPROCS=1")
	if err != nil {
		return err
	}
	defer s.stop()
	var group sync.WaitGroup
	failures := make(chan error, 500)
	begin := time.Now()
	for range 500 {
		group.Go(func() {
			if _, err := s.post(w.body); err != nil {
				failures <- err
			}
		})
	}
	group.Wait()
	r := table{title: "500 clients at once (mediumt, one processor)"}
	r.add("errors", "goal", "all answered after")
	r.add(fmt.Sprint(len(failures)), "0", milli(time.Since(begin)))
	r.print()
	return nil
}

// open sends at a fixed rate whatever comes back, and counts each wait from
// the moment that the request was due.
func (s *server) open(perSecond int, length time.Duration, body []byte) ([]time.Duration, error) {
	total := int(length.Seconds() * float64(perSecond))
	waits := make([]time.Duration, total)
	failures := make([]error, total)
	var group sync.WaitGroup
	begin := time.Now()
	for i := range total {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(due))
		group.Go(func() {
			_, failures[i] = s.post(body)
			waits[i] = time.Since(due)
		})
	}
	group.Wait()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(waits)
	return waits, nil
}

// starts measures the time from exec to the first decision.
func starts(ctx context.Context, b bench) error {
	many := filepath.Join(b.scratch, "many")
	if err := writeMany(many, 1000); err != nil {
		return err
	}
	group0 := bodiesFor(b, 1)[0]
	tutorial := b.workloads[slices.Index(workloadNames, "tutorial")].body
	info, err := os.Stat(b.handler)
	if err != nil {
		return err
	}
	bundles, err := serveBundle(many)
	if err != nil {
		return err
	}
	defer bundles.Close()
	bundle, away := bundles.URL+"/rules.tar.gz", bundles.URL+"/away.tar.gz"
	t := table{title: fmt.Sprintf("From exec to the first decision (binary %.1f MB)", float64(info.Size())/(1<<20))}
	t.add("rules", "USHER_RULES_CHECK", "time", "resident then", "goal")
	cache := filepath.Join(b.scratch, "cache")
	for _, c := range []struct{ name, folder, check, goal string }{
		{"starter rules", filepath.Join(b.repository, "rules"), "before", "≤ 25 ms"},
		{"starter rules", filepath.Join(b.repository, "rules"), "after", "≤ 25 ms"},
		{"1,000 packages", many, "before", ""},
		{"1,000 packages", many, "after", "≤ 60 ms"},
		{"1,000 packages, bundle downloaded", bundle, "before", ""},
		{"1,000 packages, bundle downloaded", bundle, "after", ""},
		{"1,000 packages, bundle on disk, unchanged", bundle, "after", ""},
		{"1,000 packages, bundle on disk, source away", away, "after", ""},
	} {
		kept := "none"
		if strings.Contains(c.name, "on disk") {
			kept = cache
			if err := keepOnDisk(ctx, b, c.folder, kept, bundles, group0); err != nil {
				return err
			}
		}
		body := group0
		if c.name == "starter rules" {
			body = tutorial
		}
		var times []float64
		var resident string
		for range b.rounds {
			s, err := start(ctx, []string{b.handler}, []string{"USHER_RULES=" + c.folder, "USHER_RULES_CHECK=" + c.check, "USHER_RULES_CACHE=" + kept}, body)
			if err != nil {
				return err
			}
			times = append(times, float64(s.firstAnswer))
			resident, err = s.memory("VmRSS")
			s.stop()
			if err != nil {
				return err
			}
		}
		t.add(c.name, c.check, milli(time.Duration(median(times))), resident, c.goal)
	}
	t.print()
	return nil
}

// bundleServer offers a bundle, at two addresses of which one can go away.
type bundleServer struct {
	*httptest.Server
	away atomic.Bool
}

func serveBundle(folder string) (*bundleServer, error) {
	fsys := os.DirFS(folder)
	names, err := ruleset.Files(fsys, false)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	if err := rulebundle.Write(&packed, fsys, names, rulebundle.WriteOptions{}); err != nil {
		return nil, err
	}
	s := new(bundleServer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.away.Load() && r.URL.Path == "/away.tar.gz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed.Bytes()))
	}))
	return s, nil
}

// keepOnDisk has a handler keep the bundle, as one that ran before has done.
func keepOnDisk(ctx context.Context, b bench, url, folder string, bundles *bundleServer, body []byte) error {
	bundles.away.Store(false)
	s, err := start(ctx, []string{b.handler}, []string{"USHER_RULES=" + url, "USHER_RULES_CACHE=" + folder}, body)
	if err != nil {
		return err
	}
	s.stop() // with USHER_RULES_CHECK=before it was kept before the first answer
	bundles.away.Store(true)
	return nil
}

// swaps measures what callers feel of rules that are replaced while they call:
// 1,000 packages, another bundle at each look, once a second.
func swaps(ctx context.Context, b bench) error {
	folder := filepath.Join(b.scratch, "swapped")
	if err := writeMany(folder, 1000); err != nil {
		return err
	}
	fsys := os.DirFS(folder)
	names, err := ruleset.Files(fsys, false)
	if err != nil {
		return err
	}
	var bundles [2][]byte
	for i := range bundles {
		var packed bytes.Buffer
		if err := rulebundle.Write(&packed, fsys, names, rulebundle.WriteOptions{Revision: fmt.Sprint(i)}); err != nil {
			return err
		}
		bundles[i] = packed.Bytes()
	}
	var changing atomic.Bool
	var looks atomic.Int64
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if changing.Load() {
			looks.Add(1)
		}
		_, _ = w.Write(bundles[looks.Load()%2]) // a write that fails shows as a failed look
	}))
	defer source.Close()
	body := bodiesFor(b, 1)[0]
	s, err := start(ctx, []string{b.handler}, []string{"USHER_RULES=" + source.URL + "/rules.tar.gz", "USHER_RULES_CACHE=none",
		"USHER_RULES_POLL=1s", "USHER_LOG_LEVEL=error"}, body)
	if err != nil {
		return err
	}
	defer s.stop()
	t := table{title: "500 requests/s, open loop, while rules are replaced (1,000 packages); one that fails would end the benchmark"}
	t.add("rules", "bundles offered", "p50", "p99", "the longest", "failed", "goal")
	for _, change := range []bool{false, true} {
		changing.Store(change)
		before, begin := looks.Load(), time.Now()
		waits, err := s.open(500, 6*time.Second, body)
		if err != nil {
			return err
		}
		name := "unchanged"
		if change {
			name = "replaced"
			at, err := s.activated()
			if err == nil && !at.After(begin) {
				err = fmt.Errorf("no rules were replaced since %s", at)
			}
			if err != nil {
				return err
			}
		}
		t.add(name, fmt.Sprint(looks.Load()-before), milli(percentile(waits, 0.5)), milli(percentile(waits, 0.99)), milli(waits[len(waits)-1]), "0", "0")
	}
	t.print()
	return nil
}

// activated is when the rules in use were put into use.
func (s *server) activated() (time.Time, error) {
	response, err := s.client.Get(strings.TrimSuffix(s.url, "/api/allocate") + "/readyz")
	if err != nil {
		return time.Time{}, err
	}
	defer response.Body.Close()
	var answer struct {
		Details struct{ Rules struct{ Activated time.Time } }
	}
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer.Details.Rules.Activated, err
}
