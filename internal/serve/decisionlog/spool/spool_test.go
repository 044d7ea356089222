package spool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
)

// destination takes records, or fails.
type destination struct {
	mu      sync.Mutex
	records []string
	tries   int
	fail    func(records []string) error
	taken   chan struct{} // a token for each batch taken
}

func newDestination() *destination { return &destination{taken: make(chan struct{}, 1<<20)} }

func (d *destination) deliver(ctx context.Context, batch [][]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries++
	var records []string
	for _, record := range batch {
		records = append(records, string(record))
	}
	if d.fail != nil {
		if err := d.fail(records); err != nil {
			return err
		}
	}
	d.records = append(d.records, records...)
	d.taken <- struct{}{}
	return nil
}

func (d *destination) got() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.records)
}

func (d *destination) failWith(fail func([]string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

func away([]string) error { return errors.New("away") }

func open(t *testing.T, options spool.Options) *spool.Spool {
	t.Helper()
	s, err := spool.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Close(ctx) // does nothing if it is closed
	})
	return s
}

// giveUp closes without delivering what is left, like the end of a process.
func giveUp(t *testing.T, s *spool.Spool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); err != nil && !strings.Contains(err.Error(), "not delivered yet") {
		t.Fatal(err)
	}
}

func closeAll(t *testing.T, s *spool.Spool) {
	t.Helper()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, s *spool.Spool, records ...string) {
	t.Helper()
	for _, record := range records {
		if err := s.Write([]byte(record)); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(from, to int) []string {
	var records []string
	for i := from; i < to; i++ {
		records = append(records, fmt.Sprintf(`{"decisionId":"%06d"}`, i))
	}
	return records
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %d records %.300q, want %d %.300q", len(got), got, len(want), want)
	}
}

func segments(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.segment"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The next process delivers what one process wrote: all of it, in order.
func TestDelivers(t *testing.T) {
	t.Parallel()
	for _, policy := range []appender.Policy{appender.Always, appender.Interval, appender.Never} {
		folder, remote := filepath.Join(t.TempDir(), "a", "blob"), newDestination()
		options := spool.Options{Name: "blob", Folder: folder, Sync: policy, Deliver: remote.deliver, BatchRecords: 7}
		s := open(t, options)
		write(t, s, numbered(0, 20)...)
		closeAll(t, s)
		same(t, remote.got(), numbered(0, 20))
		if stats := s.Stats(); stats != (spool.Stats{Written: 20, Delivered: 20, Bytes: stats.Bytes}) {
			t.Errorf("%s: %+v", policy, stats)
		}

		remote.failWith(away)
		s = open(t, options)
		write(t, s, numbered(20, 40)...)
		giveUp(t, s)
		if pending := s.Stats().Pending; pending != 20 {
			t.Errorf("%s: %d pending", policy, pending)
		}
		s = open(t, options)
		if stats := s.Stats(); stats.Pending != 20 || stats.Written != 0 || stats.Cut != 0 {
			t.Errorf("%s: after a restart %+v", policy, stats)
		}
		remote.failWith(nil)
		write(t, s, numbered(40, 60)...)
		closeAll(t, s)
		same(t, remote.got(), numbered(0, 60)) // and none twice
		if files := segments(t, folder); len(files) > 1 {
			t.Errorf("%s: segments are left: %v", policy, files)
		}
		if err := s.Write([]byte("{}")); err == nil {
			t.Error("a closed spool takes records")
		}
	}
}

// Wherever a crash cuts the last segment off, the complete records before are delivered, and the spool goes on.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	original := t.TempDir()
	remote := newDestination()
	remote.failWith(away)
	s := open(t, spool.Options{Folder: original, Deliver: remote.deliver})
	records := numbered(0, 4)
	write(t, s, records...)
	giveUp(t, s)
	content, err := os.ReadFile(segments(t, original)[0])
	if err != nil {
		t.Fatal(err)
	}
	frame := len(content) / len(records)
	for _, tail := range []string{"", "\x00\x00\x00", "\xfbU\xff", strings.Repeat("\xfbU\xff\xf5", 20)} {
		for cut := range len(content) + 1 {
			folder, remote := t.TempDir(), newDestination()
			name := filepath.Join(folder, filepath.Base(segments(t, original)[0]))
			if err := os.WriteFile(name, append(slices.Clip(content[:cut]), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver, Sync: appender.Never})
			torn := cut%frame != 0 || tail != ""
			if stats := s.Stats(); (stats.Cut == 1) != torn {
				t.Errorf("cut at %d, tail %q: %+v", cut, tail, stats)
			}
			write(t, s, "next")
			closeAll(t, s)
			same(t, remote.got(), append(slices.Clone(records[:cut/frame]), "next"))
		}
	}
}

// A damaged byte loses only its own record, which is counted and reported.
func TestDamageAnywhere(t *testing.T) {
	t.Parallel()
	original := t.TempDir()
	remote := newDestination()
	remote.failWith(away)
	s := open(t, spool.Options{Folder: original, Deliver: remote.deliver})
	records := numbered(0, 3)
	write(t, s, records...)
	giveUp(t, s)
	s = open(t, spool.Options{Folder: original, Deliver: remote.deliver}) // seals the first segment
	write(t, s, "later")
	giveUp(t, s)
	files := segments(t, original)
	content, err := os.ReadFile(files[0])
	if err != nil || len(files) != 2 {
		t.Fatal(err, files)
	}
	frame := len(content) / len(records)
	for at := range content {
		folder, remote := t.TempDir(), newDestination()
		if err := os.CopyFS(folder, os.DirFS(original)); err != nil {
			t.Fatal(err)
		}
		damaged := slices.Clone(content)
		damaged[at] ^= 0x41
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(files[0])), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		var told atomic.Int64
		s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver, Failed: func(error) { told.Add(1) }})
		closeAll(t, s)
		want := slices.Concat(records[:at/frame], records[at/frame+1:], []string{"later"})
		same(t, remote.got(), want)
		if stats := s.Stats(); stats.Damaged != 1 || stats.Pending != 0 || told.Load() != 1 {
			t.Errorf("damaged at %d: %+v, told %d times", at, stats, told.Load())
		}
	}
}

