// Package snapshot serves look-ups from a copy of a whole table: a file of CSV, NDJSON, YAML or SQLite, on this machine,
// on a web server or in Azure Blob Storage. It becomes a SQLite file on this machine, all of its rows are checked, and it
// takes the place of the last one in one step. One that is not good never does.
//
// A SQLite file that others made needs a table rows whose primary key is the column key, a text, and whose column row is
// a text with the row as a JSON object: CREATE TABLE rows (key TEXT PRIMARY KEY, row TEXT NOT NULL) WITHOUT ROWID. Keys
// that are compared without case are in lower case.
package snapshot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/lookup"
)

const (
	// DefaultPoll is how often a URL is asked whether there is a new snapshot.
	DefaultPoll = time.Minute
	// DefaultMaxBytes bounds a snapshot as it arrives.
	DefaultMaxBytes = 4 << 30
)

const (
	// watchInterval is how often a file on this machine is looked at.
	watchInterval = time.Second
	// startTimeout is how long the source may take at a start if there is a snapshot on disk that can serve.
	startTimeout = 5 * time.Second
	// firstTimeout is how long it may take if there is none: the Functions host gives a handler 30 s to listen.
	firstTimeout = 20 * time.Second
	// changeTimeout is how long other rules wait for rows that are as they declare.
	changeTimeout = 2 * time.Minute
	// fetchTimeout bounds a download and the check of what arrived.
	fetchTimeout = 30 * time.Minute
	// firstRetry is how long after a failure the source is read again. Each further failure doubles it, up to twice the
	// poll interval.
	firstRetry = time.Second
	// jitter spreads instances that started together, by a tenth either way.
	jitter = 0.1
	// maxRefusal bounds what is logged about a refused snapshot, in bytes.
	maxRefusal = 8 << 10
	// maxState bounds the file that describes the snapshot on disk, in bytes.
	maxState = 64 << 10
	// temporary matches the names of files that are being made.
	temporary = ".lookup-*"
)

// Options configure a [Snapshot].
type Options struct {
	// Name is that of the look-up.
	Name string
	// Location says where the table is. The end of its name says what it is: .csv, .ndjson, .jsonl, .yaml, .yml, .sqlite,
	// .sqlite3 or .db.
	Location remotefile.Location
	// Folder keeps the last good snapshot. Required. Several processes and look-ups can share it.
	Folder string
	// Poll is how often a URL is asked; 0 means DefaultPoll. A path is looked at each second, or more often if Poll is less.
	Poll time.Duration
	// MaxBytes bounds the table as it arrives; 0 means DefaultMaxBytes.
	MaxBytes int64
	// Token is sent to the host of an HTTPS location as a bearer token; may be empty.
	Token string
	// Credential returns an Azure identity when Blob Storage is first read.
	Credential func() (azcore.TokenCredential, error)
	// Transport reaches the host; nil means Go's own.
	Transport http.RoundTripper
	// Log gets a line for each event; nil discards them.
	Log *slog.Logger
}

// Stats describe the state of a snapshot.
type Stats struct {
	// Source is the location without anything that could be secret.
	Source string
	// Digest is that of the table in use, as it arrived; empty if there is none.
	Digest string
	// Rows is how many rows it has.
	Rows int
	// Age is the time since the source last confirmed it; 0 if there is none.
	Age time.Duration
	// FromDisk is set while the snapshot in use is from disk and the source has not confirmed it.
	FromDisk bool
	// Undeclared is what the table in use has and its declaration does not.
	Undeclared []lookups.Undeclared
	// Refused says why the table at the source is not in use; empty if it is.
	Refused string
	// Failure says why the source could not be read the last time; empty if it could. Gone is set if it is a file, or a
	// URL, that does not exist.
	Failure string
	Gone    bool
	// Counts since the start: reads of the source, snapshots put into use, snapshots refused, reads that failed.
	Attempts, Activations, Refusals, Failures uint64
}

// RefusedError says why a table that arrived is not good.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return "the snapshot is refused: " + e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// Snapshot is a [lookup.Source]. Call [Snapshot.Prepare] first, then [Snapshot.Run]. It keeps open files until
// [Snapshot.Close].
type Snapshot struct {
	options Options
	log     *slog.Logger
	fetcher *remotefile.Fetcher // nil for a path
	file    string              // the SQLite file of the last good snapshot
	state   string              // what describes it

	working sync.Mutex // held while the source is read, from start to end; guards what follows
	d       *lookups.Declaration
	form    string // of d
	last    seen
	retry   time.Duration
	asked   time.Duration // how long the source asked us to wait
	told    []lookups.Undeclared
	closed  bool

	current atomic.Pointer[serving]

	mu      sync.Mutex
	stats   Stats
	contact time.Time // when the source last confirmed what is in use
}

