package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usher-dps/usher/handler"
)

// The test binary can be the handler, or a host that starts the handler.
const (
	modeVariable = "USHER_TEST_MODE"
	modeHandler  = "handler"
	modeHost     = "host"
	// modeGoroutines answers a request and prints what runs.
	modeGoroutines = "goroutines"
)

func TestMain(m *testing.M) {
	switch os.Getenv(modeVariable) {
	case modeHandler:
		main()
	case modeHost:
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), modeVariable+"="+modeHandler)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			panic(err)
		}
		time.Sleep(time.Hour) // until killed
	case modeGoroutines:
		printGoroutines()
	default:
		os.Exit(m.Run())
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func rulesFolder(t *testing.T, rule string) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "default.rego"), []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

const firstHub = "package allocation.default\n\nhub := input.linkedHubs[0]\n"

const requestBody = `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a.azure-devices.net"]}`

// output is a log that can be waited for.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines chan map[string]any
}

func newOutput() *output { return &output{lines: make(chan map[string]any, 100)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		line = map[string]any{"msg": "not JSON: " + string(p)}
	}
	o.lines <- line
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) wait(t *testing.T, message string) map[string]any {
	t.Helper()
	for {
		select {
		case line := <-o.lines:
			if line["msg"] == message {
				return line
			}
		case <-t.Context().Done():
			t.Fatalf("no line %q in %s", message, &o.text)
		case <-time.After(20 * time.Second):
			t.Fatalf("no line %q in %s", message, &o.text)
		}
	}
}

func TestServesAndDrains(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		environment map[string]string
		want        error
	}{
		"on its own":               {map[string]string{settingListen: "127.0.0.1:0"}, nil},
		"under the Functions host": {map[string]string{settingHostPort: freePort(t)}, errStoppedByHost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.environment[settingRules] = rulesFolder(t, firstHub)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			log := newOutput()
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, variables(c.environment), nil, log) }()
			address := log.wait(t, "serving")["address"].(string)

			// A request that is half sent when the program is told to stop.
			connection, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer connection.Close()
			fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", handler.AllocatePath, len(requestBody))
			reader := bufio.NewReader(connection)
			// The server asks for the body once the handler reads it: it is in flight.
			if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
				t.Fatalf("got %q, %v", line, err)
			}
			if _, err := reader.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			stop()
			fmt.Fprint(connection, requestBody)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			answer, _ := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusOK || string(answer) != `{"iotHubHostName":"a.azure-devices.net"}` {
				t.Errorf("got %d %s", response.StatusCode, answer)
			}
			if err := <-ended; !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("ended with %v, want %v", err, c.want)
			}
			if code := exitCode(c.want); (c.want == nil) != (code == 0) || code == 200 {
				t.Errorf("exit status %d", code)
			}
		})
	}
}

// TestBadStarts: nothing listens, and the error names the place.
func TestBadStarts(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { busy.Close() })
	file := filepath.Join(rulesFolder(t, firstHub), "default.rego")
	for name, c := range map[string]struct {
		environment map[string]string
		want        []string
	}{
		"no rules folder":         {map[string]string{settingRules: "/nowhere"}, []string{"USHER_RULES", "/nowhere"}},
		"a file in place of one":  {map[string]string{settingRules: file}, []string{"USHER_RULES", file}},
		"an empty folder":         {map[string]string{settingRules: t.TempDir()}, []string{"no rule serves any enrollment", "custom.enrollment_groups"}},
		"a rule with an error":    {map[string]string{settingRules: rulesFolder(t, "package allocation.default\n\nhub := inptu.x\n")}, []string{"default.rego:3"}},
		"a misspelt member":       {map[string]string{settingRules: rulesFolder(t, "package allocation.default\n\nhub := input.linkedhubs[0]\n")}, []string{"default.rego:3", "linkedHubs"}},
		"a built-in that is off":  {map[string]string{settingRules: rulesFolder(t, "package allocation.default\n\nhub := input.linkedHubs[time.now_ns() % 2]\n")}, []string{"default.rego:3", "USHER_RULES_BUILTINS"}},
		"a busy port":             {map[string]string{settingListen: busy.Addr().String(), settingRules: rulesFolder(t, firstHub)}, []string{"USHER_LISTEN", busy.Addr().String()}},
		"an unknown built-in":     {map[string]string{settingRules: rulesFolder(t, firstHub), settingRulesBuiltins: "time.nowns"}, []string{`"time.nowns"`}},
		"a setting that is wrong": {map[string]string{settingRules: rulesFolder(t, firstHub), settingLogLevel: "x"}, []string{"USHER_LOG_LEVEL"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.environment[settingListen] == "" {
				c.environment[settingListen] = "127.0.0.1:" + freePort(t)
			}
			log := newOutput()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // should it serve after all
			defer cancel()
			err := run(ctx, variables(c.environment), nil, log)
			if err == nil || exitCode(err) == 0 || exitCode(err) == 200 {
				t.Fatalf("ended with %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if log.text.Len() > 0 {
				t.Errorf("logged: %s", &log.text)
			}
			if c.environment[settingListen] != busy.Addr().String() {
				if connection, err := net.Dial("tcp", c.environment[settingListen]); err == nil {
					connection.Close()
					t.Error("it listens, though it cannot serve")
				}
			}
		})
	}
}