// If the position is damaged or lost, records are delivered twice, and none is lost.
func TestLostPosition(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"gone":    os.Remove,
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"torn":    func(path string) error { return os.Truncate(path, 10) },
		"garbage": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("x", 80)), 0o600) },
	} {
		folder, remote := t.TempDir(), newDestination()
		options := spool.Options{Folder: folder, Deliver: remote.deliver}
		s := open(t, options)
		write(t, s, numbered(0, 3)...)
		closeAll(t, s)
		if err := spoil(filepath.Join(folder, "delivered")); err != nil {
			t.Fatal(err)
		}
		s = open(t, options)
		write(t, s, numbered(3, 5)...)
		closeAll(t, s)
		want := append(numbered(0, 3), numbered(0, 5)...)
		if got := remote.got(); !slices.Equal(got, want) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// If someone deletes a segment, this is reported, and the others are delivered.
func TestDeletedSegment(t *testing.T) {
	t.Parallel()
	folder, remote := t.TempDir(), newDestination()
	remote.failWith(away)
	s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver})
	write(t, s, numbered(0, 3)...)
	giveUp(t, s)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver})
		write(t, s, numbered(3, 6)...)
		giveUp(t, s)
		s = open(t, spool.Options{Folder: folder, Deliver: remote.deliver, Linger: time.Hour})
		if err := os.Remove(segments(t, folder)[0]); err != nil {
			t.Fatal(err)
		}
		remote.failWith(nil)
		closeAll(t, s)
		same(t, remote.got(), numbered(3, 6))
		if stats := s.Stats(); stats.Damaged != 1 || stats.Pending != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