// serving is a snapshot in use.
type serving struct {
	*database
	digest string
	form   string // of the declaration that it was checked against
}

// seen is what the source showed last, whether it came into use or not.
type seen struct{ etag, digest string }

// kept is what the state file says about the file next to it. Its modification time is when the source last confirmed
// the snapshot.
type kept struct {
	Version int    `json:"usherLookup"`
	Source  string `json:"source"`
	ETag    string `json:"etag,omitempty"`
	Digest  string `json:"digest"` // of the table as it arrived
	File    string `json:"file"`   // digest of the SQLite file
	Form    string `json:"form"`
	Rows    int    `json:"rows"`

	Undeclared []lookups.Undeclared `json:"undeclared,omitempty"`
}

const stateVersion = 1

// New returns a snapshot that has no rows yet. The error says what is wrong with the options.
func New(options Options) (*Snapshot, error) {
	options.Poll = cmp.Or(options.Poll, DefaultPoll)
	options.MaxBytes = cmp.Or(options.MaxBytes, DefaultMaxBytes)
	if options.Location.Kind == remotefile.Path {
		// The folder of what is kept can be that of several projects, in which the same path is another file.
		absolute, err := filepath.Abs(options.Location.Path)
		if err != nil {
			return nil, err
		}
		options.Location.Path = absolute
	}
	s := &Snapshot{options: options, retry: firstRetry}
	s.log = cmp.Or(options.Log, slog.New(slog.DiscardHandler)).With("lookup", options.Name, "source", options.Location.String())
	s.stats.Source = options.Location.String()
	if !s.isSQLite() && !lookups.IsTable(s.tableName()) {
		return nil, errors.New("the name of the file does not say what it is: it ends in .csv, .ndjson, .yaml or .sqlite")
	}
	if options.Folder == "" {
		return nil, errors.New("a snapshot needs a folder on this machine")
	}
	if options.Location.Kind != remotefile.Path {
		s.fetcher = remotefile.NewFetcher(remotefile.Options{Location: options.Location, What: "snapshot", MaxBytes: options.MaxBytes,
			Token: options.Token, Credential: options.Credential, Transport: options.Transport})
	}
	// Several look-ups can have the same name of file, and several handlers can share the folder.
	name := sha256.Sum256([]byte(options.Location.String()))
	base := filepath.Join(options.Folder, "lookup-"+options.Name+"-"+hex.EncodeToString(name[:8]))
	s.file, s.state = base+".sqlite", base+".json"
	return s, nil
}

// tableName is the last part of the location, which says what the table is.
func (s *Snapshot) tableName() string {
	if l := s.options.Location; l.Kind != remotefile.Path {
		return path.Base(l.String())
	}
	return filepath.Base(s.options.Location.Path)
}

func (s *Snapshot) isSQLite() bool { return slices.Contains(sqliteSuffixes, path.Ext(s.tableName())) }

// formOf is the same for declarations for which the same table makes the same rows.
func formOf(d *lookups.Declaration) (string, error) {
	text, err := json.Marshal([]any{d.Key, d.CaseSensitive, d.RowSchema})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Find implements [lookup.Source]. The version is the digest of the table as it arrived.
func (s *Snapshot) Find(ctx context.Context, key string) (lookup.Answer, error) {
	for {
		now := s.current.Load()
		if now == nil {
			return lookup.Answer{}, s.missing()
		}
		row, err := now.find(ctx, key)
		if errors.Is(err, errClosing) && s.current.Load() != now {
			continue
		}
		if err != nil {
			return lookup.Answer{}, err
		}
		s.mu.Lock()
		asOf := s.contact
		s.mu.Unlock()
		return lookup.Answer{Row: row, Version: now.digest, AsOf: asOf}, nil
	}
}

// missing says why there is no snapshot.
func (s *Snapshot) missing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stats.Refused != "":
		return fault.New(fault.Schema, "there is no snapshot yet: the one at the source is refused, see the log")
	case s.stats.Gone:
		return fault.New(fault.NotFound, "there is no snapshot yet: %s", fault.Plain(s.stats.Failure))
	case s.stats.Failure != "":
		return fault.New(fault.Unavailable, "there is no snapshot yet: %s", fault.Plain(s.stats.Failure))
	}
	return fault.New(fault.Unavailable, "there is no snapshot yet")
}

