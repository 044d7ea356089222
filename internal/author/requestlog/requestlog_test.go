package requestlog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/usher-dps/usher/internal/author/requestlog"
)

const (
	request = `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`
	first   = `{"usherRecord":1,"decisionId":"FIRST","time":"2026-11-22T01:02:03Z","source":"current","registrationId":"d","rules":{"digest":"sha256:1"},"status":200,"decision":{"outcome":"assigned","hub":"h"},"request":` + request + `}`
	second  = `{"usherRecord":1,"decisionId":"SECOND","time":"2026-11-22T01:02:04Z","probe":true,"status":503,"decision":{"fault":{"kind":"timeout"}},"request":` + request + `}`
)

// list writes what stands in a log: for each item its place, its kind, the decision of a record and what was answered
// then, and what is wrong.
func list(t testing.TB, log requestlog.Log) []string {
	t.Helper()
	kinds := []string{"other", "request", "exchange", "record", "call", "other call"}
	var found []string
	for item, err := range requestlog.Items(t.Context(), log) {
		if err != nil {
			return append(found, "unreadable: "+err.Error())
		}
		text := item.Place() + " " + kinds[item.Kind]
		if item.Record != nil {
			text += " " + item.Record.DecisionID
		}
		if item.Then != nil {
			text += strings.TrimRight(fmt.Sprintf(" %s %s %s", item.Then.Result, item.Then.Response.IotHubHostName, item.Then.Rules), " ")
		}
		if item.Unanswered() {
			text += " unanswered"
		}
		if len(item.Masked) > 0 {
			text += fmt.Sprintf(" masked %q", item.Masked)
		}
		if item.Err != nil {
			text += ": " + item.Err.Error()
		} else if item.Kind != requestlog.Other && item.Kind != requestlog.OtherCall && compact(t, item.Body) != request {
			text += " with " + string(item.Body)
		}
		found = append(found, text)
	}
	return found
}

func compact(t testing.TB, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return b.String()
}

func logOf(s string) requestlog.Log { return requestlog.Stream("log", strings.NewReader(s)) }

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

// field writes a text as a field of a CSV file.
func field(text string) string { return `"` + strings.ReplaceAll(text, `"`, `""`) + `"` }

