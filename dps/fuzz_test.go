package dps_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usher-dps/usher/dps"
)

// FuzzParseAllocationRequest holds the parser against encoding/json.
func FuzzParseAllocationRequest(f *testing.F) {
	for _, body := range exampleRequests(f) {
		f.Add(body)
	}
	for _, body := range []string{
		``, `{}`, `{} {}`, `[]`, `null`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}",
		`{"a":1e308,"b":1e309,"c":-0,"d":01}`, `{"LinkedHubs":null,"linkedHubs":["h"]}`, `{"x":[[{}],{"y":null}]}`,
		`{"deviceRuntimeContext":{"currentIoTHubHostname":"a","currentIoTHubHostName":"b"}}`,
		`{"enrollmentGroup":{"InitialTwin":{"tags":{"a":null}},"reprovisionPolicy":{"updateHubAssignment":false}}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		request, err := dps.ParseAllocationRequest(body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body is changed")
		}
		if err != nil {
			malformed, ok := errors.AsType[*dps.MalformedError](err)
			if !ok || request != nil {
				t.Fatalf("request %v with error %v", request, err)
			}
			if malformed.Offset < 0 || malformed.Offset > int64(len(body)) {
				t.Fatalf("offset %d of a body of %d bytes", malformed.Offset, len(body))
			}
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		var want map[string]any
		if err := decoder.Decode(&want); err != nil {
			t.Fatalf("accepted, but encoding/json says: %v", err)
		}
		if _, err := decoder.Token(); err != io.EOF {
			t.Fatalf("accepted, but encoding/json finds more: %v", err)
		}
		duplicates, depth := survey(json.NewDecoder(bytes.NewReader(body)))
		if duplicates {
			t.Fatal("accepted with a member name that occurs twice")
		}
		if depth > dps.MaxDepth {
			t.Fatalf("accepted with a depth of %d", depth)
		}
		// Without a name of DPS's in sight nothing is renamed and no null dropped.
		if !mentionsDPS(want) && !reflect.DeepEqual(request.Document(), want) {
			t.Fatalf("document %v, encoding/json %v", request.Document(), want)
		}
		// Read again, it is the same: nothing is left to rename or to drop.
		again, err := dps.ParseAllocationRequest(dps.AppendValue(nil, request.Document()))
		if err != nil {
			t.Fatalf("its own JSON is refused: %v", err)
		}
		if diff := cmp.Diff(request, again, cmpopts.IgnoreUnexported(dps.AllocationRequest{})); diff != "" || !reflect.DeepEqual(again.Document(), request.Document()) {
			t.Fatalf("read again: %v, before %v", again.Document(), request.Document())
		}
	})
}

// survey tells whether an object has a member name twice, and how deep objects and arrays nest.
func survey(decoder *json.Decoder) (duplicates bool, depth int) {
	type level struct {
		names  map[string]bool // nil for an array
		isName bool            // what comes next is a name
	}
	var stack []level
	for {
		token, err := decoder.Token()
		if err != nil {
			return duplicates, depth
		}
		top := len(stack) - 1
		if delimiter, ok := token.(json.Delim); ok && (delimiter == '}' || delimiter == ']') {
			stack = stack[:top]
			continue
		}
		if top >= 0 && stack[top].names != nil {
			if stack[top].isName {
				name := token.(string)
				duplicates = duplicates || stack[top].names[name]
				stack[top].names[name] = true
				stack[top].isName = false
				continue
			}
			stack[top].isName = true // after this value
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{names: map[string]bool{}, isName: true})
		case json.Delim('['):
			stack = append(stack, level{})
		}
		depth = max(depth, len(stack))
	}
}

func mentionsDPS(document map[string]any) bool {
	for name := range document {
		if slices.ContainsFunc([]string{"linkedHubs", "enrollmentGroup", "individualEnrollment", "deviceRuntimeContext"},
			func(own string) bool { return strings.EqualFold(own, name) }) {
			return true
		}
	}
	return false
}

// FuzzCheckInitialTwin takes twins as JSON, so that the fuzzer can build any.
func FuzzCheckInitialTwin(f *testing.F) {
	for _, twin := range []string{
		`{}`, `{"tags":{"a":"b"},"properties":{"desired":{"c":1}}}`, `{"tags":null,"x":[]}`,
		`{"tags":{"a.b":{"$c":[1e20,{"d e":-4503599627370497}]}}}`, `{"properties":{"reported":{},"desired":[]}}`,
		`{"tags":{"1":{"2":{"3":{"4":{"5":{"6":{"7":{"8":{"9":{"10":{"11":{}}}}}}}}}}}}}`,
	} {
		f.Add(twin)
	}
	const canary = "canary-7f3a"
	f.Fuzz(func(t *testing.T, text string) {
		request, err := dps.ParseAllocationRequest([]byte(text))
		if err != nil {
			return
		}
		twin := request.Body()
		problems := dps.CheckInitialTwin(twin)
		for i, problem := range problems {
			if problem.Pointer == "" || problem.Pointer[0] != '/' || problem.Problem == "" {
				t.Errorf("no place or no words: %+v", problem)
			}
			if i > 0 && problems[i-1].Pointer > problem.Pointer {
				t.Errorf("%q stands before %q", problems[i-1].Pointer, problem.Pointer)
			}
		}
		if again := dps.CheckInitialTwin(twin); !slices.Equal(problems, again) {
			t.Errorf("first %v, then %v", problems, again)
		}
		if strings.Contains(text, canary) {
			return
		}
		for _, problem := range dps.CheckInitialTwin(dps.ValueOf(plant(twin.Interface(), canary))) {
			if strings.Contains(problem.String(), canary) {
				t.Errorf("a problem shows a value: %s", problem)
			}
		}
	})
}

// plant puts a text in place of every string and every number.
func plant(value any, text string) any {
	switch v := value.(type) {
	case map[string]any:
		planted := make(map[string]any, len(v))
		for name, member := range v {
			planted[name] = plant(member, text)
		}
		return planted
	case []any:
		planted := make([]any, len(v))
		for i, element := range v {
			planted[i] = plant(element, text)
		}
		return planted
	case string:
		return strings.Repeat(text, 1+len(v))
	case json.Number:
		return text
	default:
		return value
	}
}
