package sink

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
)

// FileOptions configure a [File].
type FileOptions struct {
	// Path of the file. Its folder is created if it does not exist. Required.
	Path string
	// MaxBytes bounds the file: a record that would exceed it starts a new one. 0 means DefaultFileBytes.
	MaxBytes int64
	// MaxAge is the length of the periods that have a file each, counted from the start of 1970, UTC: 24h is one for
	// each day. 0 means DefaultFileAge.
	MaxAge time.Duration
	// Keep is how many old files are kept; 0 means DefaultFileKeep.
	Keep int
	// Sync is when a record must be on the disk; empty means appender.Interval.
	Sync appender.Policy
	// Failed is called for errors that Write does not return, after which no record is lost yet; it may be nil. It must
	// not call the File.
	Failed func(error)
	// OpenFile opens the file for writing; nil means appender.OpenFile. Tests make it fail.
	OpenFile appender.OpenFunc
}

// Defaults of FileOptions.
const (
	DefaultFileBytes = 100 << 20
	DefaultFileAge   = 24 * time.Hour
	DefaultFileKeep  = 14
)

// File writes records to a file, each on a line. From time to time it renames the file and starts a new one. Old files
// are numbered before the extension: records-000001.ndjson, records-000002.ndjson and so on for records.ndjson.
//
// It is not lumberjack, which never waits for the disk, and which leaves what it wrote of a record when the disk was
// full in front of the next record.
type File struct {
	options FileOptions
	oldName *regexp.Regexp // of old files; its group is the number

	mu      sync.Mutex
	current *appender.Appender // nil if no file is open
	info    fs.FileInfo        // of the open file
	checked time.Time
	period  int64
	line    []byte
	closed  bool
	lock    io.Closer
}

// OpenFile opens the file. One that ends in the middle of a line gets a line end first, so that only that line is lost.
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
	stem, extension := cutExtension(filepath.Base(options.Path))
	f := &File{
		options: options, // old files may be compressed by others
		oldName: regexp.MustCompile("^" + regexp.QuoteMeta(stem) + `-(\d{6,})` + regexp.QuoteMeta(extension) + `(\.gz|\.zst)?$`),
	}
	if err := os.MkdirAll(filepath.Dir(options.Path), 0o750); err != nil {
		return nil, fmt.Errorf("the folder of %s cannot be created: %w", options.Path, err)
	}
	if info, err := os.Stat(options.Path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a folder: name a file in it", options.Path)
	}
	var err error
	if f.lock, err = appender.Lock(options.Path + ".lock"); errors.Is(err, appender.ErrLocked) {
		return nil, fmt.Errorf("%s: %w; give each process a file of its own", options.Path, err)
	}
	if err != nil {
		return nil, err
	}
	if err := f.open(time.Now()); err != nil {
		return nil, errors.Join(err, f.lock.Close())
	}
	f.prune()
	return f, nil
}

func cutExtension(path string) (stem, extension string) {
	extension = filepath.Ext(path)
	return strings.TrimSuffix(path, extension), extension
}

// Name returns the kind and the path.
func (f *File) Name() string { return "file:" + f.options.Path }

// Write writes a line, completely or not at all.
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
		return nil, 0, err // contains the path
	}
	f.period = max(f.period, f.periodOf(now))
	return f.current, end, nil
}

// periodOf numbers the periods. A clock that is put back starts no new one.
func (f *File) periodOf(t time.Time) int64 { return t.UnixNano() / int64(f.options.MaxAge) }

// ready makes sure that a file is open, that it is the one at the path, and that it has room.
func (f *File) ready(now time.Time, size int64) error {
	if f.current != nil && f.current.Broken() {
		f.close()
	}
	if since := now.Sub(f.checked); f.current != nil && (since >= time.Second || since < 0) {
		// Someone else may have renamed or deleted it.
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
	stem, extension := cutExtension(f.options.Path)
	old := f.old()
	last := 0
	if len(old) > 0 {
		last = old[len(old)-1].number
	}
	if err := os.Rename(f.options.Path, fmt.Sprintf("%s-%06d%s", stem, last+1, extension)); err != nil {
		// A file that is too long is better than no record.
		f.options.Failed(fmt.Errorf("start a new file: %w", err))
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

// open opens the file at the path, which may already exist.
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
		return true // it can be written, but not read
	}
	defer file.Close()
	var last [1]byte
	_, err = file.ReadAt(last[:], size-1)
	return err != nil || last[0] == '\n'
}

type oldFile struct {
	path   string
	number int
}

// old returns the old files, the oldest first.
func (f *File) old() []oldFile {
	folder := filepath.Dir(f.options.Path)
	entries, _ := os.ReadDir(folder)
	var files []oldFile
	for _, entry := range entries {
		if parts := f.oldName.FindStringSubmatch(entry.Name()); parts != nil {
			if number, err := strconv.Atoi(parts[1]); err == nil && number > 0 {
				files = append(files, oldFile{filepath.Join(folder, entry.Name()), number})
			}
		}
	}
	slices.SortFunc(files, func(a, b oldFile) int { return cmp.Compare(a.number, b.number) })
	return files
}

func (f *File) prune() {
	files := f.old()
	for _, file := range files[:max(0, len(files)-f.options.Keep)] {
		if err := os.Remove(file.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.options.Failed(fmt.Errorf("remove an old file: %w", err))
		}
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