// A full spool refuses and counts new records, keeps the old ones, and goes on when there is room.
func TestFull(t *testing.T) {
	t.Parallel()
	folder, remote := t.TempDir(), newDestination()
	remote.failWith(away)
	options := spool.Options{Folder: folder, Deliver: remote.deliver, MaxBytes: spool.MinBytes, Sync: appender.Never}
	s := open(t, options)
	padding := strings.Repeat("x", 100<<10)
	var taken []string
	for i := 0; ; i++ {
		record := fmt.Sprintf("%d %s", i, padding)
		if err := s.Write([]byte(record)); errors.Is(err, spool.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, record)
	}
	for range 4 {
		if err := s.Write([]byte(padding)); !errors.Is(err, spool.ErrFull) || !strings.Contains(err.Error(), folder) {
			t.Fatal(err)
		}
	}
	stats := s.Stats()
	if stats.Dropped != 5 || stats.Written != int64(len(taken)) || stats.Bytes > spool.MinBytes || stats.Bytes < spool.MinBytes*9/10 {
		t.Errorf("%+v", stats)
	}
	giveUp(t, s)
	var onDisk int64
	for _, file := range segments(t, folder) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		onDisk += info.Size()
	}
	if onDisk != stats.Bytes {
		t.Errorf("%d bytes on disk, %d told", onDisk, stats.Bytes)
	}
	remote.failWith(nil)
	s = open(t, options)
	for s.Stats().Pending > 0 {
		runtime.Gosched() // a batch is taken before it counts as delivered
	}
	write(t, s, "room again")
	closeAll(t, s)
	same(t, remote.got(), append(taken, "room again"))
	if bytes := s.Stats().Bytes; bytes > 2<<20 {
		t.Errorf("%d bytes are left", bytes)
	}

	if err := s.Write(nil); err == nil {
		t.Error("written to a closed spool")
	}
	if err := open(t, options).Write(make([]byte, spool.MaxRecord+1)); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("got %v", err)
	}
}

// The waits after failures double up to the maximum, with a random part; a destination can ask for a longer one; and
// nothing is lost or delivered twice.
func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		remote := newDestination()
		var tries []time.Time
		remote.failWith(func([]string) error {
			tries = append(tries, time.Now())
			switch {
			case len(tries) < 12:
				return errors.New("503")
			case len(tries) == 12:
				return &spool.Busy{Wait: 3 * time.Minute, Err: errors.New("429")}
			case len(tries) == 13:
				return &spool.Busy{Wait: 24 * time.Hour, Err: errors.New("429")}
			}
			return nil
		})
		var failures atomic.Int64
		s := open(t, spool.Options{Name: "otlp", Folder: t.TempDir(), Deliver: remote.deliver, Failed: func(err error) {
			if !strings.HasPrefix(err.Error(), "otlp took no records: ") {
				t.Error(err)
			}
			failures.Add(1)
		}})
		write(t, s, "a", "b")
		<-remote.taken
		synctest.Wait()
		same(t, remote.got()[:1], []string{"a"})
		for i := range 11 {
			most := min(500*time.Millisecond<<i, time.Minute)
			if wait := tries[i+1].Sub(tries[i]); wait < most/2 || wait > most {
				t.Errorf("after %d failures %s, want %s to %s", i+1, wait, most/2, most)
			}
		}
		if wait := tries[12].Sub(tries[11]); wait != 3*time.Minute {
			t.Errorf("told to wait 3 minutes, waited %s", wait)
		}
		if wait := tries[13].Sub(tries[12]); wait != 5*time.Minute {
			t.Errorf("told to wait a day, waited %s", wait)
		}
		closeAll(t, s)
		same(t, remote.got(), []string{"a", "b"})
		if stats := s.Stats(); stats.Failures != 13 || failures.Load() != 13 || stats.Delivered != 2 || stats.Dropped != 0 {
			t.Errorf("%+v, told %d times", stats, failures.Load())
		}
	})
}

// If a destination does not answer, the delivery ends after the timeout, and so does its context.
func TestSlowDestination(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := true
		var got []string
		s := open(t, spool.Options{Folder: t.TempDir(), Timeout: 10 * time.Second, Deliver: func(ctx context.Context, records [][]byte) error {
			if slow {
				slow = false
				<-ctx.Done()
				return ctx.Err()
			}
			for _, record := range records {
				got = append(got, string(record))
			}
			return nil
		}})
		start := time.Now()
		write(t, s, "a")
		closeAll(t, s)
		if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %s", took)
		}
		same(t, got, []string{"a"})
	})
}

