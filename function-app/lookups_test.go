package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-dps/usher/handler"
)

// inventory are rules that look a device up, in a file with a fixture.
func inventory(t *testing.T) string {
	t.Helper()
	folder := rulesFolder(t, "package allocation.default\n\nimport data.dps\n\ndevice := lookup.device(dps.registration_id)\n\nhub := dps.hub_named(device.hub)\n\nreject contains \"unknown\" if not device\n")
	for name, text := range map[string]string{
		"lookups.yaml":       "device: {row: {type: object, properties: {hub: {type: string}}}, fixture: device_fixture.csv}\n",
		"device_fixture.csv": "key,hub\nd,from-the-fixture\n",
		"lib/dps.rego":       library(t),
	} {
		writeFile(t, filepath.Join(folder, name), text)
	}
	return folder
}

func library(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "rules", "lib", "dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serving runs the handler, and returns its address.
func serving(t *testing.T, environment map[string]string, log *output) (address string) {
	t.Helper()
	var environ []string
	for name, value := range environment {
		environ = append(environ, name+"="+value)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, variables(environment), environ, log) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return log.wait(t, "serving")["address"].(string)
}

func post(t *testing.T, address, body string) (int, string) {
	t.Helper()
	response, err := http.Post("http://"+address+handler.AllocatePath, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

const lookedUp = `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "D"},
	"linkedHubs": ["from-the-fixture.azure-devices.net", "from-the-file.azure-devices.net"]}`

// Where rows come from: the file that the setting names, else while developing the fixture, else nowhere.
func TestLookups(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "device.csv")
	writeFile(t, file, "key,hub\nd,from-the-file\n")
	for name, c := range map[string]struct {
		environment map[string]string
		status      int
		want        string
	}{
		"a snapshot":                        {map[string]string{"USHER_LOOKUP_DEVICE": file}, 200, `"from-the-file.azure-devices.net"`},
		"a snapshot, while developing":      {map[string]string{"USHER_LOOKUP_DEVICE": file, settingEnvironment: development}, 200, `"from-the-file.azure-devices.net"`},
		"the fixture, while developing":     {map[string]string{settingEnvironment: development}, 200, `"from-the-fixture.azure-devices.net"`},
		"the fixture by name":               {map[string]string{"USHER_LOOKUP_DEVICE": "fixture", settingEnvironment: development}, 200, `"from-the-fixture.azure-devices.net"`},
		"no source":                         {nil, 503, `"lookup_failed"`},
		"a snapshot that is not there":      {map[string]string{"USHER_LOOKUP_DEVICE": file + ".gone.csv"}, 503, `"lookup_failed"`},
		"a source that refuses connections": {map[string]string{"USHER_LOOKUP_DEVICE": "http://127.0.0.1:1/{key}"}, 503, `"lookup_failed"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			environment := map[string]string{settingListen: "127.0.0.1:0", settingRules: inventory(t), settingLookupsFolder: t.TempDir(), settingLogLevel: "warn"}
			for variable, value := range c.environment {
				environment[variable] = value
			}
			environment[settingLogLevel] = "info"
			log := newOutput()
			status, text := post(t, serving(t, environment, log), lookedUp)
			if status != c.status || !strings.Contains(text, c.want) {
				t.Errorf("got %d %s, log %s", status, text, log)
			}
			if told := strings.Contains(log.String(), "look-up has no source"); told != (name == "no source") {
				t.Errorf("logged %s", log)
			}
		})
	}
}

// A webhook does not start on a fixture, except while rules are developed.
func TestFixtureIsForDevelopment(t *testing.T) {
	t.Parallel()
	environment := map[string]string{settingListen: "127.0.0.1:0", settingRules: inventory(t), "USHER_LOOKUP_DEVICE": "fixture"}
	err := run(t.Context(), variables(environment), []string{"USHER_LOOKUP_DEVICE=fixture"}, newOutput())
	if err == nil || !strings.Contains(err.Error(), "USHER_LOOKUP_DEVICE: fixture is for development") {
		t.Errorf("ended with %v", err)
	}
}

// GET /readyz shows the sources, and metrics count look-ups.
func TestLookupsAreShown(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "device.csv")
	writeFile(t, file, "key,hub\nd,from-the-file\n")
	log := newOutput()
	address := serving(t, map[string]string{settingListen: "127.0.0.1:0", settingMetricsListen: "127.0.0.1:0", settingRules: inventory(t),
		settingLookupsFolder: t.TempDir(), "USHER_LOOKUP_DEVICE": file}, log)
	if status, text := post(t, address, lookedUp); status != http.StatusOK {
		t.Fatal(text)
	}
	var ready struct {
		Details struct {
			Lookups []struct {
				Name, Source, Version string
				Failing               bool
			}
		}
	}
	response, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	if shown := ready.Details.Lookups; len(shown) != 1 || shown[0].Name != "device" || shown[0].Source != "snapshot" || shown[0].Failing || !strings.HasPrefix(shown[0].Version, "sha256:") {
		t.Errorf("ready: %+v", ready)
	}
	var metrics string
	for line := range strings.Lines(log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == "serving metrics" {
			metrics = entry["address"].(string)
		}
	}
	scraped, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer scraped.Body.Close()
	text, err := io.ReadAll(scraped.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`usher_lookups_total{usher_lookup="device",usher_lookup_outcome="row"} 1`, `usher_lookup_failing{usher_lookup="device"} 0`, "usher_lookup_age_seconds{"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
