package workspace

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"

	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Edits are files as they are edited, by their paths: their text, or nil if the file is removed.
type Edits map[string]*string

// Overlay returns the files of the folder with edits over them, as they are now, in memory. The key is another one
// whenever the files differ. What cannot be read, such as a link out of the folder, is left out. The error is a
// *PathError if an edit has no path of a file.
func (w *Workspace) Overlay(edits Edits) (fsys fs.FS, key string, err error) {
	fsys, key, _, err = w.overlay(edits)
	return fsys, key, err
}

// overlay also returns the files of rules that cannot be read.
func (w *Workspace) overlay(edits Edits) (fsys fs.FS, key string, unread []ruleset.Problem, err error) {
	all, err := w.scan()
	if err != nil {
		return nil, "", nil, err
	}
	texts := make(map[string][]byte, len(all))
	for name, f := range all {
		switch _, edited := edits[name]; {
		case f.err == nil || edited:
			texts[name] = f.text
		case kindOf(name, nil) != Other && kindOf(name, nil) != Exchange:
			unread = append(unread, ruleset.Problem{Place: name, Message: f.err.Error(), Fix: "usher play reads only what is in the folder itself"})
		}
	}
	for name, text := range edits {
		if err := CheckPath(name); err != nil {
			return nil, "", nil, err
		}
		if delete(texts, name); text != nil {
			texts[name] = []byte(*text)
		}
	}
	hash := sha256.New()
	archive := &txtar.Archive{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
			if _, isFile := texts[folder]; isFile {
				return nil, "", nil, &PathError{name, "is below " + folder + ", which is a file"}
			}
		}
		digest := all[name].digest
		if _, edited := edits[name]; edited {
			digest = digestOf(texts[name])
		}
		fmt.Fprintf(hash, "%s %s\n", digest, name)
		archive.Files = append(archive.Files, txtar.File{Name: name, Data: texts[name]})
	}
	fsys, err = txtar.FS(archive)
	return fsys, string(hash.Sum(nil)), unread, err
}

// Loaded are rules that are loaded from a workspace. They never change.
type Loaded struct {
	Rules *decider.Rules
	// Files are what they were loaded from, with the edits.
	Files fs.FS
	// Key is another one whenever the files differ.
	Key string
}

// Load loads the rules of the folder with edits over them. It compiles a rule when it is first needed, so that an edit
// of one among many is as fast as of the only one: see [decider.RulesOptions]. The error is a *ruleset.LoadError if the
// rules do not load.
func (w *Workspace) Load(edits Edits) (*Loaded, error) {
	options := w.options.Rules
	options.Lazy = true
	return w.load(edits, options)
}

// LoadAll loads the rules as usher check does, and compiles all of them.
func (w *Workspace) LoadAll(edits Edits) (*Loaded, error) {
	options := w.options.Rules
	options.Strict = true
	return w.load(edits, options)
}

func (w *Workspace) load(edits Edits, options decider.RulesOptions) (*Loaded, error) {
	fsys, key, unread, err := w.overlay(edits)
	if err != nil {
		return nil, err
	}
	if len(unread) > 0 {
		return nil, ruleset.NewLoadError(unread)
	}
	return w.loads.get(fmt.Sprintf("%t %s", options.Lazy, key), func() (*Loaded, error) {
		// It is shared, so that the context of the first who needs it must not end it.
		rules, err := decider.LoadRules(context.Background(), fsys, options)
		if err != nil {
			return nil, err
		}
		return &Loaded{rules, fsys, key}, nil
	})
}

// maxLoads bounds what is kept: the saved rules and the last edits, loaded lazily and as a whole.
const maxLoads = 8

// memo keeps the results that were used last.
type memo struct {
	mu   sync.Mutex
	kept []load // the last used comes last
}

type load struct {
	key string
	run func() (*Loaded, error)
}

func (m *memo) get(key string, run func() (*Loaded, error)) (*Loaded, error) {
	m.mu.Lock()
	one := load{key, sync.OnceValues(run)}
	if i := slices.IndexFunc(m.kept, func(l load) bool { return l.key == key }); i >= 0 {
		one = m.kept[i]
		m.kept = slices.Delete(m.kept, i, i+1)
	} else if len(m.kept) == maxLoads {
		m.kept = slices.Delete(m.kept, 0, 1)
	}
	m.kept = append(m.kept, one)
	m.mu.Unlock()
	return one.run()
}

// Changed reports whether edits differ from what is saved.
func (w *Workspace) Changed(edits Edits) (bool, error) {
	if len(edits) == 0 {
		return false, nil
	}
	all, err := w.scan()
	if err != nil {
		return false, err
	}
	for name, text := range edits {
		f, saved := all[name]
		if saved != (text != nil) || text != nil && string(f.text) != *text {
			return true, nil
		}
	}
	return false, nil
}
