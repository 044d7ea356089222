package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"

	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// echoCommand makes this program the no-op server that is the floor for the handler: it uses the same framework, reads
// the body and sends a fixed answer.
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

// start starts a server and sends it a first request as soon as it listens. If output is not nil, it receives what the
// server prints.
func start(ctx context.Context, program, environment []string, first []byte, output io.Writer) (*server, error) {
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
	var complaints bytes.Buffer
	command.Stdout, command.Stderr = output, &complaints
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
			return nil, fmt.Errorf("%s does not answer: %s", program[0], complaints.String())
		}
		time.Sleep(200 * time.Microsecond)
	}
	if err := s.post(first); err != nil {
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

func (s *server) post(body []byte) error {
	response, err := s.client.Post(s.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, answer)
	}
	return err
}

// cpu returns the CPU seconds that the process has used, which the kernel counts in ticks of 10 ms.
func (s *server) cpu() (float64, error) {
	process, err := procfs.NewProc(s.command.Process.Pid)
	if err != nil {
		return 0, err
	}
	stat, err := process.Stat()
	return stat.CPUTime(), err
}

// residentMemory returns the resident memory of a process in bytes, now and at most so far.
func residentMemory(pid int) (now, most uint64, err error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0, err
	}
	status, err := process.NewStatus()
	return status.VmRSS, status.VmHWM, err
}

func megabytes(bytes uint64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/(1<<20)) }

