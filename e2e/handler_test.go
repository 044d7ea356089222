package e2e_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usher-dps/usher/handler"
)

// running is the handler as a process.
type running struct {
	t       *testing.T
	command *exec.Cmd
	url     string // of the webhook, without a key
	key     string // a secret
	metrics string // URL
	done    chan struct{}

	mu     sync.Mutex
	stdout bytes.Buffer
	stderr bytes.Buffer
	seen   bytes.Buffer // all answers
}

// launch starts the handler with only these settings, and waits until it serves.
func launch(t *testing.T, settings map[string]string) *running {
	t.Helper()
	r := &running{t: t, key: settings["USHER_FUNCTION_KEYS"], done: make(chan struct{})}
	r.command = exec.Command(program(t, "handler"))
	for name, value := range settings {
		r.command.Env = append(r.command.Env, name+"="+value)
	}
	r.command.Env = append(r.command.Env, "USHER_LISTEN=127.0.0.1:0", "USHER_METRICS_LISTEN=127.0.0.1:0", "PATH="+os.Getenv("PATH"), "HOME="+t.TempDir())
	stdout, err := r.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := r.command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for pipe, into := range map[io.Reader]*bytes.Buffer{stdout: &r.stdout, stderr: &r.stderr} {
		readers.Go(func() {
			lines := bufio.NewReader(pipe)
			for {
				line, err := lines.ReadBytes('\n')
				r.mu.Lock()
				into.Write(line)
				r.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	go func() {
		readers.Wait()
		close(r.done)
	}()
	t.Cleanup(r.kill)
	until(t, "the handler serves", func() bool {
		select {
		case <-r.done:
			t.Fatalf("the handler ended: %s%s", r.output(), r.errors())
		default:
		}
		for _, line := range r.lines("serving metrics") {
			r.metrics = "http://" + line["address"].(string) + "/metrics"
		}
		for _, line := range r.lines("serving") {
			r.url = "http://" + line["address"].(string)
		}
		return r.url != ""
	})
	return r
}

// kill ends the handler as a crash of the machine would.
func (r *running) kill() {
	_ = r.command.Process.Kill()
	<-r.done
	_ = r.command.Wait()
}

// stop tells the handler to end, and returns how it ended.
func (r *running) stop() error {
	if err := r.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-r.done
	return r.command.Wait()
}

func (r *running) output() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stdout.String()
}

func (r *running) errors() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stderr.String()
}

// answers returns all bodies and headers that the handler has sent.
func (r *running) answers() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.String()
}

// lines returns the log lines with this message, without those about rules on trial.
func (r *running) lines(message string) []map[string]any {
	r.t.Helper()
	var found []map[string]any
	for line := range strings.Lines(r.output()) {
		var fields map[string]any
		if !strings.HasSuffix(line, "\n") || strings.HasPrefix(line, `{"usherRecord":`) {
			continue
		}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			r.t.Fatalf("the handler wrote %q, which is not JSON: %v", line, err)
		}
		if fields["msg"] == message && fields["set"] == nil {
			found = append(found, fields)
		}
	}
	return found
}

func (r *running) get(url string) (status int, body string) {
	r.t.Helper()
	response, err := http.Get(url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.seen.Write(read)
	r.mu.Unlock()
	return response.StatusCode, string(read)
}

// readiness is the answer of GET /readyz.
type readiness struct {
	status int
	Rules  struct {
		Revision, Digest                  string
		FromDisk, Stale, Refused, Failing bool
		AgeSeconds                        int64
		LastAttempt                       time.Time
	}
}

func (r *running) ready() readiness {
	r.t.Helper()
	status, body := r.get(r.url + handler.ReadinessPath)
	var answer struct{ Details readiness }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		r.t.Fatal(err)
	}
	answer.Details.status = status
	return answer.Details
}

// metric returns the value of a metric with these labels, such as name="value"; -1 if there is none.
func (r *running) metric(name string, labels ...string) float64 {
	r.t.Helper()
	_, text := r.get(r.metrics)
	sum, found := 0.0, false
series:
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue series
			}
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			r.t.Fatalf("%q: %v", line, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return -1
	}
	return sum
}

// call is one call of the webhook.
type call struct {
	device, group string
	trace, parent string // of the caller's traceparent
	status        int
	hub, code     string
	version       int    // of the row, if the rule says it in the payload
	id            string // of the decision
	took          time.Duration
}

