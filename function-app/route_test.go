package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/operate/scriptroot"
)

// The program serves the path that the Functions host passes on. An application setting overrides host.json.
func TestServesTheRouteOfTheFunction(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"host.json":           `{"extensions": {"http": {"routePrefix": "old"}}}`,
		"place/function.json": `{"bindings": [{"type": "httpTrigger"}]}`,
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	log := newOutput()
	go func() {
		_ = run(t.Context(), variables(map[string]string{settingHostPort: port, settingAppRoot: root, scriptroot.SettingRoutePrefix: "hooks", settingRules: rulesFolder(t, firstHub)}), nil, log)
	}()
	log.wait(t, "serving")
	for path, want := range map[string]int{"/hooks/place": http.StatusOK, "/HOOKS/Place/": http.StatusOK, "/hooks/allocate": http.StatusNotFound, "/api/allocate": http.StatusNotFound} {
		response, err := http.Post("http://127.0.0.1:"+port+path, "application/json", strings.NewReader(requestBody))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, want)
		}
	}
}
