package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watchQuiet is how long no file may change before the tests run again: an editor
// writes a file in several steps.
const watchQuiet = 100 * time.Millisecond

// keepRunning runs the tests now and after each change, until ctx is done.
func (flags *testFlags) keepRunning(ctx context.Context, stdout, stderr io.Writer) error {
	if _, err := openRules(flags.rules); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch for changes: %w", err)
	}
	defer watcher.Close()
	for {
		// Before the run, so that no change during it is missed; each time, because folders come and go.
		if err := flags.watchAll(watcher); err != nil {
			return fmt.Errorf("watch for changes: %w", err)
		}
		if err := flags.runOnce(ctx, stdout, stderr); ctx.Err() == nil && err != nil {
			fmt.Fprintf(stderr, "usher: %v\n", err)
		}
		if ctx.Err() != nil {
			return nil // Ctrl-C is how one leaves
		}
		fmt.Fprintf(stderr, "waiting for changes in %s; Ctrl-C ends\n", flags.rules.path)
		if err := waitForChange(ctx, watcher); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		fmt.Fprintln(stdout)
	}
}

// watchAll watches all folders below the rules and the exchanges, or the folder of a bundle.
func (flags *testFlags) watchAll(watcher *fsnotify.Watcher) error {
	roots := []string{flags.rules.path, flags.exchangeFolder()}
	if info, err := os.Stat(flags.rules.path); err == nil && !info.IsDir() {
		roots[0] = filepath.Dir(flags.rules.path)
	}
	for _, root := range roots {
		if root == "" {
			continue
		}
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case !entry.IsDir():
				return nil
			case name != root && strings.HasPrefix(entry.Name(), "."):
				return filepath.SkipDir
			}
			return watcher.Add(name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// waitForChange returns when files have changed and then been left alone, or ctx is done.
func waitForChange(ctx context.Context, watcher *fsnotify.Watcher) error {
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			return fmt.Errorf("watch for changes: %w", err)
		case event := <-watcher.Events:
			if concernsRules(event) {
				quiet = time.After(watchQuiet)
			}
		case <-quiet:
			return nil
		}
	}
}

// concernsRules leaves out an editor's copies and changes of mode alone.
func concernsRules(event fsnotify.Event) bool {
	base := filepath.Base(event.Name)
	return event.Op != fsnotify.Chmod && !strings.HasPrefix(base, ".") && !strings.HasSuffix(base, "~")
}
