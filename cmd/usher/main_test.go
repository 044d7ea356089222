package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"usher": main,
		// handler is the custom handler in the scripts.
		"handler": handler,
	})
}

// handler serves "hello" on the port that the host chooses, or with the argument answer the file answer.json. With the
// argument print it first prints lines.txt; with another one it fails in one of two ways.
func handler() {
	answer := len(os.Args) > 1 && os.Args[1] == "answer"
	if answer {
		// served below
	} else if len(os.Args) > 1 && os.Args[1] == "print" {
		lines, err := os.ReadFile("lines.txt")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(os.ExpandEnv(string(lines)))
	} else if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "cannot open the rules")
		if os.Args[1] == "quit" {
			os.Exit(0)
		}
		os.Exit(1)
	}
	fmt.Println("handler starts")
	address := "127.0.0.1:" + os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT")
	err := http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer {
			http.ServeFile(w, r, "answer.json")
			return
		}
		fmt.Fprintf(w, "hello from %s %s", r.Method, r.URL.Path)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// The repository, for scripts about the shipped rules.
			root, err := filepath.Abs("../..")
			env.Setenv("REPO", root)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": freePort,
			"busyport": busyPort,
			"request":  request,
			"await":    await,
		},
	})
}

// freePort sets a variable to the number of a free port.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport VARIABLE")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer listener.Close()
	ts.Setenv(args[0], fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
}

// busyPort sets a variable to the number of a port that is in use until the script ends.
func busyPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: busyport VARIABLE")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
	ts.Setenv(args[0], fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
}

// request sends a request until the host listens, and checks the status: request STATUS METHOD URL [KEY].
func request(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: request STATUS METHOD URL [KEY]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, args[1], args[2], nil)
		ts.Check(err)
		if len(args) > 3 {
			r.Header.Set("X-Functions-Key", args[3])
		}
		response, err := http.DefaultClient.Do(r)
		if err == nil {
			response.Body.Close()
			if got := fmt.Sprint(response.StatusCode); got != args[0] {
				ts.Fatalf("%s %s = %s, want %s", args[1], args[2], got, args[0])
			}
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("%s %s: %v", args[1], args[2], err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// await waits until a file exists: await FILE.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	name := ts.MkAbs(args[0])
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(name); err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("there is no %s after 20 s", name)
		}
	}
}