// fleet makes requests as DPS does, with secrets wherever a request can have them.
type fleet struct {
	mu      sync.Mutex
	number  int
	secrets map[string]string // by their description
	tpm     [2]string
	leaf    string
}

func newFleet(t *testing.T, ca *authority) *fleet {
	t.Helper()
	leaf, _ := ca.issue(t, "press-0001")
	f := &fleet{leaf: base64.StdEncoding.EncodeToString(leaf), tpm: [2]string{secret(), secret()}}
	f.secrets = map[string]string{"an endorsement key": f.tpm[0], "a storage root key": f.tpm[1], "a certificate": f.leaf[:60], "another part of it": f.leaf[100:160],
		"a device key": secret(), "an ETag": secret(), "a webhook's key": secret(), "a wrong key": secret(), "a payload": secret()}
	return f
}

// hubs are the linked hubs, one for each set of rules.
var hubs = []string{"first.azure-devices.net", "second.azure-devices.net", "trial.azure-devices.net"}

// body returns an AllocationRequest of a new device. Without a serial number in its payload, that is the device's name.
func (f *fleet) body(t *testing.T, group, serial string) (device string, body []byte) {
	t.Helper()
	f.mu.Lock()
	f.number++
	n := f.number
	f.mu.Unlock()
	device = fmt.Sprintf("press-%04d", n)
	runtime := map[string]any{"registrationId": device, "payload": map[string]any{"model": "HeatPump", "serial": cmp.Or(serial, device), "wifi": f.secrets["a payload"]}}
	attestation := map[string]any{"type": "symmetricKey", "symmetricKey": map[string]any{"primaryKey": f.secrets["a device key"], "secondaryKey": f.secrets["a device key"]}}
	switch n % 3 {
	case 0:
		runtime["x509"] = map[string]any{"clientCertificate": f.leaf}
		attestation = map[string]any{"type": "x509", "x509": map[string]any{"signingCertificates": map[string]any{"primary": map[string]any{"certificate": f.leaf}}}}
	case 1:
		runtime["tpm"] = map[string]any{"endorsementKey": f.tpm[0], "storageRootKey": f.tpm[1]}
	default:
		runtime["symmetricKey"] = map[string]any{"primaryKey": f.secrets["a device key"]}
	}
	return device, asJSON(t, map[string]any{
		"enrollmentGroup": map[string]any{
			"enrollmentGroupId": group, "attestation": attestation, "capabilities": map[string]any{"iotEdge": false}, "etag": f.secrets["an ETag"],
			"provisioningStatus": "enabled", "reprovisionPolicy": map[string]any{"updateHubAssignment": true, "migrateDeviceData": true},
			"allocationPolicy":           "custom",
			"customAllocationDefinition": map[string]any{"webhookUrl": "https://app.example.com/api/allocate?code=" + f.secrets["a webhook's key"], "apiVersion": "2021-10-01"},
		},
		"deviceRuntimeContext": runtime,
		"linkedHubs":           hubs,
	})
}

// allocate calls the webhook for a new device. The traceparent is like that of the Functions host, which is not
// sampled.
func (r *running) allocate(f *fleet, group string) (call, error) {
	r.t.Helper()
	return r.ask(f, group, "")
}

// ask calls the webhook for a new device with this serial number in its payload.
func (r *running) ask(f *fleet, group, serial string) (call, error) {
	r.t.Helper()
	device, body := f.body(r.t, group, serial)
	var ids [24]byte
	rand.Read(ids[:])
	c := call{device: device, group: group, trace: hex.EncodeToString(ids[:16]), parent: hex.EncodeToString(ids[16:])}
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+handler.AllocatePath+"?code="+r.key, bytes.NewReader(body))
	if err != nil {
		return c, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", "00-"+c.trace+"-"+c.parent+"-00")
	start := time.Now()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return c, err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		return c, err
	}
	c.took = time.Since(start)
	r.mu.Lock()
	fmt.Fprintln(&r.seen, response.Header, string(read))
	r.mu.Unlock()
	var answer struct {
		IotHubHostName, Code string
		Payload              struct{ Version int }
	}
	if err := json.Unmarshal(read, &answer); err != nil {
		return c, fmt.Errorf("%q: %w", read, err)
	}
	c.status, c.hub, c.code, c.id = response.StatusCode, answer.IotHubHostName, answer.Code, response.Header.Get(handler.DecisionIDHeader)
	c.version = answer.Payload.Version
	return c, nil
}