// Prepare puts a snapshot into use for a declaration, that of rules which are about to be used: from the source, or from
// disk if the source does not answer in time or has no good one. It does nothing if there is one already.
//
// A *fault.Error says why there is none yet; [Snapshot.Run] keeps trying. A *RefusedError means that there is a
// snapshot in use, and that the table at the source does not fit this other declaration; the rows in use stay as they
// are.
func (s *Snapshot) Prepare(ctx context.Context, d *lookups.Declaration) error {
	s.working.Lock()
	defer s.working.Unlock()
	if s.closed {
		return errors.New("the snapshot is closed")
	}
	form, err := formOf(d)
	if err != nil {
		return err
	}
	now := s.current.Load()
	switch {
	case now == nil:
		s.d, s.form = d, form
		return s.start(ctx)
	case now.form == form:
		s.d, s.form = d, form
		return nil
	}
	before, beforeForm, beforeSeen, beforeRefused := s.d, s.form, s.last, s.Stats().Refused
	s.d, s.form, s.last = d, form, seen{} // its rows are made anew
	err = s.fetch(ctx, changeTimeout)
	if _, ok := errors.AsType[*RefusedError](err); ok {
		s.d, s.form, s.last = before, beforeForm, beforeSeen
		s.count(func(c *Stats) { c.Refused = beforeRefused })
		return err
	}
	return faultOf(err)
}

// start puts the first snapshot into use.
func (s *Snapshot) start(ctx context.Context) error {
	s.sweep()
	timeout := firstTimeout
	onDisk, err := s.readKept()
	if err != nil {
		s.log.WarnContext(ctx, "snapshot on disk is of no use", "file", s.file, "error", err.Error())
	}
	s.last = seen{}
	if onDisk != nil {
		timeout = startTimeout
		if onDisk.Form == s.form {
			s.last = seen{onDisk.ETag, onDisk.Digest}
		}
	}
	err = s.fetch(ctx, timeout)
	if onDisk == nil || s.current.Load() != nil {
		return faultOf(err)
	}
	confirmed := err == nil
	failed := s.useKept(ctx, onDisk, confirmed)
	if failed == nil {
		return nil
	}
	s.log.WarnContext(ctx, "snapshot on disk is of no use", "file", s.file, "error", failed.Error())
	s.last = seen{} // else the source would be told that we have it
	if confirmed {
		err = s.fetch(ctx, firstTimeout)
	}
	return faultOf(err)
}

// faultOf says what kind of fault it is that there is no snapshot for a declaration yet.
func faultOf(err error) error {
	if err == nil {
		return nil
	}
	f := &fault.Error{Kind: fault.Unavailable, Text: fault.Plain(err.Error()), Err: err}
	status, answered := errors.AsType[*remotefile.StatusError](err)
	_, refused := errors.AsType[*RefusedError](err)
	switch {
	case answered && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden):
		f.Kind = fault.Denied
	case isGone(err):
		f.Kind = fault.NotFound
	case refused:
		f.Kind = fault.Schema
	case errors.Is(err, context.DeadlineExceeded):
		f.Kind = fault.Timeout
	}
	return f
}

// goneError is that there is no such file on this machine, or that it is something else.
type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

func isGone(err error) bool {
	_, gone := errors.AsType[*goneError](err)
	status, answered := errors.AsType[*remotefile.StatusError](err)
	return gone || answered && (status.Status == http.StatusNotFound || status.Status == http.StatusGone)
}

// Run reads the source again and again until ctx ends.
func (s *Snapshot) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(s.wait())
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			_ = s.Refresh(ctx) // logged and counted
		}
	}
}

// Refresh reads the source once, after a Prepare. Its error says why the source could not be read, or is a
// *RefusedError; it is logged and counted.
func (s *Snapshot) Refresh(ctx context.Context) error {
	s.working.Lock()
	defer s.working.Unlock()
	if s.d == nil || s.closed {
		return nil
	}
	return s.fetch(ctx, fetchTimeout)
}

