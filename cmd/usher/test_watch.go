package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/usher-dps/usher/internal/author/folderwatch"
)

// keepRunning runs the tests now and after each change, until ctx is done.
func (flags *testFlags) keepRunning(ctx context.Context, stdout, stderr io.Writer) error {
	if _, err := openRules(flags.rules); err != nil {
		return err
	}
	watcher, err := folderwatch.New()
	if err != nil {
		return err
	}
	defer watcher.Close()
	for {
		// Watch before each run, so that no change during it is missed.
		if err := watcher.Watch(flags.watched()...); err != nil {
			return err
		}
		if err := flags.runOnce(ctx, stdout, stderr); ctx.Err() == nil && err != nil {
			fmt.Fprintf(stderr, "usher: %v\n", err)
		}
		if ctx.Err() != nil {
			return nil // after Ctrl-C
		}
		fmt.Fprintf(stderr, "waiting for changes in %s; press Ctrl-C to stop\n", flags.rules.path)
		if err := watcher.Wait(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		fmt.Fprintln(stdout)
	}
}

// watched are the folders of the rules and the exchanges, or the one that contains the bundle.
func (flags *testFlags) watched() []string {
	rules := flags.rules.path
	if !flags.rules.isFolder() {
		rules = filepath.Dir(rules)
	}
	if exchanges := flags.exchangeFolder(); exchanges != "" {
		return []string{rules, exchanges}
	}
	return []string{rules}
}
