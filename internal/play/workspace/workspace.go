// Package workspace is a folder of rules that someone edits: it lists and reads the files, saves them, and loads the rules
// with edits that are not saved yet.
//
// It never reads or writes outside the folder, and never writes over a change that it has not shown.
package workspace

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Options say what is edited.
type Options struct {
	// Folder has the rules.
	Folder string
	// Rules say how rules are loaded. Name is ignored: places are relative to the folder.
	Rules decider.RulesOptions
	// ReadOnly makes Save fail.
	ReadOnly bool
}

// Workspace is a folder of rules. It is safe for concurrent use.
type Workspace struct {
	options Options
	root    *os.Root
	saving  sync.Mutex
	mu      sync.Mutex // guards known
	known   map[string]known
	loads   memo
}

// Kind says what a file is for.
type Kind string

// The kinds.
const (
	Rule       Kind = "rule"    // Rego that serves enrollments
	Library    Kind = "library" // other Rego
	Test       Kind = "test"
	Invariants Kind = "invariants"
	Data       Kind = "data"
	Schema     Kind = "schema" // of data
	Lookups    Kind = "lookups"
	Fixture    Kind = "fixture"
	Exchange   Kind = "exchange"
	Other      Kind = "other"
)

// File is a file of the workspace.
type File struct {
	Path   string `json:"path"` // relative to the folder, with slashes
	Digest string `json:"digest"`
	Kind   Kind   `json:"kind"`
}

// extensions are those of the files that a workspace shows.
var extensions = []string{".rego", ".json", ".yaml", ".yml", ".csv", ".ndjson", ".jsonl", ".md"}

// maxPath bounds the path of a file, in bytes.
const maxPath = 512

// PathError says why a path is not that of a file to edit.
type PathError struct{ Path, Problem string }

func (e *PathError) Error() string { return fmt.Sprintf("%q %s", e.Path, e.Problem) }

// ErrReadOnly is the error of Save if the workspace is read-only.
var ErrReadOnly = errors.New("the rules are open for reading only: start usher play without --read-only to save")

// ChangedError is the error of Save if the file is not the one that the edit began from.
type ChangedError struct {
	Path string
	// Text and Digest are what the file is now. The digest is empty if there is none.
	Text, Digest string
}

func (e *ChangedError) Error() string {
	if e.Digest == "" {
		return e.Path + " was removed by another program after the edit began"
	}
	return e.Path + " was changed by another program after the edit began"
}

// Open opens a folder.
func Open(options Options) (*Workspace, error) {
	root, err := os.OpenRoot(options.Folder)
	if err != nil {
		return nil, err
	}
	options.Rules.Name = ""
	return &Workspace{options: options, root: root, known: map[string]known{}}, nil
}

// Close releases the folder.
func (w *Workspace) Close() error { return w.root.Close() }

// Folder is the path of the folder, as it was given.
func (w *Workspace) Folder() string { return w.options.Folder }

// ReadOnly reports whether Save fails.
func (w *Workspace) ReadOnly() bool { return w.options.ReadOnly }

// CheckPath refuses, with a *PathError, a path that cannot be that of a file in the workspace, whether there is one or not.
func CheckPath(name string) error {
	problem := ""
	switch {
	case len(name) > maxPath:
		name, problem = name[:maxPath], fmt.Sprintf("is longer than %d bytes", maxPath)
	case !fs.ValidPath(name) || name == "." || !utf8.ValidString(name) || strings.ContainsAny(name, `\:`) || strings.ContainsFunc(name, unicode.IsControl):
		problem = "is not a path below the folder of the rules, such as line/line.rego"
	case strings.HasPrefix(name, ".") || strings.Contains(name, "/."):
		problem = "is hidden: usher leaves out files and folders whose names start with a dot"
	case !slices.Contains(extensions, path.Ext(name)):
		problem = "is not a file of rules: its name ends in one of " + strings.Join(extensions, ", ")
	default:
		return nil
	}
	return &PathError{name, problem}
}

// known is a file as it was read.
type known struct {
	text   []byte
	err    error // why it cannot be read
	digest string
	size   int64
	time   time.Time
	at     time.Time // when it was read
}

// settled is after what time a file with the same time of change and size has the same content: a file can change twice
// within what its file system takes for the same time.
const settled = 2 * time.Second

// scan returns the files of the folder. It reads only those that have changed.
func (w *Workspace) scan() (map[string]known, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := make(map[string]known, len(w.known))
	fsys := w.root.FS()
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && name == ".":
			return err
		case err != nil: // removed meanwhile
			return nil
		case entry.IsDir():
			if name != "." && entry.Name()[0] == '.' {
				return fs.SkipDir
			}
			return nil
		case CheckPath(name) != nil:
			return nil
		}
		if f, ok := w.look(fsys, name, entry); ok {
			found[name] = f
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the folder of the rules: %w", err)
	}
	w.known = found
	return found, nil
}