func indented(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestSources(t *testing.T) {
	t.Parallel()
	const exchange = `{"time": 1, "decision": {"outcome": "rejected", "rules": "sha256:2"}, "request": ` + request + `, "new": {}}`
	// What the Functions host adds to a line of the console.
	dimensions := `{"Category":"Host.Function.Console","LogLevel":"Information","prop__{OriginalFormat}":` + quoted(first) + `}`
	started := `{"Category":"Host.Startup","prop__{OriginalFormat}":"Host started \"now\""}`
	table := func(rows string) string {
		return `{"tables":[{"name":"PrimaryResult","columns":[{"name":"timestamp","type":"datetime"},{"name":"message","type":"string"}],"rows":[` +
			rows + `]},{"columns":[],"rows":[["2026",` + quoted(request) + `]],"name":"other"}],"statistics":{"rows":[1]}}`
	}
	flat := `[{"TableName":"PrimaryResult","TimeGenerated":"2026","Message":` + quoted(first) + `},{"Message":"Host started"},{"Properties":` + quoted(dimensions) + `}]`
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"a request":                   {request, []string{"log:1 request"}},
		"requests on lines":           {request + "\r\n\n  " + request + "\n", []string{"log:1 request", "log:3 request"}},
		"requests after each other":   {request + request + " " + request + "\n" + request, []string{"log:1 request", "log:1 request", "log:1 request", "log:2 request"}},
		"requests over lines":         {indented(t, request) + indented(t, request) + "\n" + indented(t, exchange) + "\n" + request, []string{"log:1 request", "log:1 request", "log:22 exchange rejected  sha256:2", "log:41 request"}},
		"an array":                    {"[" + request + "," + exchange + "]", []string{"log: row 1 request", "log: row 2 exchange rejected  sha256:2"}},
		"an array over lines":         {indented(t, "["+request+","+first+"]") + "\n" + request, []string{"log: row 1 request", "log: row 2 record FIRST assigned h sha256:1", "log:40 request"}},
		"arrays":                      {"[]\n[" + request + "][" + request + "]\n" + request, []string{"log: row 1 request", "log: row 2 request", "log:3 request"}},
		"exchange with a fault":       {`{"request":` + request + `,"decision":{"fault":{"kind":"bad_verdict"}}}`, []string{"log:1 exchange bad_verdict"}},
		"exchange without a decision": {`{"request":` + request + `,"decision":null}`, []string{"log:1 exchange"}},
		"exchange of another kind":    {`{"request":` + request + `,"decision":[1]}`, []string{`log:1 exchange: the record's decision is not an object such as {"outcome": "assigned", "hub": "..."}`}},
		"records":                     {first + "\n" + second + "\n", []string{"log:1 record FIRST assigned h sha256:1", "log:2 record SECOND timeout unanswered"}},
		"a record over lines":         {indented(t, first), []string{"log:1 record FIRST assigned h sha256:1"}},
		"a record in another order":   {`{"decisionId":"FIRST",` + strings.Replace(first[1:], `"decisionId":"FIRST",`, "", 1), []string{"log:1 record FIRST assigned h sha256:1"}},
		"records in other logs": {"[2026-11-22T01:02:03Z] " + first + "\n" + `{"log":` + quoted(second+"\n") + `,"stream":"stdout"}` + "\n" +
			`{"resourceLogs":[{"body":{"stringValue":` + quoted("INFO "+first) + `}}]}` + "\nusherRecord\n" + `{"level":"info"}`,
			[]string{"log:1 record FIRST assigned h sha256:1", "log:2 record SECOND timeout unanswered", "log:3 record FIRST assigned h sha256:1",
				"log:4 other: the line is not valid JSON at the root (byte 0)", "log:5 other"}},
		"records that Azure sends to an event hub": {`{"records":[{"properties":` + first + `},{"properties":` + quoted(second) + `}]}`,
			[]string{"log:1 record FIRST assigned h sha256:1", "log:1 record SECOND timeout unanswered"}},
		"az monitor log-analytics": {indented(t, flat), []string{"log: row 1 record FIRST assigned h sha256:1", "log: row 2 other", "log: row 3 record FIRST assigned h sha256:1"}},
		"az monitor app-insights":  {indented(t, table(`["2026",`+quoted(second)+`],["2026","x"]`)) + "\n", []string{"log: row 1 record SECOND timeout unanswered", "log: row 2 other", "log: row 3 request"}},
		"the API":                  {table(`["2026",` + quoted(second) + `],["2026",` + dimensions + `]`), []string{"log: row 1 record SECOND timeout unanswered", "log: row 2 record FIRST assigned h sha256:1", "log: row 3 request"}},
		"no result":                {`{"tables":[{"name":"PrimaryResult","columns":[],"rows":[]}]}`, nil},
		"CSV of the portal": {"\ufeff\"timestamp [UTC]\",message,customDimensions\r\n" +
			"2026,Host started," + field(started) + "\r\n" +
			"2026," + field(first) + "," + field(dimensions) + "\r\n" + `2026,"two` + "\n" + `lines, ""quoted""",` + field(dimensions) + "\r\n" + "2026,,\r\n",
			[]string{"log:1 other", "log:2 other", "log:3 record FIRST assigned h sha256:1", "log:4 other", "log:5 record FIRST assigned h sha256:1", "log:6 other"}},
		"CSV with semicolons": {"when;what\n2026;" + field(request) + "\n", []string{"log:1 other", "log:2 request"}},
		"CSV of one column":   {"message\n" + field(second), []string{"log:1 other", "log:2 record SECOND timeout unanswered"}},
		"a record that was cut off by Application Insights": {`{"message":` + quoted(first[:200]) + "}",
			[]string{"log:1 record: not a decision record: jsontext: unexpected EOF"}},
		"records that say too little": {`{"usherRecord":2}` + "\n" + `{"usherRecord":1,"decision":{"outcome":"lost"},"request":` + request + "}\n" + `{"usherRecord":1,"decisionId":"A","decision":{"fault":{"kind":"malformed"}}}`,
			[]string{"log:1 record: a decision record of version 2, and this program reads version 1",
				"log:2 record  lost: the record's decision has no outcome that is known: it is assigned, rejected or held, or the kind of a fault",
				"log:3 record A malformed: the record has no request: the body could not be read"}},
		"a record without its ID": {strings.Replace(strings.Replace(first, `"registrationId":"d"},"linked`, `"payload":1},"linked`, 1), `"request"`, `"masked":["/deviceRuntimeContext/registrationId"],"maskedMore":3,"request"`, 1),
			[]string{`log:1 record FIRST assigned h sha256:1 masked ["/deviceRuntimeContext/registrationId" ""] with {"deviceRuntimeContext":{"payload":1,"registrationId":"masked-id"},"enrollmentGroup":{"enrollmentGroupId":"g"},"linkedHubs":["h"]}`}},
		"lines that are cut off": {request[:40] + "\n" + request + "\n{\"a\":\n" + request + "\n" + request[:40],
			[]string{"log:1 request: the line ends before the JSON object does at /enrollmentGroup/enrollmentGroupId (byte 40): write one object to a line, as `jq -c .` does",
				"log:2 request", "log:3 other: the line ends before the JSON object does at /a (byte 5): write one object to a line, as `jq -c .` does",
				"log:4 request", "log:5 request: the line ends before the JSON object does at /enrollmentGroup/enrollmentGroupId (byte 40): write one object to a line, as `jq -c .` does"}},
		"an array that is cut off": {"[" + request + ",\n" + request[:40], []string{"log: row 1 request", "unreadable: log: row 2: the array or table cannot be read on: not valid JSON at byte 153: unexpected EOF"}},
		"a long line":              {request + "\n" + strings.Repeat("x", 5<<20) + "\n" + request, []string{"log:1 request", "log:2 other: the line is longer than 4 MiB", "log:3 request"}},
		"a long document":          {"{\n" + strings.Repeat("\"a\": 1,\n", 1<<20), []string{"unreadable: log:1: the JSON text that starts here is longer than 4 MiB: write one object to a line, as `jq -c .` does"}},
		"nothing":                  {" \n\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for way, in := range map[string]io.Reader{
				"whole": strings.NewReader(c.text), "halves": iotest.HalfReader(strings.NewReader(c.text)), "end with data": iotest.DataErrReader(strings.NewReader(c.text)),
			} {
				got := list(t, requestlog.Stream("log", in))
				for i, want := range c.want {
					if i < len(got) && strings.HasPrefix(got[i], want) && strings.HasSuffix(want, "EOF") {
						got[i] = want // a library says more
					}
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", way, diff)
				}
			}
			if got := list(t, requestlog.Stream("log", iotest.OneByteReader(strings.NewReader(c.text[:min(len(c.text), 1<<16)])))); len(c.text) <= 1<<16 {
				if diff := cmp.Diff(list(t, logOf(c.text)), got); diff != "" {
					t.Errorf("byte by byte (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func utf16Text(text string, bigEndian bool) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
		low, high := byte(unit), byte(unit>>8)
		if bigEndian {
			low, high = high, low
		}
		b.WriteByte(low)
		b.WriteByte(high)
	}
	return b.String()
}

// What PowerShell redirects, and what tools compress, is read as the text itself.
func TestEncodings(t *testing.T) {
	t.Parallel()
	plain := strings.Replace(first, `"decisionId":"FIRST"`, `"decisionId":"FIRST-ü-😀"`, 1) + "\r\n" + request + "\r\n"
	want := list(t, logOf(plain))
	packed, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, encoded := range map[string]string{
		"UTF-8 with a mark": "\ufeff" + plain, "UTF-16": utf16Text(plain, false), "big-endian UTF-16": utf16Text(plain, true),
		"gzip": gzipped(t, plain), "zstd": string(packed.EncodeAll([]byte(plain), nil)), "UTF-16 in gzip": gzipped(t, utf16Text(plain, false)),
	} {
		for way, in := range map[string]io.Reader{"whole": strings.NewReader(encoded), "bytes": iotest.OneByteReader(strings.NewReader(encoded))} {
			if diff := cmp.Diff(want, list(t, requestlog.Stream("log", in))); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, way, diff)
			}
		}
	}
	if got := list(t, logOf(gzipped(t, plain)[:20])); len(got) != 1 || !strings.HasPrefix(got[0], "unreadable: log:1: the gzip stream is cut off") {
		t.Errorf("cut off: %q", got)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	const other = `{"linkedHubs":[],"request":"no record"}`
	const registered = `{"time":"2026-01-01T00:00:00Z","id":1,"kind":"register","request":{"registrationId":"a"},"durationMs":1}` + "\n"
	called := func(request string, status int) string {
		return fmt.Sprintf(`{"time":"2026-01-01T00:00:00Z","id":2,"kind":"webhook","attempt":1,"request":%s,"status":%d,"response":null,"durationMs":1}`+"\n", request, status)
	}
	for name, c := range map[string]struct {
		text   string
		number int
		want   string // the body, or the error
	}{
		"the only one":              {request + "\n", 0, request},
		"the first":                 {first + "\n" + other, 1, request},
		"the second":                {request + "\n" + `{"request":` + other + "}\n", 2, other},
		"before a broken one":       {request + "\n{", 1, request},
		"among other lines":         {"Listening on :8080\n" + request + `{"level":"info"}`, 0, request},
		"nothing else":              {`{"level":"info"}`, 0, `{"level":"info"}`},
		"broken":                    {"{", 0, "the line ends before the JSON object does at the root (byte 1): write one object to a line, as `jq -c .` does"},
		"several":                   {request + request, 0, "it holds 2 requests"},
		"too few":                   {request, 2, "log: there is no number 2: it holds 1 request"},
		"nothing":                   {" \n", 0, "log is empty"},
		"a journal":                 {registered + called(request, 503) + called(other, 403), 2, other},
		"a journal without calls":   {registered, 0, "log is a journal of usher dps, and holds no first call of a webhook"},
		"a decision of other kinds": {`{"request":` + request + `,"decision":[1]}`, 0, request},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			item, err := requestlog.Choose(t.Context(), logOf(c.text), c.number)
			got := string(item.Body)
			if err == nil && item.Body == nil {
				_, err = item.Parse()
			}
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"b.ndjson.zst", "a/c.csv", "a/b.log", "readme.txt", "a.json.gz"} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := requestlog.Files(folder)
	var names []string
	for _, log := range logs {
		names = append(names, strings.TrimPrefix(filepath.ToSlash(log.Name), filepath.ToSlash(folder)+"/"))
	}
	if diff := cmp.Diff([]string{"a/b.log", "a/c.csv", "a.json.gz", "b.ndjson.zst"}, names); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if logs, err := requestlog.Files(filepath.Join(folder, "readme.txt")); err != nil || len(logs) != 1 || logs[0].Size != 1 {
		t.Errorf("a file: %v, %v", logs, err)
	}
	if _, err := requestlog.Files(filepath.Join(folder, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := requestlog.Files(t.TempDir()); err == nil || !strings.Contains(err.Error(), "contains no file whose name ends in .ndjson, .jsonl, .json, .log or .csv") {
		t.Errorf("an empty folder: %v", err)
	}
}

// repeated gives a text again and again between two others.
type repeated struct {
	before, text, after string
	times               int
	rest                string
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.rest == "" {
		switch {
		case r.before != "":
			r.rest, r.before = r.before, ""
		case r.times > 0:
			r.rest = r.text
			r.times--
		case r.after != "":
			r.rest, r.after = r.after, ""
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// However long a log is, a line in it or an array, memory stays flat.
func TestMemoryIsFlat(t *testing.T) {
	cells := "[1," + quoted(first) + "]"
	for name, c := range map[string]struct {
		log  repeated
		want int
	}{
		"lines":       {repeated{text: first + "\n", times: 100_000}, 100_000},
		"an array":    {repeated{before: "[", text: `{"m":` + quoted(first) + "},\n", after: "{}]", times: 100_000}, 100_001},
		"a table":     {repeated{before: `{"tables":[{"rows":[`, text: cells + ",", after: "[]]}]}", times: 100_000}, 100_001},
		"a long line": {repeated{text: strings.Repeat("x", 1<<16), times: 1000}, 1},
	} {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		items := 0
		for item, err := range requestlog.Items(t.Context(), requestlog.Stream("log", &c.log)) {
			if err != nil || item.Err != nil && name != "a long line" {
				t.Fatal(name, err, item.Err)
			}
			items++
		}
		runtime.ReadMemStats(&now)
		if grown := int64(now.HeapSys) - int64(before.HeapSys); grown > 48<<20 || items != c.want {
			t.Errorf("%s: %d items, and the heap grew by %d MB", name, items, grown>>20)
		}
	}
}

// FuzzItems: whatever a log holds, nothing panics, the bodies of items are valid JSON, and how it arrives makes no
// difference.
func FuzzItems(f *testing.F) {
	for _, seed := range []string{
		request, first + "\n" + second, "[" + request + ", " + first + "]", "{\n" + request[1:], "\ufeffa,b\n1," + field(first),
		`{"tables":[{"columns":[],"rows":[[1,` + quoted(second) + `]]}]}`, `{"m":` + quoted("INFO "+first) + "}", utf16Text(request, false),
		`{"time":"2026-01-01T00:00:00Z","id":1,"kind":"webhook","request":{},"status":200,"response":{"iotHubHostName":"h"},"durationMs":1}`,
		`{"request":{},"decision":{"fault":"timeout"}}`, "x " + first + "{}", "[\n]\n[{}][", "{\"tables\":[]} {\"tables\":7}",
	} {
		f.Add([]byte(seed), uint8(7))
	}
	f.Fuzz(func(t *testing.T, log []byte, size uint8) {
		var last []string
		for _, in := range []io.Reader{bytes.NewReader(log), &chunked{bytes.NewReader(log), int(size) + 1}} {
			found := []string{}
			for item, err := range requestlog.Items(t.Context(), requestlog.Stream("log", in)) {
				if err != nil {
					place, _, _ := strings.Cut(err.Error(), ": invalid") // a library says more, depending on the chunks
					found = append(found, place)
					break
				}
				if item.Err == nil && item.Body != nil && !json.Valid(item.Body) {
					t.Errorf("%s is not valid JSON: %s", item.Place(), item.Body)
				}
				if item.Err == nil && (item.Kind == requestlog.Record) != (item.Record != nil) {
					t.Errorf("%s: a record that is none", item.Place())
				}
				found = append(found, fmt.Sprintf("%s %d %s %s", item.Place(), item.Kind, item.Body, item.Text))
			}
			if diff := cmp.Diff(last, found); last != nil && diff != "" {
				t.Errorf("in chunks of %d (-whole +chunks):\n%s", int(size)+1, diff)
			}
			last = found
		}
	})
}

type chunked struct {
	in   io.Reader
	size int
}

func (c *chunked) Read(p []byte) (int, error) { return c.in.Read(p[:min(len(p), c.size)]) }

// BenchmarkItems reads lines as a replay does.
func BenchmarkItems(b *testing.B) {
	for name, line := range map[string]string{"requests": request, "records": first} {
		b.Run(name, func(b *testing.B) {
			log := strings.Repeat(line+"\n", 10_000)
			b.SetBytes(int64(len(log)))
			for b.Loop() {
				reader, err := logOf(log).Reader(b.Context(), nil)
				if err != nil {
					b.Fatal(err)
				}
				var block requestlog.Block
				for err == nil {
					if err = reader.Next(&block); err == nil {
						for item := range block.Items() {
							if item.Err != nil {
								b.Fatal(item.Err)
							}
						}
					}
				}
			}
		})
	}
}
