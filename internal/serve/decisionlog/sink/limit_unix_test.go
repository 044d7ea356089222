//go:build unix

package sink_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
)

const childVariable = "USHER_TEST_FILE_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		child(path)
	}
	os.Exit(m.Run())
}

// child writes to a file that may not grow beyond 1,000 bytes.
func child(path string) {
	f, err := sink.OpenFile(sink.FileOptions{Path: path})
	if err != nil {
		panic(err)
	}
	limit := syscall.Rlimit{Cur: 1000, Max: 1000}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
	record := bytes.Repeat([]byte("x"), 149)
	for i := range 8 {
		fmt.Println(i, f.Write(record))
	}
	fmt.Println("small", f.Write([]byte("there is still room for this")))
	os.Exit(0)
}

// A write that is cut short by a limit of the operating system leaves no partial line.
func TestFileLimitedBySystem(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), childVariable+"="+filepath.Join(folder, "records.ndjson"))
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %s", err, &output)
	}
	if !strings.Contains(output.String(), "5 <nil>\n6 write ") || strings.Count(output.String(), "file too large") != 2 ||
		!strings.HasSuffix(output.String(), "small <nil>\n") {
		t.Errorf("the child prints %s", &output)
	}
	want := strings.Repeat(strings.Repeat("x", 149)+"\n", 6) + "there is still room for this\n"
	expect(t, folder, map[string]string{"records.ndjson": want})
}
