// Package docs_test holds the documents to the code: what they show is run, what they list is compared with what there
// is.
//
// Fenced blocks are read in order, and each "## " heading starts afresh:
//
//	rego            a whole module; it joins the rules of its section
//	rego fragment   part of a module; it must compile beside import data.dps
//	rego refused    a whole module that must not load; the next text block is the error
//	json data=a/b   the file a/b/data.json beside those rules; schema=a/b is a/b/data.schema.json
//	json refused=a/b  that data in place of it must not load; the next text block is the error
//	sh              every curl line is sent to the webhook with those rules
//	json            the answer to the curl before, status 200
//	json 403        the same with another status
//	json request    what the tables of examples below it are asked about
//
// A block in a package whose name ends in _test is run as a Rego test.
package docs_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// root is the repository seen from this folder.
const root = ".."

// documents are all Markdown files that people are meant to read, from root.
func documents(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/cli/*.md", "docs/adr/*.md"} {
		matches, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, matches...)
	}
	if len(names) < 10 {
		t.Fatalf("only %d documents found: %v", len(names), names)
	}
	return names
}

func readDocument(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is a fenced block.
type block struct {
	line    int    // of its first line of text, from 1
	section string // the "## " heading above it
	kind    string // first word after the fence
	note    string // the rest of that line
	text    string
}

// blocksOf reads the fenced blocks of a document.
func blocksOf(t *testing.T, document string) []block {
	t.Helper()
	var blocks []block
	var open *block
	section := ""
	for i, line := range strings.Split(document, "\n") {
		switch info, fence := strings.CutPrefix(strings.TrimSpace(line), "```"); {
		case fence && open == nil:
			kind, note, _ := strings.Cut(info, " ")
			open = &block{line: i + 2, section: section, kind: kind, note: note}
		case fence:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "## "):
			section = line
		}
	}
	if open != nil {
		t.Fatalf("line %d: a block is not closed", open.line)
	}
	return blocks
}

// Every rule, request and answer in the documents is what happens.
func TestExamples(t *testing.T) {
	t.Parallel()
	ran := map[string]int{}
	for _, name := range documents(t) {
		s := &section{document: name, ran: ran}
		for _, b := range blocksOf(t, readDocument(t, name)) {
			if b.section != s.heading {
				s = &section{document: name, heading: b.section, ran: ran}
			}
			t.Run(fmt.Sprintf("%s:%d", name, b.line), func(t *testing.T) { s.run(t, b) })
		}
	}
	// The runner has missed the point if it found nothing to run.
	for _, kind := range []string{"module", "fragment", "refused", "rego test", "answer"} {
		if ran[kind] == 0 {
			t.Errorf("no document shows a %s", kind)
		}
	}
	t.Logf("ran %v", ran)
}

// section is what the blocks since the last heading have built up.
type section struct {
	document, heading string
	ran               map[string]int

	rules    fstest.MapFS // beside those that ship
	refusal  string       // what the next text block has to say
	response *http.Response
	body     []byte
}

func (s *section) run(t *testing.T, b block) {
	if s.refusal != "" && b.kind != "text" {
		t.Fatal("a refused rule must be followed by its error in a text block")
	}
	switch {
	case b.kind == "rego" && b.note == "":
		if packageOf(b.text) == "" {
			t.Fatal("a whole module needs a package; mark a part of one as a fragment")
		}
		s.add(fileOf(b.text), b.text)
		if strings.HasSuffix(packageOf(b.text), "_test") {
			s.regoTest(t, b.text)
			return
		}
		if _, err := s.load(t, true); err != nil {
			t.Fatalf("the rule does not load: %v", err)
		}
		s.ran["module"]++
	case b.kind == "rego" && b.note == "fragment":
		s.fragment(t, b.text)
	case b.kind == "rego" && b.note == "refused":
		refused := section{document: s.document}
		refused.add(fileOf(b.text), b.text)
		s.refuse(t, refused)
	case b.kind == "rego":
		t.Fatalf("a rego block cannot be %q", b.note)
	case b.kind == "text" && s.refusal != "":
		if diff := gocmp.Diff(strings.TrimSpace(b.text), s.refusal); diff != "" {
			t.Errorf("another error (-document +rules):\n%s", diff)
		}
		s.refusal = ""
	case b.kind == "json" && strings.HasPrefix(b.note, "data="):
		s.add(strings.TrimPrefix(b.note, "data=")+"/data.json", b.text)
	case b.kind == "json" && strings.HasPrefix(b.note, "schema="):
		s.add(strings.TrimPrefix(b.note, "schema=")+"/data.schema.json", b.text)
	case b.kind == "json" && strings.HasPrefix(b.note, "refused="):
		refused := section{document: s.document, rules: maps.Clone(s.rules)}
		refused.add(strings.TrimPrefix(b.note, "refused=")+"/data.json", b.text)
		s.refuse(t, refused)
	case b.kind == "json" && b.note == "request":
		return // for TestExampleTables
	case b.kind == "sh":
		for _, call := range curls(t, b.text) {
			s.ask(t, call)
		}
	case b.kind == "json" && s.response != nil:
		s.compare(t, b)
	}
}

// refuse keeps why rules do not load, which the next text block must say.
func (s *section) refuse(t *testing.T, refused section) {
	_, err := refused.load(t, false)
	if err == nil {
		t.Fatal("the rule loads")
	}
	s.refusal = err.Error()
	s.ran["refused"]++
}

var packageClause = regexp.MustCompile(`(?m)^package ([\w.]+)$`)

func packageOf(module string) string {
	match := packageClause.FindStringSubmatch(module)
	if match == nil {
		return ""
	}
	return match[1]
}

// fileOf is where the module of package allocation.line would be: line/line.rego.
func fileOf(module string) string {
	name := strings.TrimPrefix(path.Ext("."+packageOf(module)), ".")
	return strings.TrimSuffix(name, "_test") + "/" + name + ".rego"
}

func (s *section) add(name, text string) {
	if s.rules == nil {
		s.rules = fstest.MapFS{}
	}
	// A file that ends in _test.rego is left out of a ruleset.
	name = strings.Replace(name, "_test.rego", "_check.rego", 1)
	s.rules[name] = &fstest.MapFile{Data: []byte(text)}
}

// load loads the section's rules with what they stand beside: in the README all the rules that ship, as for somebody
// who follows it; elsewhere the library.
func (s *section) load(t *testing.T, strict bool) (*decider.Rules, error) {
	t.Helper()
	shipped := filepath.Join(root, "rules")
	all := fstest.MapFS{}
	err := fs.WalkDir(os.DirFS(shipped), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || s.document != "README.md" && !strings.HasPrefix(name, "lib/") {
			return err
		}
		text, err := os.ReadFile(filepath.Join(shipped, name))
		all[name] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range s.rules {
		if all[name] != nil {
			t.Fatalf("%s is among the rules that ship", name)
		}
		all[name] = file
	}
	return decider.LoadRules(t.Context(), all, decider.RulesOptions{Name: "rules", Strict: strict})
}

func (s *section) fragment(t *testing.T, text string) {
	with := section{document: s.document}
	with.add("fragment.rego", "package fragment\n\nimport data.dps\n\nimport data.fragment_uses\n\n"+text)
	with.add("uses.rego", "package fragment_uses\n\nuses := data.fragment\n\nlibrary := data.dps\n")
	if s.document == "docs/lookups.md" {
		with.add("lookups.yaml", readDocument(t, "rules/inventory/lookups.yaml"))
	}
	with.add("serves.rego", "package allocation.default\n\nhub := input.linkedHubs[0]\n")
	if _, err := with.load(t, false); err != nil {
		t.Errorf("the fragment does not compile: %v", err)
	}
	s.ran["fragment"]++
}

var testRule = regexp.MustCompile(`(?m)^(test_\w+) if`)

// regoTest runs the tests of a module. A rule asks them, so that they run with the same built-ins and the same data as
// rules that are served.
func (s *section) regoTest(t *testing.T, module string) {
	var names []string
	for _, match := range testRule.FindAllStringSubmatch(module, -1) {
		names = append(names, match[1])
	}
	if len(names) == 0 {
		t.Fatal("no test_ rule in it")
	}
	s.add("runner.rego", fmt.Sprintf("package allocation.default\n\nhub := input.linkedHubs[0]\n\npayload := {\"passed\": [name |\n"+
		"\tsome name in %s\n\tdata.%s[name] == true\n]}\n", mustJSON(t, names), packageOf(module)))
	defer delete(s.rules, "runner.rego")
	rules, err := s.load(t, true)
	if err != nil {
		t.Fatalf("the tests do not load: %v", err)
	}
	var answer struct{ Payload struct{ Passed []string } }
	response, body := post(t, rules, `{"enrollmentGroup": {"enrollmentGroupId": "none"},
		"deviceRuntimeContext": {"registrationId": "none"}, "linkedHubs": ["none.azure-devices.net"]}`)
	if err := json.Unmarshal(body, &answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	if diff := gocmp.Diff(names, answer.Payload.Passed); diff != "" {
		t.Errorf("tests do not pass (-all +passed):\n%s", diff)
	}
	s.ran["rego test"]++
}

var curl = regexp.MustCompile(`(?m)^curl (?:-\S+ )*(?:http://)?localhost:\d+(/\S+) -d (?:@(\S+)|'([^']*)')$`)

// curls reads the bodies that the curl lines of a block post to the webhook.
func curls(t *testing.T, script string) []string {
	t.Helper()
	var bodies []string
	matches := curl.FindAllStringSubmatch(script, -1)
	if len(matches) != strings.Count("\n"+script, "\ncurl ") {
		t.Fatal("a curl line that cannot be read: write curl localhost:7071/path -d @file or -d '...'")
	}
	for _, match := range matches {
		if match[1] != handler.AllocatePath {
			t.Fatalf("the webhook is not at %s", match[1])
		}
		body := match[3]
		if match[2] != "" {
			body = readDocument(t, match[2])
		}
		bodies = append(bodies, body)
	}
	return bodies
}

func (s *section) ask(t *testing.T, body string) {
	t.Helper()
	rules, err := s.load(t, true)
	if err != nil {
		t.Fatal(err)
	}
	s.response, s.body = post(t, rules, body)
}

// post asks the webhook over HTTP.
func post(t *testing.T, rules *decider.Rules, body string) (*http.Response, []byte) {
	t.Helper()
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler.New(handler.Options{Allocator: allocator}))
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+handler.AllocatePath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	// What curl -d sends.
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, answer
}

// compare holds an answer to the block that shows it. A member shown as "..." is different each time.
func (s *section) compare(t *testing.T, b block) {
	defer func() { s.response = nil }()
	if want := cmp.Or(b.note, "200"); fmt.Sprint(s.response.StatusCode) != want {
		t.Errorf("status %d, want %s", s.response.StatusCode, want)
	}
	var want, got map[string]any
	if err := json.Unmarshal([]byte(b.text), &want); err != nil {
		t.Fatalf("the answer shown is not JSON: %v", err)
	}
	if err := json.Unmarshal(s.body, &got); err != nil {
		t.Fatalf("the answer is not JSON: %v\n%s", err, s.body)
	}
	for name, value := range want {
		if _, given := got[name]; given && value == "..." {
			got[name] = value
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("another answer (-document +webhook):\n%s", diff)
	}
	s.ran["answer"]++
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The README's first screen: one sentence, a rule, the command, its answer.
func TestFirstScreen(t *testing.T) {
	t.Parallel()
	const lines = 50 // of a terminal or a browser window
	readme := readDocument(t, "README.md")
	var kinds []string
	end := 0
	for _, b := range blocksOf(t, readme) {
		if len(kinds) == 3 {
			break
		}
		kinds = append(kinds, b.kind)
		end = b.line + strings.Count(b.text, "\n")
		if b.kind == "rego" {
			rule := slices.DeleteFunc(strings.Split(b.text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
			if len(rule) > 12 {
				t.Errorf("the rule has %d lines", len(rule))
			}
		}
	}
	if diff := gocmp.Diff([]string{"rego", "sh", "json"}, kinds); diff != "" {
		t.Errorf("the README does not begin with a rule, a command and its answer:\n%s", diff)
	}
	if end > lines {
		t.Errorf("the answer ends on line %d, beyond the first %d", end, lines)
	}
}
