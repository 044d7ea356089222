package docs_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	opa "github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

var (
	reference  = regexp.MustCompile(`\[([^\]\[\n]+)\]([(:]?)`)
	definition = regexp.MustCompile(`(?m)^\[([^\]]+)\]: (\S+)$`)
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
	makeTarget = regexp.MustCompile(`\bmake ([a-z][a-z0-9]*)\b`)
	makeRule   = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
	goName     = regexp.MustCompile(`^(dps|answer|allocation|handler|schemas)\.([A-Z]\w*)$`)
	notInAName = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchor is what a heading is linked by.
func anchor(title string) string {
	return strings.ReplaceAll(notInAName.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}

// Every relative link leads somewhere, its anchor included.
func TestLinks(t *testing.T) {
	t.Parallel()
	links := 0
	for _, name := range documents(t) {
		text := readDocument(t, name)
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target := match[1]
			if strings.Contains(target, "://") {
				if !strings.HasPrefix(target, "https://") {
					t.Errorf("%s: %s is not https", name, target)
				}
				continue
			}
			links++
			file, section, _ := strings.Cut(target, "#")
			file = path.Join(path.Dir(name), file)
			if strings.HasPrefix(target, "#") {
				file = name
			}
			if !exists(file) {
				t.Errorf("%s: the link to %s leads nowhere", name, target)
				continue
			}
			if section == "" {
				continue
			}
			found := false
			for _, title := range heading.FindAllStringSubmatch(readDocument(t, file), -1) {
				found = found || anchor(title[1]) == section
			}
			if !found {
				t.Errorf("%s: %s has no heading #%s", name, file, section)
			}
		}
	}
	if links == 0 {
		t.Error("no links found")
	}
}

// Every source that is referred to has an address, and none is left over.
func TestReferences(t *testing.T) {
	t.Parallel()
	for _, name := range documents(t) {
		text := withoutBlocks(t, readDocument(t, name))
		defined := map[string]bool{} // and whether it is used
		for _, match := range definition.FindAllStringSubmatch(text, -1) {
			defined[match[1]] = false
			if !strings.HasPrefix(match[2], "https://") {
				t.Errorf("%s: the address of [%s] is not https", name, match[1])
			}
		}
		for _, match := range reference.FindAllStringSubmatch(codeSpan.ReplaceAllString(text, ""), -1) {
			if match[2] != "" {
				continue // a link with its address, or a definition
			}
			if _, ok := defined[match[1]]; !ok {
				t.Errorf("%s: [%s] has no address", name, match[1])
			}
			defined[match[1]] = true
		}
		for source, used := range defined {
			if !used {
				t.Errorf("%s: [%s] is not referred to", name, source)
			}
		}
	}
}

// What documents call by name is there: files and folders of the repository, targets of the Makefile, exported Go
// identifiers.
func TestNames(t *testing.T) {
	t.Parallel()
	targets := map[string]bool{}
	for _, match := range makeRule.FindAllStringSubmatch(readDocument(t, "Makefile"), -1) {
		targets[match[1]] = true
	}
	exported := map[string]bool{}
	for _, name := range []string{"dps", "answer", "allocation", "handler", "schemas"} {
		for _, identifier := range exportedBy(t, name) {
			exported[name+"."+identifier] = true
		}
	}
	top := map[string]bool{}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		top[entry.Name()] = entry.IsDir()
	}
	seen := map[string]int{}
	for _, name := range documents(t) {
		text := readDocument(t, name)
		for _, match := range makeTarget.FindAllStringSubmatch(codeOnly(t, text), -1) {
			seen["make"]++
			if !targets[match[1]] {
				t.Errorf("%s: the Makefile has no target %s", name, match[1])
			}
		}
		for _, match := range codeSpan.FindAllStringSubmatch(withoutBlocks(t, text), -1) {
			span := match[1]
			if goName.MatchString(span) {
				seen["go"]++
				if !exported[span] {
					t.Errorf("%s: there is no %s", name, span)
				}
			}
			first, _, deeper := strings.Cut(span, "/")
			if isFolder, known := top[first]; deeper && known && isFolder && !strings.ContainsAny(span, " *<") && !notYet[span] {
				seen["file"]++
				if !exists(span) {
					t.Errorf("%s: there is no %s", name, span)
				}
			}
		}
	}
	for _, kind := range []string{"make", "go", "file"} {
		if seen[kind] == 0 {
			t.Errorf("no document names a %s", kind)
		}
	}
}