// If a batch is refused for one record, the others are delivered, and that one is counted and reported.
func TestRefusal(t *testing.T) {
	t.Parallel()
	remote := newDestination()
	remote.failWith(func(records []string) error {
		if slices.Contains(records, "poison") {
			return &spool.Refusal{Err: errors.New("400 Bad Request")}
		}
		return nil
	})
	folder := t.TempDir()
	remote2 := newDestination()
	remote2.failWith(away)
	s := open(t, spool.Options{Folder: folder, Deliver: remote2.deliver})
	write(t, s, "a", "b", "poison", "c", "d")
	giveUp(t, s)
	var told []string
	s = open(t, spool.Options{Name: "otlp", Folder: folder, Deliver: remote.deliver, Failed: func(err error) { told = append(told, err.Error()) }})
	closeAll(t, s)
	same(t, remote.got(), []string{"a", "b", "c", "d"})
	same(t, told, []string{"otlp refused a record for good: 400 Bad Request"})
	if stats := s.Stats(); stats.Refused != 1 || stats.Delivered != 4 || stats.Pending != 0 {
		t.Errorf("%+v", stats)
	}

	// If some were refused and the others taken, nothing is delivered again.
	remote = newDestination()
	remote.failWith(func([]string) error {
		remote.fail = nil
		return &spool.Refusal{Refused: 1, Err: errors.New("partial success")}
	})
	s = open(t, spool.Options{Folder: t.TempDir(), Deliver: remote.deliver})
	write(t, s, "a")
	closeAll(t, s)
	if stats := s.Stats(); stats.Refused != 1 || stats.Delivered != 0 || stats.Pending != 0 || len(remote.got()) != 0 {
		t.Errorf("%+v", stats)
	}
}

// Records wait for others as long as configured, but not beyond a full batch or the end.
func TestLinger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var batches [][2]any
		start := time.Now()
		s := open(t, spool.Options{Folder: t.TempDir(), Linger: 10 * time.Second, BatchRecords: 4, Deliver: func(_ context.Context, records [][]byte) error {
			batches = append(batches, [2]any{len(records), time.Since(start)})
			return nil
		}})
		write(t, s, "a")
		time.Sleep(3 * time.Second) // of the bubble
		write(t, s, "b")
		time.Sleep(10 * time.Second)
		write(t, s, "c", "d", "e", "f")
		synctest.Wait()
		write(t, s, "g")
		closeAll(t, s)
		want := [][2]any{{2, 10 * time.Second}, {4, 13 * time.Second}, {1, 13 * time.Second}}
		if !reflect.DeepEqual(batches, want) {
			t.Errorf("got %v, want %v", batches, want)
		}
	})
}

// A clock that jumps neither stops deliveries nor leads to an absurd age.
func TestClockJump(t *testing.T) {
	t.Parallel()
	folder, remote := t.TempDir(), newDestination()
	remote.failWith(away)
	s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver})
	write(t, s, "written now")
	giveUp(t, s)
	synctest.Test(t, func(t *testing.T) { // begins in the year 2000
		s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver, Linger: time.Second})
		if stats := s.Stats(); stats.Pending != 1 || stats.OldestAge != 0 {
			t.Errorf("the clock was put back: %+v", stats)
		}
		write(t, s, "written in 2000")
		time.Sleep(2 * time.Second)
		giveUp(t, s)
	})
	s = open(t, spool.Options{Folder: folder, Deliver: remote.deliver})
	remote.failWith(nil)
	closeAll(t, s)
	same(t, remote.got(), []string{"written now", "written in 2000"})

	synctest.Test(t, func(t *testing.T) {
		remote := newDestination()
		remote.failWith(away)
		s := open(t, spool.Options{Folder: t.TempDir(), Deliver: remote.deliver})
		write(t, s, "a")
		time.Sleep(time.Hour)
		write(t, s, "b")
		if age := s.Stats().OldestAge; age != time.Hour {
			t.Errorf("the oldest is %s old, want an hour", age)
		}
		giveUp(t, s)
	})
}

