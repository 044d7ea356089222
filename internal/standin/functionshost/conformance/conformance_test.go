package conformance_test

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

var root = flag.String("root", "", "for TestWriteRoot: the folder to write the script root to")

// TestMain makes the test binary its own custom handler.
func TestMain(m *testing.M) {
	if os.Getenv("CONFORMANCE_PROBE") != "" {
		serveProbe()
		return
	}
	os.Exit(m.Run())
}

// TestWriteRoot writes the script root for a manual run against the real host.
func TestWriteRoot(t *testing.T) {
	if *root == "" {
		t.Skip("give -root DIR to write the script root there")
	}
	writeRoot(t, *root)
	t.Logf("wrote %s: run func start there, then the tests with FUNCTIONS_HOST_URL", *root)
}

func TestConformance(t *testing.T) {
	if address := os.Getenv("FUNCTIONS_HOST_URL"); address != "" {
		suite{url: address, auth: os.Getenv("FUNCTIONS_HOST_AUTH") != "", key: os.Getenv("FUNCTIONS_HOST_KEY")}.run(t)
		return
	}
	dir := t.TempDir()
	writeRoot(t, dir)
	for _, c := range []struct {
		name    string
		options functionshost.Options
	}{
		{"open", functionshost.Options{}},
		{"keys", functionshost.Options{EnableAuth: true, FunctionKey: "function-key", MasterKey: "master-key", NoTraceparent: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := c.options
			o.Root = dir
			o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
			host, err := functionshost.New(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := host.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			if err := host.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			suite{url: host.URL(), auth: o.EnableAuth, key: o.FunctionKey}.run(t)
		})
	}
}
