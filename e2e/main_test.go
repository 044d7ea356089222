// Package e2e_test runs the handler as a process with real services around it: Azurite, Microsoft's emulator of Azure
// Storage, over HTTPS with OAuth; azidentity's managed identity; and an OpenTelemetry collector. `make e2e` runs it,
// and also the tests in JavaScript, which register devices with Azure's own SDKs.
package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// variable enables these tests. If it is "required", it is an error if they cannot run.
const variable = "USHER_E2E"

// programsVariable names a folder with an up-to-date handler and tool. If it is empty, the tests build them.
const programsVariable = "USHER_E2E_PROGRAMS"

// azurite is the program that `npm ci` installs in this folder.
var azurite = filepath.FromSlash("node_modules/azurite/dist/src/blob/main.js")

// needStorage skips a test if Azurite cannot run.
func needStorage(t *testing.T) {
	t.Helper()
	wanted := os.Getenv(variable)
	why := ""
	if wanted == "" {
		why = variable + " is empty: run `make e2e`"
	} else if _, err := exec.LookPath("node"); err != nil {
		why = "node is not installed"
	} else if _, err := os.Stat(azurite); err != nil {
		why = "Azurite is not installed: run `npm ci` in the folder e2e, which needs the network"
	}
	switch {
	case why == "":
	case wanted == "required":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

var built struct {
	once   sync.Once
	folder string
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.folder != "" {
		_ = os.RemoveAll(built.folder)
	}
	os.Exit(code)
}

// program returns the path of the handler or the tool. It builds them once.
func program(t *testing.T, name string) string {
	t.Helper()
	if folder := os.Getenv(programsVariable); folder != "" {
		return filepath.Join(folder, name)
	}
	built.once.Do(func() {
		if built.folder, built.err = os.MkdirTemp("", "usher-e2e-"); built.err != nil {
			return
		}
		for name, from := range map[string]string{"handler": "../function-app", "usher": "../cmd/usher"} {
			build := exec.Command("go", "build", "-tags=grpcnotrace", "-trimpath", "-ldflags=-s -w -buildid=", "-o", filepath.Join(built.folder, name), from)
			build.Env = append(os.Environ(), "CGO_ENABLED=0") // as in the Makefile
			if output, err := build.CombinedOutput(); err != nil {
				built.err = errors.Join(err, errors.New(string(output)))
				return
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.folder, name)
}

// usher runs the tool and returns what it prints.
func usher(t *testing.T, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), program(t, "usher"), arguments...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("usher %q: %v\n%s%s", arguments, err, output, &stderr)
	}
	return string(output)
}

// patience bounds every wait. The machine can be busy.
const patience = time.Minute

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func asJSON(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
