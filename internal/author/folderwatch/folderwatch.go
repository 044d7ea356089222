// Package folderwatch waits for changes of the files in folders, for commands that work on while someone edits.
package folderwatch

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long no file may have changed before a change counts as complete, because editors write a file in several
// steps.
const quiet = 100 * time.Millisecond

// Watcher notices changes from the last call of Watch on. It is for use by one goroutine.
type Watcher struct{ *fsnotify.Watcher }

// New returns a watcher that watches nothing yet. The caller closes it.
func New() (Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return Watcher{}, fmt.Errorf("watch for changes: %w", err)
	}
	return Watcher{w}, nil
}

// Watch watches folders and all folders below them, except those whose names start with a dot. Call it again after each
// change, because folders come and go.
func (w Watcher) Watch(folders ...string) error {
	for _, root := range folders {
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case !entry.IsDir():
				return nil
			case name != root && strings.HasPrefix(entry.Name(), "."):
				return filepath.SkipDir
			}
			return w.Add(name)
		})
		if err != nil {
			return fmt.Errorf("watch for changes: %w", err)
		}
	}
	return nil
}

// Wait returns once files have changed and then stayed the same for a moment, or when ctx is done.
func (w Watcher) Wait(ctx context.Context) error {
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return fmt.Errorf("watch for changes: %w", err)
		case event := <-w.Events:
			if concernsFiles(event) {
				settled = time.After(quiet)
			}
		case <-settled:
			return nil
		}
	}
}

// concernsFiles ignores the temporary copies of editors, and changes of only the mode.
func concernsFiles(event fsnotify.Event) bool {
	base := filepath.Base(event.Name)
	return event.Op != fsnotify.Chmod && !strings.HasPrefix(base, ".") && !strings.HasSuffix(base, "~")
}
