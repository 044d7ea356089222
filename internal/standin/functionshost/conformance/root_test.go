package conformance_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// functionTimeoutSeconds is the functionTimeout of the script root.
const functionTimeoutSeconds = 3

// files is the script root. Its custom handler is this test binary.
var files = map[string]string{
	"host.json": `{
  "version": "2.0",
  "functionTimeout": "00:00:03",
  "customHandler": {
    "description": {
      "defaultExecutablePath": "bin/probe` + executableSuffix() + `",
      "arguments": ["--split=%PROBE_SPACED%", "--unset=%PROBE_NOWHERE%", "%PROBE_ARGUMENT%"]
    },
    "enableProxyingHttpRequest": true
  }
}
`,
	"local.settings.json": `{
  "IsEncrypted": false,
  "Values": {
    "FUNCTIONS_WORKER_RUNTIME": "custom",
    "CONFORMANCE_PROBE": "1",
    "PROBE_SPACED": "two words",
    "PROBE_ARGUMENT": "plain",
    "PATH": "an existing variable wins over this"
  }
}
`,
	// The functions that most cases use: the probe does what the path says, or returns what it received.
	"act/function.json":  function(`"authLevel": "anonymous", "route": "act/{what}"`),
	"echo/function.json": function(`"authLevel": "anonymous", "route": "echo/{*rest}"`),
	// Routes and methods.
	"optional/function.json": function(`"authLevel": "anonymous", "route": "opt/{id?}"`),
	"postonly/function.json": function(`"authLevel": "anonymous", "methods": ["post"]`),
	"reserved/function.json": function(`"authLevel": "anonymous", "route": "admin-tools"`),
	"nothing/readme.txt":     "A folder without function.json is not a function.\n",
	// Keys, and routes that overlap.
	"secret/function.json":       function(`"methods": ["get"]`),
	"secretadmin/function.json":  function(`"authLevel": "admin", "route": "topsecret"`),
	"shadow1/function.json":      function(`"authLevel": "anonymous", "route": "shadow/{*rest}"`),
	"shadow2/function.json":      function(`"authLevel": "function", "route": "shadow/deep"`),
	"guard1/function.json":       function(`"authLevel": "function", "route": "guard/deep", "methods": ["get"]`),
	"guard2/function.json":       function(`"authLevel": "anonymous", "route": "guard/{*rest}"`),
	"nothing/deeper/unused.json": "{}\n",
}

func function(trigger string) string {
	return `{
  "bindings": [
    {"type": "httpTrigger", "direction": "in", "name": "req", ` + trigger + `},
    {"type": "http", "direction": "out", "name": "res"}
  ]
}
`
}

func executableSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

// writeRoot writes the script root of the cases into dir.
func writeRoot(t *testing.T, dir string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte, mode os.FileMode) {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		write(name, []byte(content), 0o644)
	}
	write("bin/probe"+executableSuffix(), program, 0o755)
}