// A second process gets an error that says what to do.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	open(t, spool.Options{Folder: folder, Deliver: newDestination().deliver})
	synctest.Test(t, func(t *testing.T) { // it waits, on the clock of the bubble
		_, err := spool.Open(spool.Options{Folder: folder, Deliver: newDestination().deliver})
		if err == nil || !strings.Contains(err.Error(), folder) || !strings.Contains(err.Error(), "give each process a folder of its own") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	remote := newDestination()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, options := range map[string]spool.Options{
		"needs a folder":      {Deliver: remote.deliver},
		"and a destination":   {Folder: t.TempDir()},
		"too small: 8388608":  {Folder: t.TempDir(), Deliver: remote.deliver, MaxBytes: 1},
		`no policy "perhaps"`: {Folder: t.TempDir(), Deliver: remote.deliver, Sync: "perhaps"},
		"the spool in " + file + "/spool cannot be opened": {Folder: file + "/spool", Deliver: remote.deliver},
	} {
		if _, err := spool.Open(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// faulty is a file on a disk that can fail.
type faulty struct {
	*os.File
	disk *disk
}

type disk struct {
	mu                          sync.Mutex
	open, write, truncate, sync error
	room                        int // bytes that are still written when write fails
}

func (d *disk) set(change func(d *disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *disk) openFile(name string, flag int, mode fs.FileMode) (appender.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: d.open}
	}
	file, err := os.OpenFile(name, flag, mode)
	return &faulty{file, d}, err
}

func (f *faulty) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.write == nil {
		return f.File.Write(p)
	}
	n, err := f.File.Write(p[:min(len(p), f.disk.room)])
	return n, errors.Join(err, f.disk.write)
}

func (f *faulty) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.truncate != nil {
		return f.disk.truncate
	}
	return f.File.Truncate(size)
}

func (f *faulty) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.sync != nil {
		return f.disk.sync
	}
	return f.File.Sync()
}

// If the disk is full or fails, records are refused and counted, none that was taken is lost, and the spool goes on
// when the disk does.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(d *disk){
		"full":                 func(d *disk) { d.write = syscall.ENOSPC },
		"full in a record":     func(d *disk) { d.write, d.room = syscall.ENOSPC, 9 },
		"full, and cannot cut": func(d *disk) { d.write, d.room, d.truncate = syscall.ENOSPC, 9, syscall.EIO },
		"read-only": func(d *disk) {
			d.write, d.truncate, d.sync, d.open = syscall.EROFS, syscall.EROFS, syscall.EROFS, syscall.EROFS
		},
		"loses what it is to keep":  func(d *disk) { d.sync = syscall.EIO },
		"loses, and cannot go on":   func(d *disk) { d.sync, d.open = syscall.EIO, syscall.EROFS },
		"fails before the first":    func(d *disk) { d.open = syscall.ENOSPC },
		"an error after all of it":  func(d *disk) { d.write, d.room = syscall.EIO, 1<<20 },
		"short, and cannot be kept": func(d *disk) { d.write, d.room, d.sync = syscall.ENOSPC, 1, syscall.EIO },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder, remote, d := t.TempDir(), newDestination(), new(disk)
			remote.failWith(away)
			options := spool.Options{Folder: folder, Deliver: remote.deliver, Sync: appender.Always, OpenFile: d.openFile}
			s := open(t, options)
			if name != "fails before the first" {
				write(t, s, "a", "b")
			}
			d.set(fail)
			for range 3 {
				err := s.Write([]byte("lost"))
				if err == nil || !strings.Contains(err.Error(), folder) {
					t.Errorf("got %v", err)
				}
			}
			if stats := s.Stats(); stats.Dropped != 3 {
				t.Errorf("%+v", stats)
			}
			d.set(func(d *disk) { d.open, d.write, d.truncate, d.sync = nil, nil, nil, nil })
			write(t, s, "c")
			giveUp(t, s)
			remote.failWith(nil)
			s = open(t, options)
			write(t, s, "d")
			closeAll(t, s)
			got := slices.DeleteFunc(remote.got(), func(r string) bool { return r == "lost" }) // not promised, and no harm
			want := []string{"a", "b", "c", "d"}
			if name == "fails before the first" {
				want = want[2:]
			}
			same(t, got, want)
		})
	}
}

