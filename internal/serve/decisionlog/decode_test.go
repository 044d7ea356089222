package decisionlog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// full is a record with something in every member.
func full() decisionlog.Record {
	part := &decisionlog.Part{Bytes: 12, Digest: "sha256:00", Value: json.RawMessage(`{"a":"b"}`)}
	return decisionlog.Record{
		Version: 1, DecisionID: "ID", Time: time.Date(2026, 11, 22, 1, 2, 3, 4005006, time.UTC), DurationUS: 17, Source: answer.SourceShadow, ShadowOf: "OTHER", Diverged: []answer.Difference{answer.InHub}, Probe: true, Service: "s",
		RegistrationID: "d \"1\"", Enrollment: &decisionlog.Enrollment{Kind: "enrollmentGroup", ID: "g"},
		Rules: &decisionlog.Rules{Digest: "sha256:1", Revision: "r"}, Rule: &decisionlog.Rule{Package: "p", Title: "t", File: "f"},
		Lines:  []answer.Line{{Entry: "hub", Place: "f:1"}, {Entry: "payload", Place: "f:2"}},
		Status: 200, Decision: decisionlog.Decision{Outcome: "assigned", Fault: &decisionlog.Fault{Kind: "internal", Detail: "x",
			Violations: []answer.Violation{{Pointer: "/a", Problem: "b"}}}, Hub: "h", InitialTwin: part, InitialTwinUse: "applied", Payload: part,
			Reasons: []string{"a", "b"}, Overrides: []answer.Override{"on_undecided"}, RetryAfterMS: 5, Alarm: true, Cause: "c", BuiltinErrors: []string{"f:3"}},
		DPSEffect: decisionlog.Effect{Result: "failed", ErrorCode: 400207},
		Certificate: &decisionlog.Certificate{Subject: "s", Issuer: "i", SHA256Thumbprint: "AB", NotAfter: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
			Attributes: json.RawMessage(`{"subject":{"organization":["o"]}}`)},
		Request: json.RawMessage(`{"x":1}`), Masked: []string{"/y"}, MaskedMore: 3,
		Lookups: []decisionlog.Call{{Builtin: "time.now_ns", Arguments: json.RawMessage(`[]`), Result: json.RawMessage(`7`)}}, LookupsDropped: 2,
		Trace: &decisionlog.Trace{TraceID: "1", ParentSpanID: "2", SpanID: "3"}, InvocationID: "i",
	}
}

// What is written is what encoding/json would write, and reads back the same.
func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for name, record := range map[string]decisionlog.Record{"full": full(), "bare": {Version: 1, Source: "current"}} {
		text := record.AppendJSON([]byte("before "))
		text, ok := bytes.CutPrefix(text, []byte("before "))
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(record); err != nil || !ok {
			t.Fatal(err, ok)
		}
		if got := string(text) + "\n"; got != want.String() {
			t.Errorf("%s: got  %swant %s", name, got, want.String())
		}
		decoded, err := decisionlog.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(record, decoded); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// No member is forgotten by the test above.
func TestFullIsFull(t *testing.T) {
	t.Parallel()
	var check func(path string, v reflect.Value)
	check = func(path string, v reflect.Value) {
		switch {
		case v.IsZero():
			t.Errorf("%s is empty", path)
		case v.Kind() == reflect.Pointer:
			check(path, v.Elem())
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
			for i := range v.NumField() {
				check(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		}
	}
	check("record", reflect.ValueOf(full()))
}

func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                   "unexpected EOF",
		`{`:                                  "unexpected EOF",
		`[]`:                                 "not a decision record",
		`7`:                                  "not a decision record",
		`{}`:                                 "it has no usherRecord",
		`{"usherRecord":null}`:               "it has no usherRecord",
		`{"usherRecord":2,"time":7}`:         "of version 2, and this program reads version 1",
		`{"usherRecord":1.5}`:                "of version 1.5",
		`{"usherRecord":"1"}`:                "not a decision record",
		`{"usherRecord":1,"time":"x"}`:       "not a decision record",
		`{"usherRecord":1,"status":"x"}`:     "not a decision record",
		`{"usherRecord":1} {}`:               "after top-level value",
		`{"linkedHubs":[],"usherRecord":[]}`: "not a decision record",
	} {
		_, err := decisionlog.Decode([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	if _, err := decisionlog.Decode([]byte(`{"x":1}`)); !errors.Is(err, decisionlog.ErrNotRecord) {
		t.Errorf("got %v", err)
	}
	if record, err := decisionlog.Decode([]byte(`{"usherRecord":1,"later":{"x":[]}}`)); err != nil || record.Version != 1 {
		t.Errorf("an unknown member: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	record := full()
	f.Add(record.AppendJSON(nil))
	f.Add([]byte(`{"usherRecord":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		record, err := decisionlog.Decode(text)
		if err != nil {
			return
		}
		again, err := decisionlog.Decode(record.AppendJSON(nil))
		if err != nil {
			t.Fatalf("%v: %s", err, record.AppendJSON(nil))
		}
		if first, second := record.AppendJSON(nil), again.AppendJSON(nil); !bytes.Equal(first, second) {
			t.Errorf("%s\n%s", first, second)
		}
	})
}