// notYet are paths that readers or commands make.
var notYet = map[string]bool{
	"rules/line/line.rego":   true,
	"rules/plants/data.json": true,
	"bin/handler":            true,
	"bin/usher":              true,
}

// withoutBlocks is a document without its fenced blocks.
func withoutBlocks(t *testing.T, document string) string {
	t.Helper()
	for _, b := range blocksOf(t, document) {
		document = strings.Replace(document, b.text, "", 1)
	}
	return document
}

// codeOnly is the code in a document, in blocks and between backquotes.
func codeOnly(t *testing.T, document string) string {
	t.Helper()
	var code strings.Builder
	for _, b := range blocksOf(t, document) {
		if b.kind == "sh" {
			code.WriteString(b.text)
		}
	}
	for _, match := range codeSpan.FindAllStringSubmatch(withoutBlocks(t, document), -1) {
		code.WriteString(match[1] + "\n")
	}
	return code.String()
}

func exportedBy(t *testing.T, folder string) []string {
	t.Helper()
	files := token.NewFileSet()
	var parsed []*ast.File
	names, err := fs.Glob(os.DirFS(filepath.Join(root, folder)), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, filepath.Join(root, folder, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	p, err := doc.NewFromFiles(files, parsed, "github.com/usher-dps/usher/"+folder)
	if err != nil {
		t.Fatal(err)
	}
	var exported []string
	add := func(functions []*doc.Func, values ...*doc.Value) {
		for _, f := range functions {
			exported = append(exported, f.Name)
		}
		for _, value := range values {
			exported = append(exported, value.Names...)
		}
	}
	add(p.Funcs, append(p.Consts, p.Vars...)...)
	for _, declared := range p.Types {
		exported = append(exported, declared.Name)
		add(declared.Funcs, append(declared.Consts, declared.Vars...)...)
	}
	return exported
}

// The README shows the folders that there are.
func TestTree(t *testing.T) {
	t.Parallel()
	shown := 0
	for _, b := range blocksOf(t, readDocument(t, "README.md")) {
		if b.kind != "text" {
			continue
		}
		for line := range strings.Lines(b.text) {
			shown++
			name, what, _ := strings.Cut(strings.TrimSpace(line), " ")
			if !exists(name) || strings.TrimSpace(what) == "" {
				t.Errorf("README.md: %q is not there or not explained", name)
			}
		}
	}
	if shown < 10 {
		t.Errorf("README.md shows %d folders", shown)
	}
}

// Rego in documents is in OPA's format, as rules have to be.
func TestRegoIsFormatted(t *testing.T) {
	t.Parallel()
	for _, name := range documents(t) {
		for _, b := range blocksOf(t, readDocument(t, name)) {
			if b.kind != "rego" {
				continue
			}
			text := b.text
			if b.note == "fragment" {
				text = "package fragment\n\n" + text
			}
			want, err := format.SourceWithOpts(name, []byte(text), format.Opts{RegoVersion: opa.RegoV1})
			if err != nil {
				t.Errorf("%s:%d: %v", name, b.line, err)
				continue
			}
			if diff := gocmp.Diff(string(want), text); diff != "" {
				t.Errorf("%s:%d: not formatted (-opa fmt +document):\n%s", name, b.line, diff)
			}
		}
	}
}

// A document that is said to be a page long is not much longer.
func TestLength(t *testing.T) {
	t.Parallel()
	for _, name := range documents(t) {
		limit := 0
		switch {
		case strings.HasPrefix(name, "docs/adr/"), name == "CONTRIBUTING.md":
			limit = 60
		case name == "docs/architecture.md":
			limit = 120
		}
		if lines := strings.Count(readDocument(t, name), "\n"); limit > 0 && lines > limit {
			t.Errorf("%s has %d lines, the page has %d", name, lines, limit)
		}
	}
}