// smallDisk is full when the segments in a folder have this many bytes.
type smallDisk struct {
	*os.File
	folder string
	room   int
}

func (d smallDisk) Write(p []byte) (int, error) {
	used := 0
	for _, name := range must(filepath.Glob(filepath.Join(d.folder, "*.segment"))) {
		if info, err := os.Stat(name); err == nil {
			used += int(info.Size())
		}
	}
	if used+len(p) > d.room {
		return 0, syscall.ENOSPC
	}
	return d.File.Write(p)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// What is delivered frees its space, even if a new record has none.
func TestDiskFullOfWhatIsDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder, remote := t.TempDir(), newDestination()
		remote.failWith(away)
		s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver, OpenFile: func(name string, flag int, mode os.FileMode) (appender.File, error) {
			file, err := os.OpenFile(name, flag, mode)
			return smallDisk{file, folder, 1000}, err
		}})
		records := numbered(0, 100)
		taken := 0
		for s.Write([]byte(records[taken])) == nil {
			taken++
		}
		remote.failWith(nil)
		for s.Stats().Pending > 0 {
			time.Sleep(time.Second) // of the bubble
		}
		synctest.Wait()
		descriptors := 0 // 0 on systems without /proc
		for _, link := range must(filepath.Glob("/proc/self/fd/*")) {
			if name, err := os.Readlink(link); err == nil && strings.HasPrefix(name, folder) && strings.HasSuffix(name, ".segment") {
				descriptors++
			}
		}
		if descriptors > 1 {
			t.Error("a segment is open to be read though all is delivered: removed, it would still take its room")
		}
		write(t, s, records[taken:taken+10]...)
		closeAll(t, s)
		same(t, remote.got(), records[:taken+10])
		if stats := s.Stats(); taken == 0 || stats.Dropped != 1 || stats.Bytes > 1000 {
			t.Errorf("%d taken: %+v", taken, stats)
		}
	})
}

// With Interval, a disk that fails after Write has returned is reported.
func TestDiskFailsLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		remote, d := newDestination(), new(disk)
		told := make(chan error, 10)
		s := open(t, spool.Options{Folder: t.TempDir(), Deliver: remote.deliver, OpenFile: d.openFile, Failed: func(err error) { told <- err }})
		d.set(func(d *disk) { d.sync = syscall.EIO })
		write(t, s, "a")
		if err := <-told; !errors.Is(err, syscall.EIO) {
			t.Error(err)
		}
		d.set(func(d *disk) { d.sync = nil })
		write(t, s, "b") // to a new segment
		closeAll(t, s)
		same(t, remote.got(), []string{"a", "b"})
	})
}

// With concurrent writers, a destination that fails now and then, and many segments, each record is delivered once.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	remote := newDestination()
	remote.failWith(func([]string) error {
		if remote.tries%3 == 0 {
			return errors.New("away")
		}
		return nil
	})
	s := open(t, spool.Options{Folder: t.TempDir(), Deliver: remote.deliver, MaxBytes: 64 << 20, Sync: appender.Always,
		MinBackoff: time.Microsecond, BatchRecords: 50})
	const writers, each = 8, 60
	padding := strings.Repeat("x", 32<<10)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if err := s.Write(fmt.Appendf(nil, "%d/%d %s", w, i, padding)); err != nil {
					t.Error(err)
				}
				_ = s.Stats()
			}
		})
	}
	group.Wait()
	closeAll(t, s)
	next := map[string]int{}
	for _, record := range remote.got() {
		var w, i int
		if _, err := fmt.Sscanf(record, "%d/%d", &w, &i); err != nil {
			t.Fatal(err)
		}
		if next[fmt.Sprint(w)] != i {
			t.Fatalf("writer %d: got %d, want %d", w, i, next[fmt.Sprint(w)])
		}
		next[fmt.Sprint(w)]++
	}
	if got := len(remote.got()); got != writers*each {
		t.Errorf("%d of %d delivered", got, writers*each)
	}
}

