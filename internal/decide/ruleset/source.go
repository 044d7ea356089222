package ruleset

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader/filter"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// file is one file of a ruleset; its path is relative to the folder.
type file struct {
	path string
	text []byte
}

type files struct {
	rego []file
	data []file // data.json and data.yaml
}

func readFiles(fsys fs.FS) (files, error) {
	var found files
	names, err := Files(fsys, false)
	if err != nil {
		return found, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return found, err
		}
		if isRego(name) {
			found.rego = append(found.rego, file{name, text})
		} else {
			found.data = append(found.data, file{name, text})
		}
	}
	return found, nil
}

func isRego(name string) bool {
	return strings.HasSuffix(name, ".rego") && !IsTest(name) && !IsInvariants(name)
}

func isData(name string) bool {
	base := path.Base(name)
	return base == "data.json" || base == "data.yaml" || base == "data.yml"
}

func isHidden(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, ".") && base != "."
}

func (f files) digest() string {
	var parts [][]byte
	for _, file := range slices.Concat(f.rego, f.data) {
		parts = append(parts, []byte(file.path), file.text)
	}
	return digestOf(parts...)
}

// openStore puts the data files where rules find them: data.json in a folder
// tenants is data.tenants, as in an OPA bundle, by OPA's own reader.
func (rs *Ruleset) openStore(ctx context.Context, data []file, name string) error {
	content, err := bundle.NewCustomReader(&memoryLoader{files: data}).
		WithSkipBundleVerification(true).
		WithBaseDir(name).
		Read()
	if err != nil {
		return NewLoadError([]Problem{{Place: name, Message: err.Error()}})
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

// memoryLoader hands files that were read already to OPA's bundle reader. It has
// nothing to filter, to limit or to follow.
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

// rulePackage is a Rego package, which may be spread over several files.
type rulePackage struct {
	name   string // without "data."
	path   ast.Ref
	files  []file
	header []*ast.Annotations // the METADATA with scope package, one for a file that has it
}

// readPackages sorts files into packages. It reads no further than each file's
// package clause: a thousand rules are bound in the time that one needs to compile.
func readPackages(rego []file, name string, options ast.ParserOptions) (map[string]*rulePackage, []Problem) {
	headers := make([]*ast.Module, len(rego))
	failures := make([]error, len(rego))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(rego)) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(rego)); i = next.Add(1) - 1 {
				headers[i], failures[i] = parseHeader(path.Join(name, rego[i].path), &rego[i], options)
			}
		})
	}
	group.Wait()
	var problems []Problem
	packages := map[string]*rulePackage{}
	for i, f := range rego {
		if failures[i] != nil {
			problems = append(problems, problemsOf(failures[i])...)
			continue
		}
		key := packageName(headers[i].Package)
		p := packages[key]
		if p == nil {
			p = &rulePackage{name: key, path: headers[i].Package.Path}
			packages[key] = p
		}
		p.files = append(p.files, file{path.Join(name, f.path), f.text})
		for _, annotation := range headers[i].Annotations {
			if annotation.Scope == "package" {
				p.header = append(p.header, annotation)
			}
		}
	}
	return packages, problems
}

const byteOrderMark = "\ufeff"

func parseHeader(place string, f *file, options ast.ParserOptions) (*ast.Module, error) {
	// Behind a byte order mark, OPA's parser would not find METADATA in the first line.
	f.text = bytes.TrimPrefix(f.text, []byte(byteOrderMark))
	header, err := ast.ParseModuleWithOpts(place, headerOf(f.text), options)
	if err != nil { // perhaps because headerOf stopped too early
		return ast.ParseModuleWithOpts(place, string(f.text), options)
	}
	return header, nil
}

// headerOf returns a file up to and with its package clause; the whole file if
// it has none, so that OPA's parser says what is missing.
func headerOf(text []byte) string {
	for start := 0; start < len(text); {
		end := start + bytes.IndexByte(text[start:], '\n') + 1
		if end == start {
			end = len(text)
		}
		line := bytes.TrimSpace(text[start:end])
		if len(line) > 0 && line[0] != '#' {
			if bytes.HasPrefix(line, []byte("package")) {
				return string(text[:end])
			}
			break
		}
		start = end
	}
	return string(text)
}

// packageName writes a package's path with dots. OPA's own Path.String would make
// allocation["default"] of package allocation.default, whose last word is a keyword.
func packageName(p *ast.Package) string {
	var name strings.Builder
	for i, term := range p.Path[1:] {
		label := string(term.Value.(ast.String))
		switch {
		case !ast.IsVarCompatibleString(label):
			name.WriteString("[" + strconv.Quote(label) + "]")
		case i > 0:
			name.WriteString("." + label)
		default:
			name.WriteString(label)
		}
	}
	return name.String()
}
