package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watchQuiet is how long no file may have changed before the tests run again, because editors write a file in several
// steps.
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
		// Watch before each run, so that no change during it is missed, and again each time, because folders come and
		// go.
		if err := flags.watchAll(watcher); err != nil {
			return fmt.Errorf("watch for changes: %w", err)
		}
		if err := flags.runOnce(ctx, stdout, stderr); ctx.Err() == nil && err != nil {
			fmt.Fprintf(stderr, "usher: %v\n", err)
		}
		if ctx.Err() != nil {
			return nil // after Ctrl-C
		}
		fmt.Fprintf(stderr, "waiting for changes in %s; press Ctrl-C to stop\n", flags.rules.path)
		if err := waitForChange(ctx, watcher); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		fmt.Fprintln(stdout)
	}
}

// watchAll watches all folders below the rules and the exchanges, or the folder that contains the bundle.
func (flags *testFlags) watchAll(watcher *fsnotify.Watcher) error {
	roots := []string{flags.rules.path, flags.exchangeFolder()}
	if !flags.rules.isFolder() {
		roots[0] = filepath.Dir(flags.rules.path)
	}
	for _, root := range roots {
		if root == "" {
			continue
		}
		err := walk(root, func(name string, entry fs.DirEntry) error {
			if entry.IsDir() {
				return watcher.Add(name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// waitForChange returns once files have changed and then stayed the same for watchQuiet, or when ctx is done.
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

// concernsRules ignores the temporary copies of editors, and changes of only the mode.
func concernsRules(event fsnotify.Event) bool {
	base := filepath.Base(event.Name)
	return event.Op != fsnotify.Chmod && !strings.HasPrefix(base, ".") && !strings.HasSuffix(base, "~")
}