func TestRulesCheckedAfterTheStart(t *testing.T) {
	t.Parallel()
	for rule, message := range map[string]string{
		firstHub: "rules compiled",
		"package allocation.default\n\nhub := inptu.x\n": "rules do not compile",
	} {
		log := newOutput()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, variables(map[string]string{settingListen: "127.0.0.1:0", settingRules: rulesFolder(t, rule), settingRulesCheck: checkAfter}), nil, log)
		}()
		log.wait(t, "serving")
		line := log.wait(t, message)
		if message == "rules do not compile" && !strings.Contains(fmt.Sprint(line["error"]), "default.rego:3") {
			t.Errorf("logged %v", line)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestExitWithParent(t *testing.T) {
	t.Parallel()
	tick := make(chan time.Time, 10)
	parent := 4711
	status := make(chan int, 1)
	asked := 0
	for range 3 {
		tick <- time.Time{}
	}
	exitWithParent(parent, func() int {
		asked++
		if asked == 3 {
			parent = 1
		}
		return parent
	}, tick, func(code int) { status <- code })
	if code := <-status; code == 0 || code == 200 {
		t.Errorf("exit status %d", code)
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

// TestNoOrphan kills a real host and sees its handler end.
func TestNoOrphan(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a process has no parent there once that has died")
	}
	port := freePort(t)
	host := exec.CommandContext(t.Context(), os.Args[0])
	host.Env = append(os.Environ(), modeVariable+"="+modeHost, settingHostPort+"="+port, settingRules+"="+rulesFolder(t, firstHub))
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	handlerOutput := bufio.NewReader(stdout)
	if line, err := handlerOutput.ReadString('\n'); err != nil || !strings.Contains(line, `"msg":"serving"`) {
		t.Fatalf("the handler said %q, %v", line, err)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The handler holds the other end of the pipe: its end is the handler's.
	if rest, err := io.ReadAll(handlerOutput); err != nil {
		t.Errorf("%s, %v", rest, err)
	}
	if connection, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		connection.Close()
		t.Error("the handler still serves")
	}
	_ = host.Wait()
}

// TestProgram runs the program itself: streams and exit status.
func TestProgram(t *testing.T) {
	t.Parallel()
	program := exec.CommandContext(t.Context(), os.Args[0])
	program.Env = append(os.Environ(), modeVariable+"="+modeHandler, settingListen+"=127.0.0.1:0", settingRules+"=/nowhere")
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	err := program.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
	if stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "usher: USHER_RULES: ") {
		t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
	}

	program = exec.CommandContext(t.Context(), os.Args[0])
	program.Env = append(os.Environ(), modeVariable+"="+modeHandler, settingListen+"=127.0.0.1:0", settingRules+"="+rulesFolder(t, firstHub))
	pipe, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr.Reset()
	program.Stderr = &stderr
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(pipe)
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, `"msg":"serving"`) {
		t.Fatalf("said %q, %v", line, err)
	}
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Error(err)
	}
	if err := program.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("told to stop, ended with %v, stderr %q", err, &stderr)
	}
}

// Asked for help, the handler prints it and starts nothing.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"--help", "-h", "help"} {
		command := exec.CommandContext(t.Context(), os.Args[0], arg)
		command.Env = append(os.Environ(), modeVariable+"="+modeHandler)
		out, err := command.Output()
		if err != nil || !strings.HasPrefix(string(out), "handler is the webhook that DPS calls") {
			t.Errorf("%s: %v\n%s", arg, err, out)
		}
	}
}
