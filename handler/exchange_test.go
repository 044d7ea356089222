package handler_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
)

var update = flag.Bool("update", false, "rewrite what the exchanges in testdata want")

// TestExchanges runs testdata/*.txtar. An archive holds request.json (or request.txt), rules/..., perhaps a timeout,
// and what must come back: want.status, want.json, want.record.json, want.effect.
func TestExchanges(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 20 {
		t.Fatalf("found %d exchanges, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			runExchange(t, path)
		})
	}
}

func runExchange(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rules := fstest.MapFS{}
	var request []byte
	timeout := 10 * time.Second // none of the others may be a matter of speed
	wants := map[string]string{}
	for _, file := range archive.Files {
		switch name := file.Name; {
		case name == "request.json":
			request = file.Data
		case name == "timeout":
			if timeout, err = time.ParseDuration(strings.TrimSpace(string(file.Data))); err != nil {
				t.Fatal(err)
			}
		case strings.HasPrefix(name, "rules/"):
			rules[strings.TrimPrefix(name, "rules/")] = &fstest.MapFile{Data: file.Data}
		case strings.HasPrefix(name, "want."):
			wants[name] = string(file.Data)
		default:
			t.Fatalf("%s: a file %q means nothing here", path, name)
		}
	}
	var log bytes.Buffer
	url := serve(t, rules, timeout, &log, handler.Options{})
	status, header, body := post(t, url, request)
	_, _, again := post(t, url, request)
	_, _, elsewhere := post(t, serve(t, rules, timeout, io.Discard, handler.Options{}), request)

	got := map[string]string{
		"want.status":      strconv.Itoa(status) + "\n",
		"want.json":        indent(t, body),
		"want.record.json": record(t, log.Bytes()),
	}
	if wait := header.Get("Retry-After"); wait != "" {
		got["want.status"] = strconv.Itoa(status) + " Retry-After: " + wait + "\n"
	}
	var answer struct{ IotHubHostName string }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	effect := dps.EffectOf(status, answer.IotHubHostName)
	got["want.effect"] = strings.TrimSpace(string(effect.Result)+" "+effect.Message) + "\n"

	if header.Get(handler.DecisionIDHeader) == "" {
		t.Errorf("no header %s", handler.DecisionIDHeader)
	}
	if status == http.StatusOK && !(bytes.Equal(body, again) && bytes.Equal(body, elsewhere)) {
		t.Errorf("the answer, the answer when asked again, and that of another instance:\n%s\n%s\n%s", body, again, elsewhere)
	}
	if *update {
		rewrite(t, path, archive, got)
		return
	}
	if diff := cmp.Diff(wants, got); diff != "" {
		t.Errorf("%s (-want +got, `go test ./handler -update` rewrites):\n%s", path, diff)
	}
}

func rewrite(t *testing.T, path string, archive *txtar.Archive, got map[string]string) {
	kept := archive.Files[:0]
	for _, file := range archive.Files {
		if !strings.HasPrefix(file.Name, "want.") {
			kept = append(kept, file)
		}
	}
	for _, name := range []string{"want.status", "want.effect", "want.json", "want.record.json"} {
		kept = append(kept, txtar.File{Name: name, Data: []byte(got[name])})
	}
	archive.Files = kept
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// serve starts the webhook over real HTTP and returns its URL.
func serve(t testing.TB, rules fstest.MapFS, timeout time.Duration, log io.Writer, options handler.Options) string {
	t.Helper()
	loaded, err := decider.LoadRules(t.Context(), rules, decider.RulesOptions{Name: "rules", Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	options.Allocator, err = decider.New(decider.Options{Rules: loaded, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	options.Log = slog.New(slog.NewJSONHandler(log, nil))
	server := httptest.NewServer(handler.New(options))
	t.Cleanup(server.Close)
	return server.URL + handler.AllocatePath
}

func post(t testing.TB, url string, body []byte) (int, http.Header, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, answer
}

// indent lays out an answer for reading; the decision ID is another each time.
func indent(t *testing.T, body []byte) string {
	var document map[string]any
	if err := json.Unmarshal(body, &document); err != nil {
		t.Fatalf("the answer is not JSON: %s", body)
	}
	if _, ok := document["decisionId"]; ok {
		document["decisionId"] = "ID"
	}
	return format(t, document)
}

// record lays out the first log line without what differs each time.
func record(t *testing.T, log []byte) string {
	first, _, _ := bytes.Cut(log, []byte("\n"))
	var line map[string]any
	if err := json.Unmarshal(first, &line); err != nil {
		t.Fatalf("the log line is not JSON: %s", first)
	}
	if digest, ok := line["rules"].(string); ok != (line["result"] != "malformed") || ok && !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("the log line names the rules as %v", line["rules"])
	}
	delete(line, "rules")
	for _, name := range []string{"time", "duration_us", "decision_id"} {
		if _, ok := line[name]; !ok {
			t.Errorf("the log line has no %s", name)
		}
		delete(line, name)
	}
	return format(t, line)
}

func format(t *testing.T, document any) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