// fullLoad keeps 16 connections busy for a while, and returns the number of requests and the CPU seconds of the server.
func (s *server) fullLoad(length time.Duration, body []byte) (requests int, cpu float64, err error) {
	before, err := s.cpu()
	if err != nil {
		return 0, 0, err
	}
	var made atomic.Int64
	var group errgroup.Group
	begin := time.Now()
	for range 16 {
		group.Go(func() error {
			for time.Since(begin) < length {
				if err := s.post(body); err != nil {
					return err
				}
				made.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	after, err := s.cpu()
	return int(made.Load()), after - before, err
}

func (b bench) usher(ctx context.Context, body []byte, environment ...string) (*server, error) {
	return start(ctx, []string{b.handler}, append([]string{"USHER_RULES=" + b.rules}, environment...), body, nil)
}

func (b bench) echo(ctx context.Context, body []byte, environment ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, []string{self, echoCommand}, environment, body, nil)
}

// byHand starts the tutorial's webhook that is written by hand. It returns exec.ErrNotFound if Node is not installed.
func (b bench) byHand(ctx context.Context) (*server, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	return start(ctx, []string{node, filepath.Join(b.repository, "bench/byhand.mjs")}, nil, b.requests["tutorial"], nil)
}

// servers compares the handler, and for the tutorial's request a webhook by hand, with a no-op server.
func servers(ctx context.Context, b bench) error {
	floor, err := b.echo(ctx, b.requests["trivial"])
	if err != nil {
		return err
	}
	defer floor.stop()
	bare, err := b.usher(ctx, b.requests["trivial"], "USHER_RECORD_SINKS=none", "USHER_LOG_LEVEL=error")
	if err != nil {
		return err
	}
	defer bare.stop()
	usher, err := b.usher(ctx, b.requests["trivial"])
	if err != nil {
		return err
	}
	defer usher.stop()
	byHand, err := b.byHand(ctx)
	switch {
	case err == nil:
		defer byHand.stop()
		// Node compiles what it has run often, in the background.
		if _, _, err := byHand.fullLoad(4*time.Second, b.requests["tutorial"]); err != nil {
			return err
		}
	case !errors.Is(err, exec.ErrNotFound):
		return err
	}
	idle, _, err := residentMemory(usher.command.Process.Pid)
	if err != nil {
		return err
	}
	b.rounds = min(b.rounds, 5)
	goals := map[string]string{"trivial": "≤ 1.8", "tutorial": "≤ 2.3, and ≤ by hand", "mediumt": "≤ 2.3", "larget": "≤ 4.5"}
	t := newTable("The server, 16 connections, CPU per request as a ratio to a no-op server; records, if any, go to standard output, which is discarded",
		"rule", "no-op", "without records", "ratio", "with records", "ratio", "goal")
	for _, name := range workloads {
		perRequest := func(s *server) func() (float64, error) {
			return func() (float64, error) {
				made, cpu, err := s.fullLoad(1500*time.Millisecond, b.requests[name])
				return cpu / float64(made), err
			}
		}
		compared := []func() (float64, error){perRequest(bare), perRequest(usher)}
		if name == "tutorial" && byHand != nil {
			compared = append(compared, perRequest(byHand))
		}
		cells, err := b.compare(perRequest(floor), compared...)
		if err != nil {
			return err
		}
		t.add(name, cells[0], cells[1], cells[2], cells[3], cells[4], goals[name])
		switch {
		case name != "tutorial":
		case byHand == nil:
			t.add("  by hand", "Node is not installed", "", "", "", "", "")
		default:
			t.add("  by hand, in Node", cells[0], cells[5], cells[6], "", "", "")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, most, err := residentMemory(usher.command.Process.Pid)
	if err != nil {
		return err
	}
	m := newTable("Memory of the handler (with the benchmark's rules and data of 1,000 tenants)", "resident", "", "goal")
	m.add("after the first answer", megabytes(idle), "≤ 40 MB")
	m.add("the most under the load above", megabytes(most), "≤ 80 MB")
	return m.Flush()
}

// latencies measures how long a caller waits at a steady rate and in a rush.
func latencies(ctx context.Context, b bench) error {
	t := newTable("Waiting times at 200 requests/s, open loop, one processor for the server: medians over the rounds, and the ratio of the p99",
		"rule", "no-op: p50", "p99", "usher: p50", "p99", "ratio", "goal")
	for _, name := range []string{"trivial", "mediumt", "larget"} {
		body := b.requests[name]
		var medians, tails [2][]float64 // of the no-op server and of Usher, in each round
		var servers [2]*server
		for i, run := range []func(context.Context, []byte, ...string) (*server, error){b.echo, b.usher} {
			var err error
			if servers[i], err = run(ctx, body, "GOMAXPROCS=1"); err != nil {
				return err
			}
			defer servers[i].stop()
		}
		p99, err := b.median(func() (float64, error) {
			for i, s := range servers {
				waits, err := s.openLoop(200, time.Second, body)
				if err != nil {
					return 0, err
				}
				medians[i] = append(medians[i], float64(percentile(waits, 0.5)))
				tails[i] = append(tails[i], float64(percentile(waits, 0.99)))
			}
			return tails[1][len(tails[1])-1] / tails[0][len(tails[0])-1], nil
		})
		if err != nil {
			return err
		}
		cell := func(waits []float64) string { return milli(time.Duration(median(waits))) }
		t.add(name, cell(medians[0]), cell(tails[0]), cell(medians[1]), cell(tails[1]), ratio(p99), "≤ 1.1")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	body := b.requests["mediumt"]
	s, err := b.usher(ctx, body, "GOMAXPROCS=1")
	if err != nil {
		return err
	}
	defer s.stop()
	var group sync.WaitGroup
	var failed atomic.Int64
	begin := time.Now()
	for range 500 {
		group.Go(func() {
			if s.post(body) != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	r := newTable("500 clients at once (mediumt, one processor)", "errors", "goal", "all answered after")
	r.add(fmt.Sprint(failed.Load()), "0", milli(time.Since(begin)))
	return r.Flush()
}

// openLoop sends requests at a fixed rate, whether or not answers come back, and returns the waiting times in ascending
// order, each from the moment that the request was due.
func (s *server) openLoop(perSecond int, length time.Duration, body []byte) ([]time.Duration, error) {
	waits := make([]time.Duration, int(length.Seconds()*float64(perSecond)))
	var group errgroup.Group
	begin := time.Now()
	for i := range waits {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(due))
		group.Go(func() error {
			err := s.post(body)
			waits[i] = time.Since(due)
			return err
		})
	}
	err := group.Wait()
	slices.Sort(waits)
	return waits, err
}

// starts measures the time from exec to the first decision.
func starts(ctx context.Context, b bench) error {
	many := filepath.Join(b.scratch, "many")
	requests, err := writeManyRules(b, many, 1000)
	if err != nil {
		return err
	}
	packed, err := packBundle(many, "")
	if err != nil {
		return err
	}
	info, err := os.Stat(b.handler)
	if err != nil {
		return err
	}
	var away atomic.Bool // makes one of two addresses fail
	bundles := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() && r.URL.Path == "/away.tar.gz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed))
	}))
	defer bundles.Close()
	t := newTable(fmt.Sprintf("From exec to the first decision (binary %.1f MB)", float64(info.Size())/(1<<20)),
		"rules", "USHER_RULES_CHECK", "time", "resident then", "goal")
	starter, bundle := filepath.Join(b.repository, "rules"), bundles.URL+"/rules.tar.gz"
	for _, c := range []struct{ name, rules, check, goal string }{
		{"starter rules", starter, "before", "≤ 17 ms"},
		{"starter rules", starter, "after", "≤ 17 ms"},
		{"1,000 packages", many, "before", ""},
		{"1,000 packages", many, "after", "≤ 42 ms"},
		{"1,000 packages, bundle downloaded", bundle, "before", ""},
		{"1,000 packages, bundle downloaded", bundle, "after", ""},
		{"1,000 packages, bundle on disk, unchanged", bundle, "after", ""},
		{"1,000 packages, bundle on disk, source away", bundles.URL + "/away.tar.gz", "after", ""},
	} {
		body := requests[0]
		if c.rules == starter {
			body = b.requests["tutorial"]
		}
		environment := []string{"USHER_RULES=" + c.rules, "USHER_RULES_CACHE=none"}
		if strings.Contains(c.name, "on disk") {
			// An earlier handler stores the bundle before its first answer, because it checks the rules before that.
			environment[1] = "USHER_RULES_CACHE=" + filepath.Join(b.scratch, "cache")
			away.Store(false)
			s, err := start(ctx, []string{b.handler}, environment, body, nil)
			if err != nil {
				return err
			}
			s.stop()
			away.Store(true)
		}
		var resident uint64
		elapsed, err := b.median(func() (float64, error) {
			s, err := start(ctx, []string{b.handler}, append(environment, "USHER_RULES_CHECK="+c.check), body, nil)
			if err != nil {
				return 0, err
			}
			defer s.stop()
			resident, _, err = residentMemory(s.command.Process.Pid)
			return float64(s.firstAnswer), err
		})
		if err != nil {
			return err
		}
		t.add(c.name, c.check, milli(time.Duration(elapsed)), megabytes(resident), c.goal)
	}
	return t.Flush()
}

func packBundle(folder, revision string) ([]byte, error) {
	fsys := os.DirFS(folder)
	names, err := ruleset.Files(fsys, false)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	err = rulebundle.Write(&packed, fsys, names, rulebundle.WriteOptions{Revision: revision})
	return packed.Bytes(), err
}

// swaps measures how replacing rules affects the calls meanwhile: 1,000 packages, and another bundle at each look, a
// second after the last one was in use.
func swaps(ctx context.Context, b bench) error {
	folder := filepath.Join(b.scratch, "swapped")
	const packages = 1000
	requests, err := writeManyRules(b, folder, packages)
	if err != nil {
		return err
	}
	// pack returns two bundles that differ in this many packages, among them the one that answers.
	pack := func(edited int) (bundles [2][]byte, err error) {
		for i := range bundles {
			for n := range edited {
				name := filepath.Join(folder, fmt.Sprintf("rule%d/edited.rego", n))
				if err := writeFile(name, fmt.Appendf(nil, "package allocation.rule%d\n\npayload := {\"edit\": %d}\n", n, i)); err != nil {
					return bundles, err
				}
			}
			if bundles[i], err = packBundle(folder, fmt.Sprint(i)); err != nil {
				return bundles, err
			}
		}
		return bundles, nil
	}
	var offered atomic.Pointer[[2][]byte]
	var looks atomic.Int64
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(offered.Load()[looks.Add(1)%2]) // if it fails, the look fails
	}))
	defer source.Close()
	first, err := pack(0)
	if err != nil {
		return err
	}
	first[1] = first[0]
	offered.Store(&first)
	s, err := start(ctx, []string{b.handler}, []string{"USHER_RULES=" + source.URL + "/rules.tar.gz", "USHER_RULES_CACHE=none",
		"USHER_RULES_POLL=1s", "USHER_LOG_LEVEL=error"}, requests[0], nil)
	if err != nil {
		return err
	}
	defer s.stop()
	t := newTable(fmt.Sprintf("500 requests/s, open loop, while rules are replaced (%d packages); a failed request would end the benchmark", packages),
		"packages edited", "bundles offered", "p50", "p99", "goal", "the longest", "CPU of a bundle", "failed", "goal")
	var floor float64
	for _, edited := range []int{-1, 0, 1, packages} {
		if edited >= 0 {
			bundles, err := pack(edited)
			if err != nil {
				return err
			}
			offered.Store(&bundles)
		}
		const length = 6 * time.Second
		before, begin := looks.Load(), time.Now()
		used, err := s.cpu()
		if err != nil {
			return err
		}
		waits, err := s.openLoop(500, length, requests[0])
		if err != nil {
			return err
		}
		now, err := s.cpu()
		if err != nil {
			return err
		}
		name, bundles, cost, goal := fmt.Sprint(edited), looks.Load()-before, "", "≤ 5 ms"
		switch edited {
		case -1:
			name, floor, goal = "none, the same bundle", now-used, ""
		case 0:
			name = "none, another revision"
			fallthrough
		default:
			at, err := s.activated()
			if err == nil && !at.After(begin) {
				err = fmt.Errorf("no rules were replaced since %s", at)
			}
			if err != nil {
				return err
			}
			cost = milli(time.Duration((now - used - floor) / float64(bundles) * float64(time.Second)))
		}
		t.add(name, fmt.Sprint(bundles), milli(percentile(waits, 0.5)), milli(percentile(waits, 0.99)), goal, milli(waits[len(waits)-1]), cost, "0", "0")
	}
	return t.Flush()
}

// activated returns when the server began to use its rules.
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
