package dps_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
)

func TestAppendJSON(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		response dps.AllocationResponse
		want     string
	}{
		{"hub alone", dps.AllocationResponse{IotHubHostName: "contoso-eu.azure-devices.net"},
			`{"iotHubHostName":"contoso-eu.azure-devices.net"}`},
		{"nothing", dps.AllocationResponse{}, `{"iotHubHostName":""}`},
		{"empty objects are sent", dps.AllocationResponse{IotHubHostName: "h", InitialTwin: dps.ValueOf(map[string]any{}), Payload: dps.ValueOf(map[string]any{})},
			`{"iotHubHostName":"h","initialTwin":{},"payload":{}}`},
		{"payload alone", dps.AllocationResponse{IotHubHostName: "h", Payload: dps.ValueOf(map[string]any{"a": nil})},
			`{"iotHubHostName":"h","payload":{"a":null}}`},
		{"everything, in order of names", dps.AllocationResponse{
			IotHubHostName: "h",
			InitialTwin: dps.ValueOf(map[string]any{
				"tags":       map[string]any{"b": true, "a": false, "A": json.Number("1.50")},
				"properties": map[string]any{"desired": map[string]any{"list": []any{json.Number("-0"), "x", nil, []any{}, map[string]any{}}}},
			}),
			Payload: dps.ValueOf(map[string]any{"z": json.Number("1e3"), "é": "€😀", "y": json.Number("9007199254740993")}),
		}, `{"iotHubHostName":"h",` +
			`"initialTwin":{"properties":{"desired":{"list":[-0,"x",null,[],{}]}},"tags":{"A":1.50,"a":false,"b":true}},` +
			`"payload":{"y":9007199254740993,"z":1e3,"é":"€😀"}}`},
		{"escapes", dps.AllocationResponse{IotHubHostName: "a\"b\\c\n\t\x00\x1f/<>&\u2028", Payload: dps.ValueOf(map[string]any{"\"k\"": "\u007f"})},
			`{"iotHubHostName":"a\"b\\c\n\t\u0000\u001f/<>&` + "\u2028" + `","payload":{"\"k\"":"` + "\u007f" + `"}}`},
		{"invalid UTF-8", dps.AllocationResponse{IotHubHostName: "a\xffb"}, `{"iotHubHostName":"a` + "\ufffd" + `b"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for range 20 { // a map's order must not matter
				if got := string(test.response.AppendJSON(nil)); got != test.want {
					t.Fatalf("got  %s\nwant %s", got, test.want)
				}
			}
			if !json.Valid([]byte(test.want)) {
				t.Errorf("not JSON: %s", test.want)
			}
		})
	}
}

func TestAppendJSONAppends(t *testing.T) {
	t.Parallel()
	response := dps.AllocationResponse{IotHubHostName: "h"}
	buffer := make([]byte, 3, 256)
	copy(buffer, "abc")
	got := response.AppendJSON(buffer)
	if string(got) != `abc{"iotHubHostName":"h"}` {
		t.Errorf("got %s", got)
	}
	if &got[0] != &buffer[0] {
		t.Error("a new buffer is allocated though the old one has room")
	}
}

// More members than fit the array that keeps small objects off the heap.
func TestAppendValueOfLargeObjects(t *testing.T) {
	t.Parallel()
	object := map[string]any{}
	var want strings.Builder
	for i := range 100 {
		name := fmt.Sprintf("member-%03d", i)
		object[name] = json.Number(fmt.Sprint(i))
		fmt.Fprintf(&want, `,"%s":%d`, name, i)
	}
	if got := string(dps.AppendValue(nil, object)); got != "{"+want.String()[1:]+"}" {
		t.Errorf("got %s", got)
	}
}

func TestAppendValueReadsBack(t *testing.T) {
	t.Parallel()
	for name, body := range exampleRequests(t) {
		document := parse(t, string(body)).Document()
		text := dps.AppendValue(nil, document)
		if diff := cmp.Diff(document, parse(t, string(text)).Document()); diff != "" {
			t.Errorf("%s: -before +after:\n%s", name, diff)
		}
	}
}

// A type that JSON decoding does not make is a mistake of the caller's, which must not become a wrong answer to DPS.
func TestAppendValueRefusesOtherTypes(t *testing.T) {
	t.Parallel()
	for _, value := range []any{1, 1.5, []string{"a"}, map[string]string{}, struct{}{}, []byte("x")} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a %T is accepted", value)
				}
			}()
			dps.AppendValue(nil, map[string]any{"a": []any{value}})
		}()
	}
}