func (s *Snapshot) wait() time.Duration {
	s.working.Lock()
	defer s.working.Unlock()
	if s.fetcher == nil {
		return min(s.options.Poll, watchInterval)
	}
	spread := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
	}
	if s.Stats().Failure == "" {
		return spread(s.options.Poll)
	}
	wait := s.retry
	s.retry = min(2*s.retry, max(2*s.options.Poll, firstRetry))
	return max(spread(wait), s.asked)
}

// Stats describe the state.
func (s *Snapshot) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	if stats.Digest != "" {
		stats.Age = time.Since(s.contact)
	}
	return stats
}

// State is the digest of the table in use, and when the source last confirmed it.
func (s *Snapshot) State() (version string, asOf time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Digest, s.contact
}

// Close ends the use of the snapshot: look-ups fail from now on. The file stays on disk for the next start.
func (s *Snapshot) Close() error {
	s.working.Lock()
	defer s.working.Unlock()
	s.closed = true
	if now := s.current.Swap(nil); now != nil {
		return now.close()
	}
	return nil
}

func (s *Snapshot) count(change func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.stats)
}

// fetch reads the source within a time, and puts its table into use if it is new and good.
func (s *Snapshot) fetch(ctx context.Context, timeout time.Duration) error {
	s.count(func(c *Stats) { c.Attempts++ })
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	arrived, err := s.arrive(within)
	if errors.Is(err, errChanging) {
		s.log.DebugContext(ctx, "snapshot is being written")
		return err
	}
	if err != nil {
		return s.fail(ctx, err)
	}
	if arrived == nil {
		s.answered(ctx)
		return nil
	}
	defer os.Remove(arrived.file) // fails if it is in use
	switch now := s.current.Load(); {
	case arrived.seen.digest == s.last.digest:
		s.last = arrived.seen
		s.answered(ctx)
		return nil
	case now != nil && now.digest == arrived.seen.digest && now.form == s.form:
		s.last = arrived.seen
		s.accept(ctx)
		return nil
	}
	err = s.use(within, arrived, start)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		s.last = arrived.seen
		s.refuse(ctx, arrived.seen.digest, refused)
		return refused
	}
	if err != nil {
		return s.fail(ctx, err) // such as a full disk: it is fetched again
	}
	s.last = arrived.seen
	return nil
}

// errChanging says that the file will be read again at the next look.
var errChanging = errors.New("the file is being written")

// arrival is a table that came, in a temporary file.
type arrival struct {
	file string
	seen seen
}

// arrive reads the table from the source; nil if it has not changed.
func (s *Snapshot) arrive(ctx context.Context) (*arrival, error) {
	if err := remotefile.MakeFolder(s.options.Folder); err != nil {
		return nil, err
	}
	var from io.ReadCloser
	var etag string
	if s.fetcher != nil {
		response, err := s.fetcher.Get(ctx, s.last.etag)
		if err != nil || response.Unchanged {
			return nil, err
		}
		from, etag = response.Body, response.ETag
	} else {
		file, now, err := openWatched(s.options.Location.Path)
		if err != nil {
			return nil, err
		}
		if now == s.last.etag {
			return nil, file.Close()
		}
		from, etag = file, now
	}
	defer from.Close()
	file, err := os.CreateTemp(s.options.Folder, temporary)
	if err != nil {
		return nil, err
	}
	digest, err := copyDigest(ctx, file, io.LimitReader(from, s.options.MaxBytes+1))
	if info, statErr := file.Stat(); err == nil && statErr == nil && info.Size() > s.options.MaxBytes {
		err = fmt.Errorf("the snapshot is larger than %d MiB", s.options.MaxBytes>>20)
	}
	if err == nil && s.fetcher == nil {
		// While someone writes the file, what was read is neither the old table nor the new one.
		if after, statErr := stat(s.options.Location.Path); statErr != nil || after != etag {
			err = errChanging
		}
	}
	if err = cmp.Or(err, file.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(file.Name()))
	}
	return &arrival{file.Name(), seen{etag, digest}}, nil
}

// openWatched opens a file, and identifies its content as an ETag does.
func openWatched(name string) (*os.File, string, error) {
	etag, err := stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", &goneError{fmt.Errorf("the file %s does not exist", name)}
	}
	if err != nil {
		return nil, "", err
	}
	file, err := os.Open(name)
	return file, etag, err
}

func stat(name string) (etag string, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", &goneError{fmt.Errorf("%s is not a file", name)}
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), nil
}

// interruptible ends a copy when ctx ends.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r interruptible) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	return r.Reader.Read(p)
}

