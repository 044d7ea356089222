package rulesource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// watchInterval is how often a folder is checked for changes.
const watchInterval = time.Second

// folder reads rules from a folder, or from a bundle in a file.
type folder struct {
	*Keeper
	read    string    // fingerprint of the files that were read last, good or not
	changed string    // fingerprint of files that are being changed
	again   time.Time // when files are tried again whose self-test failed for a reason that may pass
}

func (f *folder) wait() time.Duration { return watchInterval }

func (f *folder) compiled(context.Context, error) {}

func (f *folder) start(ctx context.Context) error {
	start := time.Now()
	if f.options.Watch { // else the files are never compared
		f.read = f.fingerprint()
	}
	rules, _, err := f.load(ctx, f.options.CheckAfter)
	if err != nil {
		return err
	}
	f.activate(ctx, rules, start, f.options.CheckAfter, false)
	f.confirm(ctx)
	return nil
}

// refresh loads the folder again when it has changed and then stayed the same from one refresh to the next: an editor
// writes in several steps.
func (f *folder) refresh(ctx context.Context) error {
	now := f.fingerprint()
	if now == f.read {
		f.changed = ""
		return nil
	}
	if now != f.changed {
		f.changed, f.again = now, time.Time{}
		return nil
	}
	if time.Now().Before(f.again) {
		return nil
	}
	start := time.Now()
	rules, err := f.loadTested(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, again := errors.AsType[momentary](err); again {
		f.again = time.Now().Add(f.options.Poll)
	} else {
		f.read, f.changed = now, ""
	}
	if err != nil {
		f.refuse(ctx, now, err)
		return err
	}
	if f.inUse(rules) { // such as after the edit of a test
		f.accept(ctx)
		return nil
	}
	f.activate(ctx, rules, start, false, false)
	f.confirm(ctx)
	return nil
}

// loadTested loads rules that take the place of others. Those in use are not tested again.
func (f *folder) loadTested(ctx context.Context) (rules *decider.Rules, err error) {
	defer guard(&err)
	rules, files, err := f.load(ctx, false)
	if err != nil || f.options.NoSelfTest || f.inUse(rules) {
		return rules, err
	}
	return rules, selfTest(ctx, f.rules, rules, files, f.options.Timeout)
}

// inUse reports whether rules are those in use, with the rows that stand for the sources of their look-ups.
func (f *folder) inUse(rules *decider.Rules) bool {
	return rules.Digest() == f.digest() && rules.Set().FixturesDigest() == f.rules.Set().FixturesDigest()
}

func (f *folder) load(ctx context.Context, lazy bool) (*decider.Rules, fs.FS, error) {
	f.count(func(s *Stats) { s.Attempts++; s.LastAttempt = time.Now() })
	path := f.options.Location.Path
	if info, err := os.Stat(path); err != nil || info.IsDir() == f.options.Location.Bundle() {
		return nil, nil, fmt.Errorf("there is no folder %s; name the folder of the Rego rules, or a bundle (NAME.tar.gz)", path)
	}
	options := f.options.Rules
	options.Name, options.Lazy = path, lazy
	files := os.DirFS(path)
	if f.options.Location.Bundle() {
		opened, err := openBundle(path, f.options.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("%s is not a bundle of rules: %w", path, err)
		}
		files, options.Revision = opened.Files, opened.Revision
	}
	rules, err := f.loadRules(ctx, files, options)
	if err != nil {
		return nil, nil, fmt.Errorf("the rules in %s cannot be loaded:\n%w", path, err)
	}
	return rules, files, nil
}

// openBundle opens a bundle in a file, such as one in a deployment package.
func openBundle(name string, key *rulebundle.Key) (rulebundle.Bundle, error) {
	file, err := os.Open(name)
	if err != nil {
		return rulebundle.Bundle{}, err
	}
	defer file.Close()
	return rulebundle.Read(file, key)
}

// fingerprint changes when files of the folder change in name, size or time. It follows links, which is how Kubernetes
// replaces files.
func (f *folder) fingerprint() string {
	var all bytes.Buffer
	if info, err := os.Stat(f.options.Location.Path); err == nil && !info.IsDir() { // a bundle
		fmt.Fprintf(&all, "%d %d\n", info.Size(), info.ModTime().UnixNano())
		return digestOf(all.Bytes())
	}
	fsys := os.DirFS(f.options.Location.Path)
	_ = fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			fmt.Fprintf(&all, "%q cannot be read\n", name)
			return nil
		case name != "." && entry.Name()[0] == '.':
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if info, err := fs.Stat(fsys, name); err == nil && !info.IsDir() {
			fmt.Fprintf(&all, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	return digestOf(all.Bytes())
}
