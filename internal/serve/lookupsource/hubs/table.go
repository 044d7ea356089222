package hubs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/serve/rulesource"
)

// Entry is what the operator's table says about a hub.
type Entry struct {
	State State  // empty means Open
	Limit *int64 // nil means that of the settings
	Note  string
}

// row is a row of the table.
type row struct {
	line int
	hub  string
	Entry
}

const (
	maxTable = 1 << 20 // bytes
	maxNote  = 1 << 10
)

// columns of the table.
var columns = []string{"hub", "state", "limit", "note"}

// parseTable reads the operator's table: CSV with a header line, or a list of objects in YAML or JSON. The name of the
// file says which.
func parseTable(name string, text []byte) ([]row, error) {
	parse := parseYAML
	if strings.EqualFold(path.Ext(name), ".csv") {
		parse = parseCSV
	}
	all, err := parse(text)
	if err != nil {
		return nil, err
	}
	rows := make([]row, 0, len(all))
	for _, fields := range all {
		r, err := parseRow(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", fields.line, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// record is a row as text.
type record struct {
	line   int
	values map[string]string
}

func parseRow(r record) (row, error) {
	parsed := row{r.line, r.values["hub"], Entry{State: State(strings.ToLower(r.values["state"])), Note: r.values["note"]}}
	switch parsed.State {
	case "", Open, Drain, Down:
	default:
		return row{}, fmt.Errorf("the state is none of %s, %s and %s", Open, Drain, Down)
	}
	if text := r.values["limit"]; text != "" {
		limit, err := strconv.ParseInt(text, 10, 64)
		if err != nil || limit < 0 || limit > maxDevices {
			return row{}, errors.New("the limit is not a number of devices")
		}
		parsed.Limit = &limit
	}
	switch {
	case parsed.hub == "":
		return row{}, errors.New("it names no hub")
	case len(parsed.Note) > maxNote:
		return row{}, fmt.Errorf("the note has more than %d bytes", maxNote)
	}
	return parsed, nil
}

func checkColumn(name string) error {
	if !slices.Contains(columns, name) {
		return fmt.Errorf("there is a column besides %s", strings.Join(columns, ", "))
	}
	return nil
}

func parseCSV(text []byte) ([]record, error) {
	reader := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff")))) // Excel writes a byte order mark
	reader.TrimLeadingSpace = true
	header, err := reader.Read()
	if err == io.EOF {
		return nil, errors.New("it is empty: a table without rows has a header")
	}
	if err != nil {
		return nil, err
	}
	for i, name := range header {
		header[i] = strings.ToLower(strings.TrimSpace(name))
		if err := checkColumn(header[i]); err != nil {
			return nil, fmt.Errorf("line 1: %w", err)
		}
		if slices.Contains(header[:i], header[i]) {
			return nil, fmt.Errorf("line 1: the column %s is there twice", header[i])
		}
	}
	if !slices.Contains(header, "hub") {
		return nil, errors.New("line 1: there is no column hub")
	}
	var records []record
	for {
		fields, err := reader.Read()
		if err == io.EOF {
			return records, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := reader.FieldPos(0)
		r := record{line, map[string]string{}}
		for i, value := range fields {
			r.values[header[i]] = strings.TrimSpace(value)
		}
		records = append(records, r)
	}
}

func parseYAML(text []byte) ([]record, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	err := decoder.Decode(&document)
	if err == nil && decoder.Decode(new(yaml.Node)) != io.EOF {
		err = errors.New("something follows the list")
	}
	if err == io.EOF || err == nil && document.Content[0].Kind != yaml.SequenceNode {
		err = errors.New("it is not a list of hubs, which without hubs is []")
	}
	if err != nil {
		return nil, err
	}
	var records []record
	for _, item := range document.Content[0].Content {
		r := record{item.Line, map[string]string{}}
		problem := func(text string) ([]record, error) { return nil, fmt.Errorf("line %d: %s", item.Line, text) }
		if item.Kind != yaml.MappingNode {
			return problem("it is not an object with " + strings.Join(columns, ", "))
		}
		for i := 0; i < len(item.Content); i += 2 {
			name, value := item.Content[i].Value, item.Content[i+1]
			if err := checkColumn(name); err != nil {
				return problem(err.Error())
			}
			if _, twice := r.values[name]; twice {
				return problem(name + " is there twice")
			}
			if value.Kind != yaml.ScalarNode {
				return problem(name + " is not a text or a number")
			}
			if r.values[name] = ""; value.Tag != "!!null" {
				r.values[name] = strings.TrimSpace(value.Value)
			}
		}
		records = append(records, r)
	}
	return records, nil
}

// byHub sorts rows by the names of the hubs, and returns those that name none of them.
func byHub(rows []row, hubs map[string]*hub) (table map[string]Entry, others []string, err error) {
	table = map[string]Entry{}
	for _, r := range rows {
		h := hubs[dps.HubName(r.hub)]
		if h == nil {
			others = append(others, fmt.Sprintf("line %d", r.line))
			continue
		}
		if _, twice := table[h.name]; twice {
			return nil, nil, fmt.Errorf("line %d: %s is there twice", r.line, h.name)
		}
		table[h.name] = r.Entry
	}
	return table, others, nil
}

const (
	filePoll = time.Second
	blobPoll = 10 * time.Second
)

// keeper reads the table again and again, and keeps the last good one.
type keeper struct {
	location rulesource.Location
	log      *slog.Logger
	blob     *blob.Client // nil for a file

	// Used by one goroutine at a time.
	etag    azcore.ETag
	seen    []byte // the last text that was taken or refused
	partial []byte // a text that is perhaps still being written
	refusal string // why seen was refused; empty if it was taken

	mu   sync.Mutex
	stat TableStatus
}

func newKeeper(options Options, log *slog.Logger) (*keeper, error) {
	location, err := rulesource.ParseLocation(options.Table)
	if err != nil {
		return nil, fmt.Errorf("the table of hubs: %w", err)
	}
	k := &keeper{location: location, log: log.With("table", location.String()), stat: TableStatus{Location: location.String()}}
	client := blob.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true},
		Transport: &http.Client{Transport: options.Transport},
	}}
	switch location.Kind {
	case rulesource.Blob:
		k.blob, err = blob.NewClient(location.URL, &lateCredential{get: options.Credential}, &client)
	case rulesource.HTTPS: // with a shared access signature
		k.blob, err = blob.NewClientWithNoCredential(location.URL, &client)
	}
	return k, err
}

func (k *keeper) wait() time.Duration {
	if k.blob == nil {
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
	rows, err := parseTable(k.location.String(), text)
	var table map[string]Entry
	var others []string
	if err == nil {
		table, others, err = byHub(rows, hubs)
	}
	if err != nil {
		k.refusal = shown(err)
		k.fail(ctx, slog.LevelError, "table of hubs refused", err)
		return nil, false
	}
	sum := sha256.Sum256(text)
	k.mu.Lock()
	k.stat.Version, k.stat.Failure = "sha256:"+hex.EncodeToString(sum[:]), ""
	k.mu.Unlock()
	k.log.InfoContext(ctx, "table of hubs in effect", "version", k.version(), "hubs", len(table))
	if len(others) > 0 {
		k.log.WarnContext(ctx, "table of hubs names hubs that the settings do not", "rows", strings.Join(others, ", "))
	}
	return table, true
}

// fail notes why there is no new table. The last one stays in effect.
func (k *keeper) fail(ctx context.Context, level slog.Level, message string, err error) {
	text := shown(err)
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
	if k.blob != nil {
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
	options := blob.DownloadStreamOptions{}
	if k.etag != "" {
		options.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &k.etag}}
	}
	response, err := k.blob.DownloadStream(ctx, &options)
	if refused, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return nil, false, &statusError{status: refused.StatusCode, code: plainCode(refused.ErrorCode), fix: "the identity needs the role Storage Blob Data Reader"}
	}
	if err != nil || response.Body == nil {
		return nil, false, err // nil if the blob has not changed
	}
	defer response.Body.Close()
	if text, err = readAll(response.Body); err != nil {
		return nil, false, err
	}
	k.etag = ""
	if response.ETag != nil {
		k.etag = *response.ETag
	}
	return text, k.seen == nil || !bytes.Equal(text, k.seen), nil
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxTable+1))
	if err == nil && len(text) > maxTable {
		err = fmt.Errorf("it is larger than %d bytes", maxTable)
	}
	return text, err
}
