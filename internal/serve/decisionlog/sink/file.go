package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
)

// FileOptions configure a [File].
type FileOptions struct {
	// Path of the file that is written to. Its folder is made if it is not there. Required.
	Path string
	// MaxBytes bounds the file: what would make it longer begins a new one. 0 means DefaultFileBytes.
	MaxBytes int64
	// MaxAge is the length of the periods that have a file each, counted from
	// the beginning of 1970, UTC: 24h is one for each day. 0 means one for each day.
	MaxAge time.Duration
	// Keep is how many old files are kept; 0 means DefaultFileKeep.
	Keep int
	// Sync is when a record must be on the disk; empty means appender.Interval.
	Sync appender.Policy
	// Failed is told of trouble that Write does not return: no record is lost
	// by it yet. Nil for nobody. It must not call the File.
	Failed func(error)
	// OpenFile opens the file to write; nil means appender.OpenFile. Tests make it fail.
	OpenFile appender.OpenFunc
}

// Defaults of FileOptions.
const (
	DefaultFileBytes = 100 << 20
	DefaultFileAge   = 24 * time.Hour
	DefaultFileKeep  = 14
)

// File writes records to a file, a line each. From time to time it renames the file and
// begins a new one; an old file has the number of its succession before the extension: after
// records.ndjson come records-000001.ndjson, records-000002.ndjson and so on.
//
// Own code in place of lumberjack, which never waits for the disk, and leaves what it
// wrote of a record when the disk was full before the next one.
type File struct {
	options FileOptions

	mu      sync.Mutex
	current *appender.Appender
	info    fs.FileInfo // of the file that is open
	checked time.Time
	period  int64
	line    []byte
	closed  bool
	lock    *flock.Flock
}

// lockPatience is how long OpenFile waits for another process to give the file
// up: a handler whose host died lives for a second more.
const lockPatience = 5 * time.Second

// OpenFile opens the file. One that ends in the middle of a line gets a line end first, so that
// only that line is lost.
func OpenFile(options FileOptions) (*File, error) {
	options.MaxBytes = cmp.Or(options.MaxBytes, DefaultFileBytes)
	options.MaxAge = cmp.Or(options.MaxAge, DefaultFileAge)
	options.Keep = cmp.Or(options.Keep, DefaultFileKeep)
	options.Sync = cmp.Or(options.Sync, appender.Interval)
	if options.Failed == nil {
		options.Failed = func(error) {}
	}
	if options.OpenFile == nil {
		options.OpenFile = appender.OpenFile
	}
	f := &File{options: options}
	if err := os.MkdirAll(filepath.Dir(options.Path), 0o750); err != nil {
		return nil, fmt.Errorf("the folder of %s cannot be made: %w", options.Path, err)
	}
	if info, err := os.Stat(options.Path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a folder: name a file in it", options.Path)
	}
	if err := f.lockFile(); err != nil {
		return nil, err
	}
	if err := f.open(time.Now()); err != nil {
		return nil, errors.Join(err, f.lock.Close())
	}
	f.prune()
	return f, nil
}

// lockFile keeps other processes off: two that write and rename the same file would lose
// records of each other.
func (f *File) lockFile() error {
	f.lock = flock.New(f.options.Path+".lock", flock.SetPermissions(0o640))
	patience, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	locked, err := f.lock.TryLockContext(patience, 50*time.Millisecond)
	if errors.Is(err, context.DeadlineExceeded) || err == nil && !locked {
		return fmt.Errorf("another process writes to %s; give each process a file of its own", f.options.Path)
	}
	return err
}

// Name tells the path.
func (f *File) Name() string { return "file:" + f.options.Path }

// Write writes a line, wholly or not at all.
func (f *File) Write(record []byte) error {
	current, end, err := f.append(record)
	if err != nil {
		return err
	}
	return current.Commit(end)
}

func (f *File) append(record []byte) (*appender.Appender, int64, error) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, 0, &fs.PathError{Op: "write", Path: f.options.Path, Err: fs.ErrClosed}
	}
	f.line = append(append(f.line[:0], record...), '\n')
	if err := f.ready(now, int64(len(f.line))); err != nil {
		return nil, 0, err
	}
	end, err := f.current.Append(f.line)
	if err != nil {
		return nil, 0, err // names the path
	}
	f.period = max(f.period, f.periodOf(now))
	return f.current, end, nil
}

