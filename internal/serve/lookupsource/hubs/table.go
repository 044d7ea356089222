package hubs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/internal/serve/remotefile"
)

// Entry is what the operator's table says about a hub.
type Entry struct {
	State State  // empty means Open
	Limit *int64 // nil means that of the settings
	Note  string
}

// tableSchema is that of a row.
const tableSchema = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"additionalProperties": false,
	"properties": {
		"state": {"type": "string", "enum": ["open", "drain", "down"]},
		"limit": {"type": "integer", "minimum": 0, "maximum": 1000000000000},
		"note": {"type": "string", "maxLength": 1000}
	}
}`

const maxTable = 1 << 20 // bytes

// tableDeclaration describes the operator's table as it describes those of look-ups.
func tableDeclaration() (*lookups.Declaration, error) {
	d := &lookups.Declaration{Name: lookups.HubName, Place: "the table of hubs", Key: "hub"}
	var err error
	if d.Row, err = schema.Compile("table of hubs", []byte(tableSchema)); err != nil {
		return nil, err
	}
	return d, json.Unmarshal([]byte(tableSchema), &d.RowSchema)
}

// parseTable reads the operator's table, and sorts its entries by the names of hubs. It also returns how many rows are
// about other hubs.
func parseTable(name string, text []byte, d *lookups.Declaration, hubs map[string]*hub) (table map[string]Entry, others int, err error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, 0, errors.New("it is empty: a table without rows is [] in YAML, and has the line hub,state,limit,note in CSV")
	}
	table = map[string]Entry{}
	_, err = lookups.ReadTable(bytes.NewReader(text), path.Base(name), d, func(r lookups.Row) error {
		h := hubs[dps.HubName(strings.TrimSpace(r.Key))]
		if h == nil {
			others++
			return nil
		}
		if _, twice := table[h.name]; twice {
			return lookups.ErrDuplicate
		}
		state, _ := r.Members["state"].(string)
		note, _ := r.Members["note"].(string)
		entry := Entry{State: State(state), Note: note}
		if number, ok := r.Members["limit"].(json.Number); ok {
			limit, err := number.Int64()
			if err != nil {
				return fmt.Errorf("line %d: write the limit in digits", r.Line) // JSON Schema takes 1.0 and 1e6 for integers
			}
			entry.Limit = &limit
		}
		table[h.name] = entry
		return nil
	})
	return table, others, err
}

const (
	filePoll = time.Second
	blobPoll = 10 * time.Second
)

// keeper reads the table again and again, and keeps the last good one.
type keeper struct {
	location remotefile.Location
	log      *slog.Logger
	fetcher  *remotefile.Fetcher // nil for a file

	declaration *lookups.Declaration

	// Used by one goroutine at a time.
	etag    string
	seen    []byte // the last text that was taken or refused
	partial []byte // a text that is perhaps still being written
	refusal string // why seen was refused; empty if it was taken

	mu   sync.Mutex
	stat TableStatus
}

func newKeeper(options Options, log *slog.Logger) (*keeper, error) {
	location, err := remotefile.ParseLocation(options.Table)
	if err != nil {
		return nil, fmt.Errorf("the table of hubs: %w", err)
	}
	k := &keeper{location: location, log: log.With("table", location.String()), stat: TableStatus{Location: location.String()}}
	if !lookups.IsTable(location.String()) {
		return nil, errors.New("the table of hubs is not a file of CSV, NDJSON or YAML, such as hubs.csv")
	}
	if k.declaration, err = tableDeclaration(); err != nil {
		return nil, err
	}
	if location.Kind != remotefile.Path {
		k.fetcher = remotefile.NewFetcher(remotefile.Options{Location: location, What: "table of hubs", MaxBytes: maxTable,
			Credential: options.Credential, Transport: options.Transport})
	}
	return k, nil
}

func (k *keeper) wait() time.Duration {
	if k.fetcher == nil {
		return filePoll
	}
	return spread(blobPoll)
}

func (k *keeper) version() string { return k.status().Version }

func (k *keeper) status() TableStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stat
}

// read returns a new table by the names of the hubs. It reports false if there is none, or none that is good.
func (k *keeper) read(ctx context.Context, hubs map[string]*hub) (map[string]Entry, bool) {
	text, changed, err := k.fetch(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, false // we are stopping
	}
	if err != nil {
		k.fail(ctx, slog.LevelWarn, "table of hubs not read", err)
		return nil, false
	}
	if !changed {
		k.mu.Lock()
		k.stat.Failure = k.refusal // it can be read
		k.mu.Unlock()
		return nil, false
	}
	k.seen, k.refusal = text, ""
	table, others, err := parseTable(k.location.String(), text, k.declaration, hubs)
	if err != nil {
		k.refusal = remotefile.Presentable(err).Error()
		k.fail(ctx, slog.LevelError, "table of hubs refused", err)
		return nil, false
	}
	sum := sha256.Sum256(text)
	k.mu.Lock()
	k.stat.Version, k.stat.Failure = "sha256:"+hex.EncodeToString(sum[:]), ""
	k.mu.Unlock()
	k.log.InfoContext(ctx, "table of hubs in effect", "version", k.version(), "hubs", len(table))
	if others > 0 {
		k.log.WarnContext(ctx, "table of hubs names hubs that the settings do not", "rows", others)
	}
	return table, true
}

// fail notes why there is no new table. The last one stays in effect.
func (k *keeper) fail(ctx context.Context, level slog.Level, message string, err error) {
	text := remotefile.Presentable(err).Error()
	k.mu.Lock()
	if text == k.stat.Failure {
		level = slog.LevelDebug
	}
	k.stat.Failures++
	k.stat.Failure = text
	k.mu.Unlock()
	k.log.Log(ctx, level, message, "error", text)
}

// fetch returns the text of the table, and whether it is another one than the last.
func (k *keeper) fetch(ctx context.Context) (text []byte, changed bool, err error) {
	if k.fetcher != nil {
		return k.download(ctx)
	}
	file, err := os.Open(k.location.Path)
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	text, err = readAll(file)
	switch {
	case err != nil:
		return nil, false, err
	case k.seen != nil && bytes.Equal(text, k.seen):
		k.partial = nil
		return nil, false, nil
	case k.seen != nil && (k.partial == nil || !bytes.Equal(text, k.partial)):
		k.partial = text // an editor may still be writing: the rest of the table must not be missing meanwhile
		return nil, false, nil
	}
	k.partial = nil
	return text, true, nil
}

func (k *keeper) download(ctx context.Context) (text []byte, changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	response, err := k.fetcher.Get(ctx, k.etag)
	if err != nil || response.Unchanged {
		return nil, false, err
	}
	defer response.Body.Close()
	if text, err = readAll(response.Body); err != nil {
		return nil, false, err
	}
	k.etag = response.ETag
	return text, k.seen == nil || !bytes.Equal(text, k.seen), nil
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxTable+1))
	if err == nil && len(text) > maxTable {
		err = fmt.Errorf("it is larger than %d bytes", maxTable)
	}
	return text, err
}