const childVariable = "USHER_TEST_SPOOL_CHILD"

func TestMain(m *testing.M) {
	if folder := os.Getenv(childVariable); folder != "" {
		child(folder)
	}
	os.Exit(m.Run())
}

// child writes numbered records until it is killed, and prints the number of each that was taken. Its destination is
// away.
func child(folder string) {
	s, err := spool.Open(spool.Options{Folder: folder, Sync: appender.Always, Deliver: func(context.Context, [][]byte) error {
		return errors.New("away")
	}})
	if err != nil {
		panic(err)
	}
	var numbers atomic.Int64
	for range 4 {
		go func() {
			for {
				i := numbers.Add(1)
				record := fmt.Sprintf("%d %s", i, strings.Repeat("x", int(i*7919%40000)))
				if err := s.Write([]byte(record)); err != nil {
					fmt.Println("failed", i)
					continue
				}
				fmt.Println("taken", i)
			}
		}()
	}
	select {}
}

// A kill -9 in the middle of a write loses nothing that was promised, even repeatedly.
func TestKilled(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	promised := map[string]int{}
	for round := range 6 {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		command.Env = append(os.Environ(), childVariable+"="+folder)
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 0; lines.Scan(); n++ {
			if number, ok := strings.CutPrefix(lines.Text(), "taken "); ok {
				promised[number]++
			}
			if n == 40+round*13 {
				if err := command.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := command.Wait(); err == nil {
			t.Fatal("the child was not killed")
		}
	}
	remote := newDestination()
	s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver})
	closeAll(t, s)
	for _, record := range remote.got() {
		number, padding, _ := strings.Cut(record, " ")
		var i int
		if _, err := fmt.Sscan(number, &i); err != nil || len(padding) != i*7919%40000 {
			t.Fatalf("a record is not as it was written: %.40q", record)
		}
		promised[number]--
	}
	for number, missing := range promised {
		if missing > 0 {
			t.Errorf("record %s was taken %d times more than delivered", number, missing)
		}
	}
	if len(promised) < 100 {
		t.Errorf("only %d records were promised", len(promised))
	}
	if stats := s.Stats(); stats.Damaged != 0 || stats.Pending != 0 {
		t.Errorf("%+v", stats)
	}
}

// Whatever a segment contains, opening and draining neither fail nor hang, and later records are delivered.
func FuzzSegment(f *testing.F) {
	folder, remote := f.TempDir(), newDestination()
	remote.failWith(away)
	s, err := spool.Open(spool.Options{Folder: folder, Deliver: remote.deliver})
	if err != nil {
		f.Fatal(err)
	}
	for _, record := range numbered(0, 3) {
		if err := s.Write([]byte(record)); err != nil {
			f.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Close(ctx)
	files, _ := filepath.Glob(filepath.Join(folder, "*.segment"))
	whole, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(whole[5:])
	f.Add([]byte("\xfbU\xff\xf5\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		folder, remote := t.TempDir(), newDestination()
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%020d.segment", 5)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "delivered"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, spool.Options{Folder: folder, Deliver: remote.deliver, Sync: appender.Never})
		write(t, s, "next")
		closeAll(t, s)
		got := remote.got()
		if len(got) == 0 || got[len(got)-1] != "next" || s.Stats().Pending != 0 {
			t.Errorf("got %q, %+v", got, s.Stats())
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	record := []byte(strings.Repeat("x", 1500))
	for _, policy := range []appender.Policy{appender.Never, appender.Interval, appender.Always} {
		b.Run(string(policy), func(b *testing.B) {
			s, err := spool.Open(spool.Options{Folder: b.TempDir(), Sync: policy, MaxBytes: 8 << 30, Deliver: func(ctx context.Context, records [][]byte) error {
				for _, record := range records {
					_, _ = io.Discard.Write(record)
				}
				return nil
			}})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(record)))
			for b.Loop() {
				if err := s.Write(record); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			_ = s.Close(b.Context())
		})
	}
}