func copyDigest(ctx context.Context, to io.Writer, from io.Reader) (string, error) {
	sum := sha256.New()
	_, err := io.Copy(io.MultiWriter(to, sum), interruptible{ctx, from})
	return digestOf(sum), err
}

func digestOf(sum hash.Hash) string { return "sha256:" + hex.EncodeToString(sum.Sum(nil)) }

func fileDigest(ctx context.Context, name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return copyDigest(ctx, io.Discard, file)
}

// use makes a SQLite file of a table, keeps it, and serves it. A *RefusedError means that the table is not good.
func (s *Snapshot) use(ctx context.Context, a *arrival, start time.Time) error {
	made, rows, undeclared, err := s.make(ctx, a)
	if err != nil {
		return err
	}
	defer os.Remove(made) // fails if it is in use
	k := &kept{Version: stateVersion, Source: s.stats.Source, ETag: a.seen.etag, Digest: a.seen.digest, Form: s.form, Rows: rows, Undeclared: undeclared}
	if k.File, err = fileDigest(ctx, made); err != nil {
		return err
	}
	file, err := os.OpenFile(made, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := remotefile.Keep(file, s.file); err != nil {
		return err
	}
	if err := s.serve(ctx, k, time.Now()); err != nil {
		return err
	}
	s.count(func(c *Stats) { c.Refused, c.FromDisk = "", false })
	s.log.InfoContext(ctx, "snapshot in use", "digest", k.Digest, "rows", rows, "duration_ms", time.Since(start).Milliseconds())
	s.tell(ctx, undeclared)
	if err := s.writeKept(k); err != nil {
		s.log.WarnContext(ctx, "snapshot cannot be kept on disk: a start without its source will have none",
			"folder", s.options.Folder, "error", err.Error())
	}
	s.answered(ctx)
	return nil
}

// make returns the SQLite file of a table, which is the table itself if it is one.
func (s *Snapshot) make(ctx context.Context, a *arrival) (file string, rows int, undeclared []lookups.Undeclared, err error) {
	if s.isSQLite() {
		rows, undeclared, err := check(ctx, a.file, s.tableName(), s.d)
		if err != nil && ctx.Err() == nil {
			err = &RefusedError{err}
		}
		return a.file, rows, undeclared, err
	}
	text, err := os.Open(a.file)
	if err != nil {
		return "", 0, nil, err
	}
	defer text.Close()
	if info, err := text.Stat(); err == nil && info.Size() == 0 {
		return "", 0, nil, &RefusedError{errors.New("it is empty")} // more likely an accident than a table without rows
	}
	made, err := os.CreateTemp(s.options.Folder, temporary+".sqlite")
	if err != nil {
		return "", 0, nil, err
	}
	if err := made.Close(); err != nil {
		return "", 0, nil, err
	}
	rows, undeclared, err = build(ctx, text, s.tableName(), s.d, made.Name())
	if err != nil {
		_ = os.Remove(made.Name())
	}
	if wrong, ok := errors.AsType[*lookups.TableError](err); ok {
		err = &RefusedError{wrong}
	}
	return made.Name(), rows, undeclared, err
}

// serve puts the SQLite file into use, and ends the use of the last one.
func (s *Snapshot) serve(ctx context.Context, k *kept, contact time.Time) error {
	opened, err := serveDatabase(ctx, s.file)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.stats.Activations++
	s.stats.Digest, s.stats.Rows, s.stats.Undeclared, s.contact = k.Digest, k.Rows, k.Undeclared, contact
	s.mu.Unlock()
	if before := s.current.Swap(&serving{opened, k.Digest, s.form}); before != nil {
		return before.close()
	}
	return nil
}

// tell logs what the table has that is not declared, unless it was the same in the last one. It is a warning if rules go
// by a member that no row has.
func (s *Snapshot) tell(ctx context.Context, undeclared []lookups.Undeclared) {
	if slices.Equal(undeclared, s.told) {
		return
	}
	s.told = undeclared
	var others []string
	for _, u := range undeclared {
		if u.Meant == "" {
			others = append(others, u.Name)
			continue
		}
		p := u.Problem(s.d)
		s.log.WarnContext(ctx, "snapshot lacks a declared member", "place", p.Place, "error", p.Message, "fix", p.Fix)
	}
	if others != nil {
		s.log.InfoContext(ctx, "snapshot has members that are not declared", "members", others)
	}
}

// answered notes that the source could be read, and confirms what is in use unless the source has something else.
func (s *Snapshot) answered(ctx context.Context) {
	s.retry, s.asked = firstRetry, 0
	now := time.Now()
	s.mu.Lock()
	failed := s.stats.Failure != ""
	s.stats.Failure, s.stats.Gone = "", false
	confirmed := s.stats.Refused == "" && s.stats.Digest != ""
	if confirmed {
		s.contact, s.stats.FromDisk = now, false
	}
	s.mu.Unlock()
	if failed {
		s.log.InfoContext(ctx, "snapshot source answers again")
	}
	if confirmed {
		_ = os.Chtimes(s.state, now, now) // if this fails, it looks older than it is, which is safe
	}
}

// fail notes that the source could not be read.
func (s *Snapshot) fail(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return err // we are stopping
	}
	s.asked = 0
	if status, ok := errors.AsType[*remotefile.StatusError](err); ok {
		s.asked = status.RetryAfter
	}
	level := slog.LevelWarn
	s.count(func(c *Stats) {
		if c.Failure == err.Error() {
			level = slog.LevelDebug // it is known, and the age shows for how long
		}
		c.Failures++
		c.Failure, c.Gone = err.Error(), isGone(err)
	})
	s.log.Log(ctx, level, "snapshot source failed", "error", err.Error())
	return err
}

