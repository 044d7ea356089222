package dps_test

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/schemas"
)

// DPS's documents spell currentIotHubHostName in three ways.
func TestParseSpellings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body, want string
	}{
		{"as DPS sends it", `{"deviceRuntimeContext":{"currentIotHubHostName":"h"}}`, `{"deviceRuntimeContext":{"currentIotHubHostName":"h"}}`},
		{"IoTHubHostName", `{"deviceRuntimeContext":{"currentIoTHubHostName":"h"}}`, `{"deviceRuntimeContext":{"currentIotHubHostName":"h"}}`},
		{"IoTHubHostname", `{"deviceRuntimeContext":{"currentIoTHubHostname":"h"}}`, `{"deviceRuntimeContext":{"currentIotHubHostName":"h"}}`},
		{"all three: the exact one counts, the others stay",
			`{"deviceRuntimeContext":{"currentIoTHubHostname":"a","currentIoTHubHostName":"b","currentIotHubHostName":"c"}}`,
			`{"deviceRuntimeContext":{"currentIoTHubHostname":"a","currentIoTHubHostName":"b","currentIotHubHostName":"c"}}`},
		{"all three in another order",
			`{"deviceRuntimeContext":{"currentIotHubHostName":"c","currentIoTHubHostName":"b","currentIoTHubHostname":"a"}}`,
			`{"deviceRuntimeContext":{"currentIoTHubHostname":"a","currentIoTHubHostName":"b","currentIotHubHostName":"c"}}`},
		{"two without the exact one: the first in the alphabet",
			`{"deviceRuntimeContext":{"currentIoTHubHostname":"a","currentIoTHubHostName":"b"}}`,
			`{"deviceRuntimeContext":{"currentIotHubHostName":"b","currentIoTHubHostname":"a"}}`},
		{"a null of the exact one is no obstacle",
			`{"deviceRuntimeContext":{"currentIotHubHostName":null,"currentIoTHubHostName":"b"}}`,
			`{"deviceRuntimeContext":{"currentIotHubHostName":"b"}}`},
		{"null in another spelling", `{"deviceRuntimeContext":{"currentIoTHubHostName":null,"CURRENTDEVICEID":null}}`, `{"deviceRuntimeContext":{}}`},
		{"PascalCase", `{"EnrollmentGroup":{"EnrollmentGroupId":"g"},"DeviceRuntimeContext":{"RegistrationId":"d"},"LinkedHubs":["h"]}`,
			`{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`},
		{"twin", `{"enrollmentGroup":{"initialTwin":{"Tags":{"Tags":1},"Properties":{"Desired":{"Desired":null}}}}}`,
			`{"enrollmentGroup":{"initialTwin":{"tags":{"Tags":1},"properties":{"desired":{"Desired":null}}}}}`},
		{"unknown members", `{"RegistrationId":"d","registrationID":null,"enrollmentgroupid":1,"deviceRuntimeContext":{"linkedHubs":null,"csr":null,"Payload2":{}}}`,
			`{"RegistrationId":"d","registrationID":null,"enrollmentgroupid":1,"deviceRuntimeContext":{"linkedHubs":null,"csr":null,"Payload2":{}}}`},
		{"payload is the device's", `{"deviceRuntimeContext":{"payload":{"RegistrationId":null,"currentIoTHubHostName":"x","n":null,"a":[null]}}}`,
			`{"deviceRuntimeContext":{"payload":{"RegistrationId":null,"currentIoTHubHostName":"x","n":null,"a":[null]}}}`},
		{"payload as the text of an object", `{"deviceRuntimeContext":{"payload":" {\"RegistrationId\":null,\"a\":[1e2,\"{}\"]}"}}`,
			`{"deviceRuntimeContext":{"payload":{"RegistrationId":null,"a":[1e2,"{}"]}}}`},
		{"payload as another text", `{"deviceRuntimeContext":{"payload":"{model: P7}"}}`, `{"deviceRuntimeContext":{"payload":"{model: P7}"}}`},
		{"payload as the text of an array", `{"deviceRuntimeContext":{"payload":"[{}]"}}`, `{"deviceRuntimeContext":{"payload":"[{}]"}}`},
		{"payload as the text of an object that a body may not contain", `{"deviceRuntimeContext":{"payload":"{\"a\":1,\"a\":2}"}}`,
			`{"deviceRuntimeContext":{"payload":"{\"a\":1,\"a\":2}"}}`},
		{"payload as the text of two objects", `{"deviceRuntimeContext":{"payload":"{}{}"}}`, `{"deviceRuntimeContext":{"payload":"{}{}"}}`},
		{"payload as a number", `{"deviceRuntimeContext":{"payload":7}}`, `{"deviceRuntimeContext":{"payload":7}}`},
		{"tags are the operator's", `{"individualEnrollment":{"initialTwin":{"tags":{"Type":null,"iotHubs":null},"properties":{"desired":{"x":null}}}}}`,
			`{"individualEnrollment":{"initialTwin":{"tags":{"Type":null,"iotHubs":null},"properties":{"desired":{"x":null}}}}}`},
		{"nulls in DPS's arrays are values", `{"linkedHubs":[null],"enrollmentGroup":{"iotHubs":[null]}}`, `{"linkedHubs":[null],"enrollmentGroup":{"iotHubs":[null]}}`},
		{"one letter that folds to ASCII is no variant", `{"lin` + "\u212a" + `edHubs":null}`, `{"lin` + "\u212a" + `edHubs":null}`},
		{"escaped names are names", `{"\u006cinkedHubs":["h"],"deviceRuntimeConte\u0078t":null}`, `{"linkedHubs":["h"]}`},
		{"an array in place of an object", `{"enrollmentGroup":[{"Etag":null}]}`, `{"enrollmentGroup":[{"Etag":null}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for range 20 { // a map's order must not matter
				if diff := cmp.Diff(decode(t, []byte(test.want)), parse(t, test.body).Document()); diff != "" {
					t.Fatalf("%s: -want +got:\n%s", test.body, diff)
				}
			}
		})
	}
}

// Typed fields and document agree on which spelling counts.
func TestParseTypedFieldsInAnySpelling(t *testing.T) {
	t.Parallel()
	request := parse(t, `{"INDIVIDUALENROLLMENT":{"REGISTRATIONID":"i"},"LINKEDHUBS":["h"],
		"DEVICERUNTIMECONTEXT":{"REGISTRATIONID":"d","currentIoTHubHostname":"h","CurrentDeviceId":"c"}}`)
	want := &dps.AllocationRequest{
		Enrollment: dps.Enrollment{Kind: dps.IndividualEnrollment, ID: "i", Reprovision: dps.ReprovisionMigrate},
		Device:     dps.DeviceRuntimeContext{RegistrationID: "d", CurrentIotHubHostName: "h", CurrentDeviceID: "c"},
		LinkedHubs: []string{"h"},
	}
	if diff := cmp.Diff(want, request, cmpopts.IgnoreUnexported(*want)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// schemaProperties lists the paths of all properties that the schema of the AllocationRequest names, such as
// "linkedHubs" and "enrollmentGroup/etag".
func schemaProperties(t *testing.T) [][]string {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(schemas.AllocationRequest(), &root); err != nil {
		t.Fatal(err)
	}
	definitions := root["$defs"].(map[string]any)
	var paths [][]string
	var walk func(schema map[string]any, path []string)
	walk = func(schema map[string]any, path []string) {
		if reference, ok := schema["$ref"].(string); ok {
			name, local := strings.CutPrefix(reference, "#/$defs/")
			definition, found := definitions[name].(map[string]any)
			if !local || !found {
				t.Fatalf("%v: no definition for %s", path, reference)
			}
			walk(definition, path)
		}
		properties, _ := schema["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			below := append(slices.Clone(path), name)
			paths = append(paths, below)
			walk(properties[name].(map[string]any), below)
		}
	}
	walk(root, nil)
	return paths
}

// within wraps a value in objects, one for each name of the path.
func within(path []string, value any) map[string]any {
	for _, name := range slices.Backward(path) {
		value = map[string]any{name: value}
	}
	return value.(map[string]any)
}

// Each property that the schema names is one that the parser knows: else a null of DPS's, which is an absence, would be
// refused by the schema, or another spelling be passed over.
func TestParserKnowsEachPropertyOfTheSchema(t *testing.T) {
	t.Parallel()
	paths := schemaProperties(t)
	if len(paths) < 100 {
		t.Fatalf("only %d properties found in the schema", len(paths))
	}
	for _, path := range paths {
		t.Run(strings.Join(path, "/"), func(t *testing.T) {
			t.Parallel()
			upper := make([]string, len(path))
			for i, name := range path {
				upper[i] = strings.ToUpper(name)
			}
			last := len(path) - 1
			for _, test := range []struct {
				name       string
				body, want map[string]any
			}{
				{"in upper case", within(upper, "v"), within(path, "v")},
				{"null", within(path, nil), within(path[:last], map[string]any{})},
				{"null in upper case", within(upper, nil), within(path[:last], map[string]any{})},
			} {
				body := dps.AppendValue(nil, test.body)
				if diff := cmp.Diff(test.want, parse(t, string(body)).Document()); diff != "" {
					t.Errorf("%s: %s: -want +got:\n%s", test.name, body, diff)
				}
			}
		})
	}
}

// The other way round: what the parser takes for DPS's own, the schema names, so that rules can refer to it. A
// misspelling of a name that stays as it is shows that the parser does not take the name for DPS's own.
func TestSchemaNamesWhatIsFolded(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, path := range schemaProperties(t) {
		known[strings.Join(path, "/")] = true
	}
	names := map[string]bool{}
	for path := range known {
		names[path[strings.LastIndex(path, "/")+1:]] = true
	}
	// Every name of DPS's at every place where DPS has an object.
	objects := map[string]bool{"": true}
	for path := range known {
		if i := strings.LastIndex(path, "/"); i >= 0 {
			objects[path[:i]] = true
		}
	}
	// The schemas of the two records differ in these; the parser may know them in both.
	lenient := map[string]bool{
		"enrollmentGroup/optionalDeviceInformation": true,
		"enrollmentGroup/registrationState":         true,
	}
	for object := range objects {
		var path []string
		if object != "" {
			path = strings.Split(object, "/")
		}
		for name := range names {
			place := strings.TrimPrefix(object+"/"+name, "/")
			if known[place] || lenient[place] {
				continue
			}
			body := within(append(slices.Clone(path), strings.ToUpper(name)), "v")
			text := dps.AppendValue(nil, body)
			request, err := dps.ParseAllocationRequest(text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(body, request.Document()); diff != "" {
				t.Errorf("%s is not in the schema, but the parser knows it: -want +got:\n%s", place, diff)
			}
		}
	}
}

func TestDuplicatesAreRefusedBeforeSpellingsAreSettled(t *testing.T) {
	t.Parallel()
	_, err := dps.ParseAllocationRequest([]byte(`{"LinkedHubs":[],"LinkedHubs":[]}`))
	if malformed, ok := errors.AsType[*dps.MalformedError](err); !ok || malformed.Pointer != "/LinkedHubs" {
		t.Errorf("error %v, want one at /LinkedHubs", err)
	}
}
