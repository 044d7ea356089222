package conformance_test

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/usher-dps/usher/internal/standin/functionshost"
	"github.com/usher-dps/usher/internal/standin/functionshost/conformance"
)

var root = flag.String("root", "", "for TestWriteRoot: the folder to write the script root to")

// TestWriteRoot is the command that makes the script root for a run against the real host by hand.
func TestWriteRoot(t *testing.T) {
	if *root == "" {
		t.Skip("give -root DIR to write the script root there")
	}
	if err := conformance.WriteRoot(t.Context(), *root); err != nil {
		t.Fatal(err)
	}
	t.Logf("wrote %s: run func start there, then the tests with FUNCTIONS_HOST_URL", *root)
}

func TestConformance(t *testing.T) {
	if address := os.Getenv("FUNCTIONS_HOST_URL"); address != "" {
		conformance.Run(t, conformance.Target{URL: address, Auth: os.Getenv("FUNCTIONS_HOST_AUTH") != "", Key: os.Getenv("FUNCTIONS_HOST_KEY")})
		return
	}
	dir := t.TempDir()
	if err := conformance.WriteRoot(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
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
			conformance.Run(t, conformance.Target{URL: host.URL(), Auth: o.EnableAuth, Key: o.FunctionKey})
		})
	}
}