// refuse notes that a table is not good.
func (s *Snapshot) refuse(ctx context.Context, digest string, err *RefusedError) {
	text := remotefile.Cut(err.Err.Error(), maxRefusal)
	inUse := ""
	s.count(func(c *Stats) {
		c.Refusals++
		c.Refused = text
		inUse = c.Digest
	})
	s.log.ErrorContext(ctx, "snapshot refused", "error", text, "digest", digest, "in_use", inUse)
	s.answered(ctx)
}

// accept notes that the source has what is in use again.
func (s *Snapshot) accept(ctx context.Context) {
	refused := false
	s.count(func(c *Stats) { refused, c.Refused = c.Refused != "", "" })
	if refused {
		s.log.InfoContext(ctx, "snapshot good again")
	}
	s.answered(ctx)
}

// readKept returns nil if nothing is kept.
func (s *Snapshot) readKept() (*kept, error) {
	file, err := os.Open(s.state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := remotefile.Trust(s.options.Folder); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxState))
	if err != nil {
		return nil, err
	}
	var k kept
	switch err := json.Unmarshal(text, &k); {
	case err != nil || k.Version != stateVersion:
		return nil, fmt.Errorf("%s is invalid", filepath.Base(s.state))
	case k.Source != s.stats.Source:
		return nil, errors.New("it is from another source")
	case k.Form != s.form && !s.isSQLite():
		return nil, errors.New("it was made for another declaration of the look-up")
	}
	return &k, nil
}

func (s *Snapshot) writeKept(k *kept) error {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if len(text) >= maxState {
		return errors.New("the source's ETag is too long")
	}
	file, err := os.CreateTemp(s.options.Folder, temporary)
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		return errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return remotefile.Keep(file, s.state)
}

// useKept puts the snapshot on disk into use.
func (s *Snapshot) useKept(ctx context.Context, k *kept, confirmed bool) error {
	switch digest, err := fileDigest(ctx, s.file); {
	case err != nil:
		return err
	case digest != k.File:
		return errors.New("its digest is wrong")
	}
	if k.Form != s.form { // a SQLite file, whose rows do not depend on it
		var err error
		if _, k.Undeclared, err = check(ctx, s.file, s.tableName(), s.d); err != nil {
			return err
		}
	}
	contact := time.Now()
	if info, err := os.Stat(s.state); err == nil && !confirmed && info.ModTime().Before(contact) {
		contact = info.ModTime()
	}
	if err := s.serve(ctx, k, contact); err != nil {
		return err
	}
	s.count(func(c *Stats) { c.FromDisk = !confirmed })
	s.log.InfoContext(ctx, "snapshot in use", "digest", k.Digest, "rows", k.Rows, "from_disk", true)
	s.tell(ctx, k.Undeclared)
	return nil
}

// sweep removes what a process that ended while it read a source has left.
func (s *Snapshot) sweep() {
	left, _ := filepath.Glob(filepath.Join(s.options.Folder, temporary))
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > 2*fetchTimeout {
			_ = os.Remove(name)
		}
	}
}
