package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// offered is a bundle that a server offers; nil makes it answer 503.
type offered struct{ packed atomic.Pointer[[]byte] }

func (o *offered) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	packed := o.packed.Load()
	if packed == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(*packed)
}

// offer offers a bundle with a rule that sends devices to the linked hub of this number.
func (o *offered) offer(t *testing.T, revision, hub string) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("the secret of a test"), 0o600); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	files := fstest.MapFS{"default/default.rego": {Data: []byte("package allocation.default\n\nhub := " + hub + "\n")}}
	if err := rulebundle.Write(&packed, files, []string{"default/default.rego"}, rulebundle.WriteOptions{
		Revision: revision, Key: &rulebundle.Key{File: key, Algorithm: "HS256"}}); err != nil {
		t.Fatal(err)
	}
	bytes := packed.Bytes()
	o.packed.Store(&bytes)
}

// program is the webhook as it runs.
type program struct {
	t       *testing.T
	address string
	log     *output
	stop    func()
}

func startProgram(t *testing.T, settings map[string]string) *program {
	t.Helper()
	settings[settingListen] = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{t: t, log: newOutput()}
	p.log.lines = make(chan map[string]any, 10000)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, variables(settings), nil, p.log) }()
	p.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	p.address = p.log.wait(t, "serving")["address"].(string)
	return p
}

const twoHubs = `{"enrollmentGroup": {"enrollmentGroupId": "line-a"}, "deviceRuntimeContext": {"registrationId": "%s"},
	"linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"]}`

// ask returns the status and the hub, or else the code.
func (p *program) ask(device string) (int, string) {
	p.t.Helper()
	response, err := http.Post("http://"+p.address+handler.AllocatePath, "application/json", strings.NewReader(fmt.Sprintf(twoHubs, device)))
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ IotHubHostName, Code string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, answer.IotHubHostName + answer.Code
}

