package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// probePackage is the custom handler that the cases talk to.
const probePackage = "github.com/usher-dps/usher/internal/standin/functionshost/conformance/probe"

// FunctionTimeoutSeconds is the functionTimeout of the script root.
const FunctionTimeoutSeconds = 3

// files is the script root. Comments are no part of JSON, so what a function is there for stands here.
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
    "PROBE_SPACED": "two words",
    "PROBE_ARGUMENT": "plain",
    "PATH": "an existing variable wins over this"
  }
}
`,
	// What the cases use most: the probe does as it is told, and tells what it sees.
	"act/function.json":  function(`"authLevel": "anonymous", "route": "act/{what}"`),
	"echo/function.json": function(`"authLevel": "anonymous", "route": "echo/{*rest}"`),
	// Routes and methods.
	"optional/function.json": function(`"authLevel": "anonymous", "route": "opt/{id?}"`),
	"postonly/function.json": function(`"authLevel": "anonymous", "methods": ["post"]`),
	"reserved/function.json": function(`"authLevel": "anonymous", "route": "admin-tools"`),
	"nothing/readme.txt":     "A folder without function.json is no function.\n",
	// Keys, and what shadows what.
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

// WriteRoot makes the script root of the cases in dir and builds the probe into it. It needs the go command.
func WriteRoot(ctx context.Context, dir string) error {
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "bin", "probe"+executableSuffix()), probePackage)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	return nil
}
