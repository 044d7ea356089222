package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// exampleSettings is local.settings.json.example.
type exampleSettings struct {
	IsEncrypted bool
	Values      map[string]string
	Settings    map[string]string `json:"_settings"`
}

func readExample(t *testing.T) exampleSettings {
	t.Helper()
	file, err := os.Open(filepath.Join("..", "local.settings.json.example"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	var example exampleSettings
	if err := decoder.Decode(&example); err != nil {
		t.Fatal(err)
	}
	return example
}

// The values of the example are the defaults, so copying it changes nothing.
func TestExampleSettingsAreTheDefaults(t *testing.T) {
	t.Parallel()
	example := readExample(t)
	host := map[string]string{settingHostPort: "7071", settingAppRoot: filepath.FromSlash("/home/site/wwwroot")}
	want, err := readSettings(func(name string) string { return host[name] }, nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := maps.Clone(host)
	maps.Copy(shown, example.Values)
	got, err := readSettings(func(name string) string { return shown[name] }, nil)
	if err != nil {
		t.Fatalf("the example's values are refused: %v", err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); diff != "" {
		t.Errorf("not the defaults (-defaults +example):\n%s", diff)
	}
}

// The example contains exactly the settings that are read.
func TestExampleSettingsAreComplete(t *testing.T) {
	t.Parallel()
	example := readExample(t)
	read := map[string]bool{}
	if _, err := readSettings(func(name string) string { read[name] = true; return "" }, nil); err == nil {
		t.Error("settings without an address are accepted")
	}
	delete(read, settingHostPort) // given by the host
	delete(read, settingAppRoot)
	delete(read, settingEnvironment)
	shown := maps.Clone(example.Values)
	if runtime := shown["FUNCTIONS_WORKER_RUNTIME"]; runtime != "custom" { // read by the host
		t.Errorf("FUNCTIONS_WORKER_RUNTIME is %q, want custom", runtime)
	}
	delete(shown, "FUNCTIONS_WORKER_RUNTIME")
	want := slices.Sorted(maps.Keys(read))
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(shown))); diff != "" {
		t.Errorf("other settings in Values (-read +shown):\n%s", diff)
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(example.Settings))); diff != "" {
		t.Errorf("other settings in _settings (-read +explained):\n%s", diff)
	}
	for name, text := range example.Settings {
		value := example.Values[name]
		if value == "" {
			value = "none"
		}
		if !strings.HasSuffix(text, " Default: "+value+".") {
			t.Errorf("%s: %q does not end in the default %q", name, text, value)
		}
	}
	if example.IsEncrypted || example.Values[settingListen] != "" || example.Values[settingFunctionKeys] != "" {
		t.Error("the example is encrypted, names an address or holds a key")
	}
}
