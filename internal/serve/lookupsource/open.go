package lookupsource

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/lookupsource/hubs"
	"github.com/usher-dps/usher/internal/serve/lookupsource/postgres"
	"github.com/usher-dps/usher/internal/serve/lookupsource/snapshot"
	"github.com/usher-dps/usher/internal/serve/lookupsource/table"
	"github.com/usher-dps/usher/internal/serve/lookupsource/web"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/lookup"
)

// Backend is a source of rows with what Sources need to know about it. Only the Source and the Kind are required.
type Backend struct {
	lookup.Source
	// Kind names the source in records and metrics.
	Kind string
	// Local is set if the rows are in this process or on its disk: they are neither kept again, nor is a request worth
	// sharing or sparing.
	Local bool
	// Prepare checks what can be checked before the first look-up, such as that the columns fit the declaration. A
	// *fault.Error does not end a start, because a source can come back; any other error does. It is called for each set
	// of rules, also at the same time.
	Prepare func(context.Context, *lookups.Declaration) error
	// Run keeps the source up to date until the context ends.
	Run func(context.Context)
	// State says which state of the data is in use, and of when it is.
	State func() (version string, asOf time.Time)
	// Notes say what people should know of a source that answers.
	Notes func() []Note
}

// Note is what people should know of a source that answers, safe to show.
type Note struct {
	Text, Fix string
	// Harmful is set if rules may decide otherwise than their author and the operator think.
	Harmful bool
}

// opener opens the sources that settings name.
type opener struct {
	Options
	identity azcore.TokenCredential
}

func (o opener) open(s Setting) (Backend, error) {
	switch s.Kind {
	case Table:
		location, err := table.ParseLocation(s.Address)
		if err != nil {
			return Backend{}, err
		}
		source, err := table.New(table.Options{Location: location, Credential: o.identity, Transport: o.Transport})
		if err != nil {
			return Backend{}, err
		}
		return Backend{Source: source, Kind: string(s.Kind), Prepare: briefly(source.Prepare)}, nil
	case Web:
		template, err := web.ParseTemplate(s.Address)
		if err != nil {
			return Backend{}, err
		}
		source := web.New(web.Options{Template: template, Audience: s.Audience, Credential: o.identity, Header: s.Header, Transport: o.Transport})
		return Backend{Source: source, Kind: string(s.Kind), Prepare: briefly(source.Prepare)}, nil
	case Snapshot:
		return o.openSnapshot(s)
	case Postgres:
		source, err := postgres.New(postgres.Options{URL: s.Address, Query: s.Query,
			Credential: func() (azcore.TokenCredential, error) { return o.identity, nil }})
		if err != nil {
			return Backend{}, err
		}
		prepare := func(ctx context.Context, d *lookups.Declaration) error {
			return briefly(func(ctx context.Context) error { return source.Prepare(ctx, d) })(ctx, d)
		}
		return Backend{Source: source, Kind: string(s.Kind), Prepare: prepare}, nil
	case Hubs:
		options := s.Hubs
		options.Credential, options.Transport, options.Log = o.Credential, o.Transport, o.Log
		if table, err := remotefile.ParseLocation(options.Table); err == nil && table.Kind == remotefile.Path {
			options.Table = o.inRoot(options.Table)
		}
		source, err := hubs.New(options)
		if err != nil {
			return Backend{}, err
		}
		var started sync.Once
		prepare := func(ctx context.Context, _ *lookups.Declaration) error {
			started.Do(func() { source.Start(ctx) })
			return nil
		}
		return Backend{Source: source, Kind: string(s.Kind), Local: true, Prepare: prepare, Run: source.Run, State: source.State}, nil
	}
	return Backend{}, fmt.Errorf("a %s source is not supported", s.Kind)
}

// inRoot lets a relative path start at the root. An empty one stays empty.
func (o opener) inRoot(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(o.Root, filepath.FromSlash(name))
}

// openSnapshot opens a snapshot. Nothing is kept of it in memory.
func (o opener) openSnapshot(s Setting) (Backend, error) {
	location, err := remotefile.ParseLocation(s.Address)
	if err != nil {
		return Backend{}, err
	}
	location.Path = o.inRoot(location.Path)
	source, err := snapshot.New(snapshot.Options{Name: s.Name, Location: location, Folder: o.Folder, Poll: s.Poll, Credential: o.Credential,
		Transport: o.Transport, Log: o.Log})
	if err != nil {
		return Backend{}, err
	}
	var current atomic.Pointer[lookups.Declaration]
	prepare := func(ctx context.Context, d *lookups.Declaration) error {
		current.Store(d)
		return source.Prepare(ctx, d)
	}
	notes := func() []Note {
		stats := source.Stats()
		_, asOf := source.State()
		return append(oldNotes(s.Name, stats, asOf), UndeclaredNotes(stats.Undeclared, current.Load())...)
	}
	return Backend{Source: source, Kind: string(s.Kind), Local: true, Prepare: prepare, Run: source.Run, State: source.State, Notes: notes}, nil
}

func (n Note) String() string {
	kind := "note: "
	if n.Harmful {
		kind = "warning: "
	}
	text := kind + n.Text
	if n.Fix != "" {
		text += "\n  fix: " + n.Fix
	}
	return text
}

// oldNotes say that a snapshot answers which is no longer what the source has.
func oldNotes(name string, stats snapshot.Stats, asOf time.Time) []Note {
	why, fix := fault.Plain(stats.Failure), fixes[fault.Unreachable]
	switch {
	case stats.Digest == "" || stats.Failure == "" && stats.Refused == "":
		return nil
	case stats.Gone:
		fix = fixNotFound(name)
	case stats.Failure == "":
		why, fix = "the one at the source is refused: "+fault.Plain(stats.Refused), fixes[fault.Schema]
	}
	return []Note{{Text: fmt.Sprintf("%s; the rows are the last good ones, of %s", why, asOf.UTC().Format(time.RFC3339)), Fix: fix, Harmful: true}}
}

// UndeclaredNotes are about what a table has and d does not.
func UndeclaredNotes(undeclared []lookups.Undeclared, d *lookups.Declaration) []Note {
	var notes []Note
	for _, u := range undeclared {
		p := u.Problem(d)
		notes = append(notes, Note{Text: p.Place + ": " + p.Message, Fix: p.Fix, Harmful: u.Meant != ""})
	}
	return notes
}

// prepareTimeout bounds how long a start waits for a source that is asked over the network.
const prepareTimeout = 2 * time.Second

func briefly(prepare func(context.Context) error) func(context.Context, *lookups.Declaration) error {
	return func(ctx context.Context, _ *lookups.Declaration) error {
		ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
		defer cancel()
		return prepare(ctx)
	}
}