func (p *program) ready() (int, string) {
	p.t.Helper()
	response, err := http.Get("http://" + p.address + handler.ReadinessPath)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// until polls a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("it never happens that %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Rules arrive, go bad, get better, and outlast a restart without their source.
func TestRulesArrive(t *testing.T) {
	t.Parallel()
	source := new(offered)
	server := httptest.NewServer(source)
	defer server.Close()
	settings := func() map[string]string {
		return map[string]string{
			settingRules: server.URL + "/rules.tar.gz?sig=CANARYx4711", settingRulesPoll: "1s", settingRulesCache: filepath.Join(t.TempDir(), "cache"),
			settingRulesKey: "the secret of a test", settingRulesAlgorithm: "HS256", settingRulesMaxAge: "1h", settingRulesStale: staleHold,
			settingLogLevel: "debug",
		}
	}
	same := settings()
	p := startProgram(t, same)
	if status, code := p.ask("d"); status != 503 || code != "not_ready" {
		t.Errorf("without rules: %d %s", status, code)
	}
	if status, body := p.ready(); status != 503 || !strings.Contains(body, `"failing":true`) {
		t.Errorf("readiness without rules: %d %s", status, body)
	}
	source.offer(t, "v1", "input.linkedHubs[0]")
	until(t, "rules arrive", func() bool { status, _ := p.ask("d"); return status == 200 })
	line := p.log.wait(t, "rules activated")
	if line["revision"] != "v1" || strings.Contains(fmt.Sprint(line), "CANARY") {
		t.Errorf("logged %v", line)
	}
	source.offer(t, "v2", "inptu.linkedHubs[0]")
	if line := p.log.wait(t, "rules refused"); !strings.Contains(fmt.Sprint(line["error"]), "default/default.rego:3") {
		t.Errorf("logged %v", line)
	}
	if status, hub := p.ask("d"); status != 200 || hub != "a.azure-devices.net" {
		t.Errorf("after a bad bundle: %d %s", status, hub)
	}
	if status, body := p.ready(); status != 200 || !strings.Contains(body, `"refused":true`) || !strings.Contains(body, `"revision":"v1"`) || strings.Contains(body, "CANARY") {
		t.Errorf("readiness after a bad bundle: %d %s", status, body)
	}
	source.offer(t, "v3", "input.linkedHubs[1]")
	until(t, "a good bundle is used", func() bool { _, hub := p.ask("d"); return hub == "b.azure-devices.net" })
	p.stop()

	source.packed.Store(nil)
	p = startProgram(t, same)
	if status, hub := p.ask("d"); status != 200 || hub != "b.azure-devices.net" {
		t.Errorf("after a restart without the source: %d %s", status, hub)
	}
	if status, body := p.ready(); status != 200 || !strings.Contains(body, `"fromDisk":true`) {
		t.Errorf("readiness: %d %s", status, body)
	}
	p.stop()
	if strings.Contains(p.log.text.String(), "CANARY") || strings.Contains(p.log.text.String(), "secret of a test") {
		t.Errorf("a secret is logged: %s", &p.log.text)
	}
}

// Rules on trial answer for a share of the devices, the same ones on each instance, and are compared for the others.
func TestRulesOnTrial(t *testing.T) {
	t.Parallel()
	settings := func() map[string]string {
		return map[string]string{
			settingRules:  rulesFolder(t, "package allocation.default\n\nhub := input.linkedHubs[0]\n"),
			settingShadow: rulesFolder(t, "package allocation.default\n\nhub := input.linkedHubs[1]\n"),
			settingCanary: "line-*=50,*=0", settingMetricsListen: "127.0.0.1:" + freePort(t), settingRecordSinks: "stdout",
		}
	}
	shares := map[string]int{}
	var sides []string
	for range 2 {
		s := settings()
		p := startProgram(t, s)
		side := ""
		for i := range 40 {
			_, hub := p.ask(fmt.Sprint("device-", i))
			shares[hub]++
			side += hub[:1]
		}
		sides = append(sides, side)
		notCanaries := strings.Count(side, "a")
		want := fmt.Sprintf(`usher_shadow_comparison="hub"} %d`, notCanaries)
		var metrics string
		until(t, "the divergences are counted", func() bool {
			response, err := http.Get("http://" + s[settingMetricsListen] + "/metrics")
			if err != nil {
				return false
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			metrics = string(body)
			return err == nil && strings.Contains(metrics, want)
		})
		if status, body := p.ready(); status != 200 || !strings.Contains(body, `"shadow":{`) {
			t.Errorf("readiness: %d %s", status, body)
		}
		p.stop()
		records := map[string]int{} // the records on standard output, by who decided
		for line := range strings.Lines(p.log.text.String()) {
			var record struct {
				UsherRecord      int
				Source, ShadowOf string
				Diverged         []string
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil || record.UsherRecord == 0 {
				continue
			}
			records[record.Source]++
			if shadowed := record.Source == "shadow"; shadowed != (record.ShadowOf != "") || shadowed != (strings.Join(record.Diverged, " ") == "hub") {
				t.Errorf("recorded %s", line)
			}
		}
		if records["canary"] != 40-notCanaries || records["current"] != notCanaries || records["shadow"] != notCanaries {
			t.Errorf("recorded %v, want %d of the canary", records, 40-notCanaries)
		}
	}
	if sides[0] != sides[1] || shares["a.azure-devices.net"] < 20 || shares["b.azure-devices.net"] < 20 {
		t.Errorf("sides %v, shares %v", sides, shares)
	}
}

// Rules on trial that are no good leave those that answer alone.
func TestBrokenRulesOnTrial(t *testing.T) {
	t.Parallel()
	for name, canary := range map[string]string{"shadow": "", "canary": "100"} {
		p := startProgram(t, map[string]string{
			settingRules:  rulesFolder(t, firstHub),
			settingShadow: rulesFolder(t, "package allocation.default\n\nhub := inptu.x\n"),
			settingCanary: canary,
		})
		if status, hub := p.ask("d"); status != 200 || hub != "a.azure-devices.net" {
			t.Errorf("%s: %d %s", name, status, hub)
		}
		if canary == "" {
			p.log.wait(t, "rules on trial cannot be used")
		}
		p.stop()
		if text := p.log.text.String(); !strings.Contains(text, "rules on trial cannot be used") || !strings.Contains(text, "default.rego:3") {
			t.Errorf("%s: logged %s", name, text)
		}
	}
}

func TestRulesSettings(t *testing.T) {
	t.Parallel()
	const url = "https://rules.example.com/rules.tar.gz"
	const secret = "s3cret-of-nobody"
	for name, c := range map[string]struct {
		environment map[string]string
		want        string // in the error; empty if all is well
	}{
		"everything": {map[string]string{settingRules: url, settingRulesPoll: "30s", settingRulesWatch: on, settingRulesToken: secret,
			settingRulesKey: secret, settingRulesAlgorithm: "HS512", settingRulesCache: noCache, settingRulesMaxAge: "1m", settingRulesStale: staleHold,
			settingRulesSelfTest: off, settingShadow: "next", settingShadowEnrollment: "line-*, toasters", settingCanary: "10"}, ""},
		"a strange URL":              {map[string]string{settingRules: "ftp://" + secret + "@x/y"}, "USHER_RULES: ftp is not supported"},
		"a strange second URL":       {map[string]string{settingShadow: "http://x.example.com/y", settingCanary: "10"}, "USHER_RULES_SHADOW: http is allowed only for the loopback"},
		"asked too often":            {map[string]string{settingRulesPoll: "1ms"}, "USHER_RULES_POLL: not a duration from 1s to 24h, such as 1m"},
		"watch perhaps":              {map[string]string{settingRulesWatch: "maybe"}, "USHER_RULES_WATCH: neither on nor off"},
		"two keys":                   {map[string]string{settingRules: url, settingRulesKey: secret, settingRulesKeyFile: "x"}, "USHER_RULES_KEY: set besides USHER_RULES_KEY_FILE"},
		"a key that is none":         {map[string]string{settingRules: url, settingRulesKey: secret}, "USHER_RULES_KEY: the key is not a PEM block, which RS256 needs"},
		"a key that signs":           {map[string]string{settingRules: url, settingRulesKey: `-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----`}, "that is the private key"},
		"a key that is away":         {map[string]string{settingRules: url, settingRulesKeyFile: "/nowhere"}, "USHER_RULES_KEY_FILE: the key: "},
		"an algorithm that is none":  {map[string]string{settingRules: url, settingRulesKey: secret, settingRulesAlgorithm: "none"}, `"none" is not a signature algorithm`},
		"a key for a folder":         {map[string]string{settingRulesKey: secret, settingRulesAlgorithm: "HS256"}, "USHER_RULES_KEY: a key is for bundles"},
		"an age for a folder":        {map[string]string{settingRulesMaxAge: "1h"}, "USHER_RULES_MAX_AGE: USHER_RULES is a folder"},
		"an age below the interval":  {map[string]string{settingRules: url, settingRulesMaxAge: "90s"}, "USHER_RULES_MAX_AGE: not a duration of at least twice USHER_RULES_POLL"},
		"hold after no time":         {map[string]string{settingRules: url, settingRulesStale: staleHold}, "USHER_RULES_STALE: hold, and USHER_RULES_MAX_AGE is empty"},
		"a canary of nothing":        {map[string]string{settingCanary: "10"}, "USHER_RULES_CANARY: set, and USHER_RULES_SHADOW is empty"},
		"a share of too many":        {map[string]string{settingShadow: "next", settingCanary: "toasters=110"}, "USHER_RULES_CANARY: \"toasters=110\" has no percentage"},
		"a percentage in the shadow": {map[string]string{settingShadow: "next", settingShadowEnrollment: "a=10"}, "USHER_RULES_SHADOW_ENROLLMENTS: \"a=10\""},
	} {
		c.environment[settingListen] = "127.0.0.1:0"
		got, err := readSettings(variables(c.environment), nil)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), secret):
			t.Errorf("%s: the error tells a secret: %v", name, err)
		case err == nil:
			r := got.rules
			if r.Poll != 30*time.Second || !r.Watch || r.Token != secret || r.Key.Text != secret || r.Cache != "" || r.MaxAge != time.Minute ||
				!r.HoldStale || !r.NoTest || r.Second.Path != "next" || len(r.Shadow) != 2 || r.Canary.Of("x") != 10 {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	for name, c := range map[string]struct {
		environment  map[string]string
		watch, tests bool
	}{
		"deployed":                           {map[string]string{}, false, true},
		"in development":                     {map[string]string{settingEnvironment: "Development"}, true, false},
		"in development, with self-tests":    {map[string]string{settingEnvironment: "Development", settingRulesSelfTest: on}, true, true},
		"in development, rules are a bundle": {map[string]string{settingEnvironment: "Development", settingRules: url}, true, true},
	} {
		c.environment[settingListen] = "127.0.0.1:0"
		got, err := readSettings(variables(c.environment), nil)
		if err != nil || got.rules.Watch != c.watch || got.rules.NoTest == c.tests {
			t.Errorf("%s: %+v, %v", name, got.rules, err)
		}
	}
}

// The token is for one host, and no other is shown it.
func TestTokenStaysWithItsHost(t *testing.T) {
	t.Parallel()
	const token = "CANARYx4711"
	shown := make([]atomic.Pointer[string], 2)
	var urls [2]string
	for i := range urls {
		source := new(offered)
		source.offer(t, "v1", "input.linkedHubs[0]")
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			header := r.Header.Get("Authorization")
			shown[i].Store(&header)
			source.ServeHTTP(w, r)
		}))
		defer server.Close()
		urls[i] = server.URL + "/rules.tar.gz"
	}
	p := startProgram(t, map[string]string{settingRules: urls[0], settingShadow: urls[1], settingCanary: "1",
		settingRulesToken: token, settingRulesCache: noCache})
	p.stop()
	for i, want := range []string{"Bearer " + token, ""} {
		if got := shown[i].Load(); got == nil || *got != want {
			t.Errorf("host %d was shown %v, want %q", i, got, want)
		}
	}
}
