package ruleset

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader/filter"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"github.com/usher-dps/usher/internal/decide/lookups"
)

// file is one file of a ruleset.
type file struct {
	path string // relative to the folder
	text []byte
}

// sources are the files of a ruleset by kind, each in lexical order.
type sources struct{ rego, data, schemas, lookups []file }

func readFiles(fsys fs.FS) (s sources, err error) {
	names, err := Files(fsys, false)
	if err != nil {
		return s, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return s, err
		}
		f := file{name, decode(text)}
		switch {
		case isRego(name):
			s.rego = append(s.rego, f)
		case IsDataSchema(name):
			s.schemas = append(s.schemas, f)
		case lookups.IsDeclaration(name):
			s.lookups = append(s.lookups, f)
		default:
			s.data = append(s.data, f)
		}
	}
	return s, nil
}

// decode returns the text of a file in UTF-8 without a byte order mark. With one, it can be in UTF-16, as Windows
// PowerShell writes it.
func decode(text []byte) []byte {
	decoded, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), text)
	if err != nil {
		return text // its reader says what is wrong with it
	}
	return decoded
}

// Files lists the files under fsys that belong to rules, in lexical order: Rego, data, the schemas of data and
// declarations of look-ups, and with tests set also tests, invariants and fixtures. Hidden files and folders are left
// out.
func Files(fsys fs.FS, tests bool) ([]string, error) {
	var names []string
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		isHidden := name != "." && strings.HasPrefix(path.Base(name), ".")
		switch {
		case err != nil:
			return err
		case entry.IsDir() && isHidden:
			return fs.SkipDir // such as .git or an editor's folder
		case entry.IsDir() || isHidden:
		case isRego(name), isData(name), IsDataSchema(name), lookups.IsDeclaration(name),
			tests && (IsTest(name) || IsInvariants(name) || lookups.IsFixture(name)):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// IsTest reports whether a file contains tests, which are not served.
func IsTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// IsInvariants reports whether a file contains invariants, which are not served.
func IsInvariants(name string) bool { return strings.HasSuffix(name, "_invariants.rego") }

func isRego(name string) bool {
	return strings.HasSuffix(name, ".rego") && !IsTest(name) && !IsInvariants(name)
}

func isData(name string) bool {
	return slices.Contains([]string{"data.json", "data.yaml", "data.yml"}, path.Base(name))
}

// IsDataSchema reports whether a file is the JSON Schema of the data file next to it. It is no data itself.
func IsDataSchema(name string) bool { return path.Base(name) == "data.schema.json" }

// openStore puts the data files where rules find them, by OPA's own reader: data.json in a folder tenants is
// data.tenants, as in an OPA bundle.
func (rs *Ruleset) openStore(ctx context.Context, data, schemas []file) error {
	if problems := rs.checkData(slices.Concat(data, schemas)); len(problems) > 0 {
		return NewLoadError(problems)
	}
	for _, f := range data {
		rs.dataFiles = append(rs.dataFiles, f.path)
	}
	content, err := bundle.NewCustomReader(&memoryLoader{files: data}).
		WithSkipBundleVerification(true).
		WithBaseDir(rs.options.Name).
		Read()
	if err != nil {
		return rs.placed(err)
	}
	if problems := rs.checkSchemas(data, schemas); len(problems) > 0 {
		return NewLoadError(problems)
	}
	rs.store = inmem.NewFromObjectWithOpts(content.Data,
		inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	// Nothing is ever written, so one read transaction serves all requests.
	if rs.txn, err = rs.store.NewTransaction(ctx); err != nil {
		return err
	}
	root, err := rs.store.Read(ctx, rs.txn, storage.RootPath)
	if err != nil {
		return err
	}
	rs.data = root.(ast.Value) // as OptReturnASTValuesOnRead demands
	return nil
}

// memoryLoader passes files that are already in memory to OPA's bundle reader. It has nothing to filter, limit or
// follow.
type memoryLoader struct{ files []file }

func (l *memoryLoader) NextFile() (*bundle.Descriptor, error) {
	if len(l.files) == 0 {
		return nil, io.EOF
	}
	next := l.files[0]
	l.files = l.files[1:]
	return bundle.NewDescriptor(next.path, "/"+next.path, bytes.NewReader(next.text)), nil
}

func (l *memoryLoader) WithFilter(filter.LoaderFilter) bundle.DirectoryLoader   { return l }
func (l *memoryLoader) WithPathFormat(bundle.PathFormat) bundle.DirectoryLoader { return l }
func (l *memoryLoader) WithSizeLimitBytes(int64) bundle.DirectoryLoader         { return l }
func (l *memoryLoader) WithFollowSymlinks(bool) bundle.DirectoryLoader          { return l }

// readPackages sorts files into packages. It parses each file only up to its package clause, so that binding a thousand
// rules takes as long as compiling one, and takes from known packages what has not changed.
func readPackages(rego []file, name string, options ast.ParserOptions, known map[string]*rulePackage, pace *pace) (map[string]*rulePackage, []Problem) {
	headers := make([]*ast.Module, len(rego))
	failures := make([]error, len(rego))
	type head struct {
		file
		module *ast.Module
	}
	before := map[string]head{}
	for _, p := range known {
		for i, f := range p.files {
			before[f.path] = head{f, p.modules[i]}
		}
	}
	pace.each(len(rego), func(i int) {
		place := path.Join(name, rego[i].path)
		if same := before[place]; same.module != nil && bytes.Equal(same.text, rego[i].text) {
			headers[i] = same.module
			return
		}
		headers[i], failures[i] = parseHeader(place, &rego[i], options)
	})
	var problems []Problem
	packages := map[string]*rulePackage{}
	for i, f := range rego {
		if failures[i] != nil {
			problems = append(problems, problemsOf(failures[i])...)
			continue
		}
		key := PackageName(headers[i])
		p := packages[key]
		if p == nil {
			p = &rulePackage{name: key, path: headers[i].Package.Path}
			packages[key] = p
		}
		p.files = append(p.files, file{path.Join(name, f.path), f.text})
		p.modules = append(p.modules, headers[i])
		for _, annotation := range headers[i].Annotations {
			if annotation.Scope == "package" {
				p.header = append(p.header, annotation)
			}
		}
	}
	for key, p := range packages {
		if same := known[key]; p.is(same) {
			packages[key] = same
		}
	}
	return packages, problems
}

func parseHeader(place string, f *file, options ast.ParserOptions) (*ast.Module, error) {
	header, err := ast.ParseModuleWithOpts(place, headerOf(f.text), options)
	if err != nil { // perhaps because headerOf stopped too early
		header, err = ast.ParseModuleWithOpts(place, string(f.text), options)
	}
	placeAnchor(err, f.text)
	return header, err
}

var unknownAnchor = regexp.MustCompile(`^yaml: unknown anchor '(.*)' referenced`)

// placeAnchor corrects the line of an error about METADATA such as [*-line], which YAML reads as a reference to an
// anchor, without saying where.
func placeAnchor(err error, text []byte) {
	list, _ := errors.AsType[ast.Errors](err)
	for _, e := range list {
		match := unknownAnchor.FindStringSubmatch(e.Message)
		if match == nil {
			continue
		}
		lines := strings.Split(string(text), "\n")
		for i := max(e.Location.Row-1, 0); i < len(lines); i++ {
			if strings.Contains(lines[i], "*"+match[1]) {
				e.Location, e.Details = ast.NewLocation(nil, e.Location.File, i+1, 1), nil
				break
			}
		}
	}
}

// headerOf returns a file up to and including its package clause; the whole file if it has none, so that OPA's parser
// reports what is missing.
func headerOf(text []byte) string {
	end := 0
	for line := range bytes.Lines(text) {
		end += len(line)
		switch line = bytes.TrimSpace(line); {
		case bytes.HasPrefix(line, []byte("package")):
			return string(text[:end])
		case len(line) > 0 && line[0] != '#':
			return string(text)
		}
	}
	return string(text)
}

// PackageName is the name of a module's package, such as allocation.line. OPA's own Path.String would write
// allocation["default"] for package allocation.default, whose last word is a keyword.
func PackageName(module *ast.Module) string {
	var name strings.Builder
	for i, term := range module.Package.Path[1:] {
		label := string(term.Value.(ast.String))
		switch {
		case !ast.IsVarCompatibleString(label):
			label = "[" + strconv.Quote(label) + "]"
		case i > 0:
			label = "." + label
		}
		name.WriteString(label)
	}
	return name.String()
}