// look reads a file if it has changed. It reports false if there is none, or if it is a folder or a device.
func (w *Workspace) look(fsys fs.FS, name string, entry fs.DirEntry) (known, bool) {
	info, err := entry.Info()
	if entry.Type()&fs.ModeSymlink != 0 {
		info, err = fs.Stat(fsys, name) // if it leads out of the folder, that is an error
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return known{}, false
	case err != nil:
		return known{err: fmt.Errorf("it cannot be read: %w", err)}, true
	case !info.Mode().IsRegular():
		return known{}, false
	}
	before, seen := w.known[name]
	if seen && before.err == nil && before.size == info.Size() && before.time.Equal(info.ModTime()) && before.at.Sub(before.time) > settled {
		return before, true
	}
	f := known{size: info.Size(), time: info.ModTime(), at: time.Now()}
	if f.text, f.err = fs.ReadFile(fsys, name); errors.Is(f.err, fs.ErrNotExist) {
		return known{}, false
	}
	f.digest = digestOf(f.text)
	return f, true
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Files lists the files of the folder in the order of their paths.
func (w *Workspace) Files() ([]File, error) {
	all, err := w.scan()
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(all))
	for name, f := range all {
		files = append(files, File{name, f.digest, kindOf(name, f.text)})
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

func kindOf(name string, text []byte) Kind {
	switch {
	case ruleset.IsTest(name):
		return Test
	case ruleset.IsInvariants(name):
		return Invariants
	case path.Ext(name) == ".rego":
		if header, _, _ := bytes.Cut(text, []byte("\nimport ")); bytes.Contains(header, []byte("enrollment_groups:")) ||
			bytes.Contains(header, []byte("individual_enrollments:")) || bytes.Contains(header, []byte("package allocation.default")) {
			return Rule
		}
		return Library
	case ruleset.IsDataSchema(name):
		return Schema
	case lookups.IsDeclaration(name):
		return Lookups
	case lookups.IsFixture(name):
		return Fixture
	case strings.HasSuffix(name, exchange.RequestSuffix), strings.HasSuffix(name, exchange.DecisionSuffix):
		return Exchange
	case slices.Contains([]string{"data.json", "data.yaml", "data.yml"}, path.Base(name)):
		return Data
	}
	return Other
}

// Read returns the text of a file and its digest. The error is a *PathError or one of the file system.
func (w *Workspace) Read(name string) (text, digest string, err error) {
	if err := CheckPath(name); err != nil {
		return "", "", err
	}
	info, err := w.root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return "", "", &PathError{name, "is not a file"}
	}
	content, err := w.root.ReadFile(name)
	if err != nil {
		return "", "", err
	}
	return string(content), digestOf(content), nil
}

// Save writes a file and returns its digest. A nil text removes the file. The digest that it gets is that of the file
// from which the edit began, empty for a new file. If the file has another one by now, the error is a *ChangedError and
// nothing is written.
func (w *Workspace) Save(name string, text *string, began string) (string, error) {
	if w.options.ReadOnly {
		return "", ErrReadOnly
	}
	if err := CheckPath(name); err != nil {
		return "", err
	}
	w.saving.Lock()
	defer w.saving.Unlock()
	if info, err := w.root.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return "", &PathError{name, "is a link or no file: save the file that it leads to"}
	}
	now, digest, err := w.Read(name)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	case digest != began:
		return "", &ChangedError{name, now, digest}
	case text == nil && digest == "":
		return "", nil
	case text == nil:
		return "", w.root.Remove(name)
	case digest == "":
		return w.create(name, *text)
	default:
		return w.replace(name, *text)
	}
}

// create writes a file that does not exist. If another program makes it meanwhile, that one stays.
func (w *Workspace) create(name, text string) (string, error) {
	if folder := path.Dir(name); folder != "." {
		if err := w.root.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
	}
	file, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		now, digest, err := w.Read(name)
		return "", cmp.Or(err, error(&ChangedError{name, now, digest}))
	}
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	return digestOf([]byte(text)), errors.Join(err, file.Close())
}

// replace writes the whole file next to the old one before it takes its place, so that no program reads half of it.
func (w *Workspace) replace(name, text string) (string, error) {
	info, err := w.root.Stat(name)
	if err != nil {
		return "", err
	}
	temporary := path.Join(path.Dir(name), ".usher-play-"+rand.Text())
	file, err := w.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	err = errors.Join(err, file.Chmod(info.Mode().Perm()), file.Close())
	if err == nil {
		err = w.root.Rename(temporary, name)
	}
	if err != nil {
		return "", errors.Join(err, w.root.Remove(temporary))
	}
	return digestOf([]byte(text)), nil
}