// periodOf numbers the periods. A clock that is put back begins no new one.
func (f *File) periodOf(t time.Time) int64 { return t.UnixNano() / int64(f.options.MaxAge) }

// ready makes sure that a file is open, that it is the one at the path, and that it has room.
func (f *File) ready(now time.Time, size int64) error {
	if f.current != nil && f.current.Broken() {
		f.close()
	}
	if since := now.Sub(f.checked); f.current != nil && (since >= time.Second || since < 0) {
		// Somebody else may have renamed it, too, or deleted it.
		f.checked = now
		if info, err := os.Stat(f.options.Path); err != nil || !os.SameFile(info, f.info) {
			f.close()
		}
	}
	if f.current == nil {
		if err := f.open(now); err != nil {
			return err
		}
	}
	written := f.current.Size()
	if written == 0 || written+size <= f.options.MaxBytes && f.periodOf(now) <= f.period {
		return nil
	}
	if err := os.Rename(f.options.Path, f.next()); err != nil {
		// Better a file that is too long than no record.
		f.options.Failed(fmt.Errorf("begin a new file: %w", err))
		return nil
	}
	f.close()
	if err := f.open(now); err != nil {
		return err
	}
	f.prune()
	return nil
}

func (f *File) close() {
	if err := f.current.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		f.options.Failed(err)
	}
	f.current = nil
}

// open opens the file at the path, which may be there already.
func (f *File) open(now time.Time) error {
	file, err := f.options.OpenFile(f.options.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	info, err := os.Stat(f.options.Path)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.current = appender.New(file, info.Size(), f.options.Sync, f.options.Failed)
	f.info, f.checked, f.period = info, now, f.periodOf(now)
	if info.Size() > 0 {
		f.period = f.periodOf(info.ModTime())
		if !endsLine(f.options.Path, info.Size()) {
			if _, err := f.current.Append([]byte{'\n'}); err != nil {
				f.close()
				return err
			}
		}
	}
	return nil
}

func endsLine(path string, size int64) bool {
	file, err := os.Open(path)
	if err != nil {
		return true // it cannot be read, only written to
	}
	defer file.Close()
	var last [1]byte
	_, err = file.ReadAt(last[:], size-1)
	return err != nil || last[0] == '\n'
}

// old are the paths of the old files, the oldest first, and the number of the last.
func (f *File) old() (paths []string, last int) {
	extension := filepath.Ext(f.options.Path)
	prefix := strings.TrimSuffix(filepath.Base(f.options.Path), extension) + "-"
	entries, err := os.ReadDir(filepath.Dir(f.options.Path))
	if err != nil {
		return nil, 0
	}
	numbers := map[string]int{}
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), prefix)
		number, _ = strings.CutSuffix(number, ".gz") // somebody may compress them
		number, _ = strings.CutSuffix(number, ".zst")
		number, ok2 := strings.CutSuffix(number, extension)
		n, err := strconv.Atoi(number)
		if !ok || !ok2 || err != nil || n <= 0 || len(number) < 6 {
			continue
		}
		path := filepath.Join(filepath.Dir(f.options.Path), entry.Name())
		numbers[path] = n
		paths = append(paths, path)
		last = max(last, n)
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(numbers[a], numbers[b]) })
	return paths, last
}

func (f *File) next() string {
	extension := filepath.Ext(f.options.Path)
	_, last := f.old()
	return fmt.Sprintf("%s-%06d%s", strings.TrimSuffix(f.options.Path, extension), last+1, extension)
}

func (f *File) prune() {
	paths, _ := f.old()
	for len(paths) > f.options.Keep {
		if err := os.Remove(paths[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.options.Failed(fmt.Errorf("remove an old file: %w", err))
		}
		paths = paths[1:]
	}
}

// Close makes everything safe and closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var err error
	if f.current != nil {
		err = f.current.Close()
	}
	return errors.Join(err, f.lock.Close())
}
