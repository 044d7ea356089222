package dps_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/usher-dps/usher/dps"
)

// All members are found whatever their number, and a name that occurs twice is refused wherever it is.
func TestObjectsOfEverySize(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 23, 24, 25, 26, 100, 1000} {
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"m%d":%d`, i*7919%1000, i))
		}
		request := parse(t, `{"deviceRuntimeContext":{"payload":{`+strings.Join(members, ",")+`}}}`)
		payload := request.Body().Get("deviceRuntimeContext").Get("payload")
		if payload.Len() != n {
			t.Fatalf("%d members, want %d", payload.Len(), n)
		}
		for i := range n {
			name := fmt.Sprintf("m%d", i*7919%1000)
			if got := payload.Get(name); got.Name() != name || string(got.Number()) != fmt.Sprint(i) {
				t.Errorf("of %d members, %s is %s", n, name, got.AppendJSON(nil))
			}
		}
		if payload.Get("m1000") != nil || payload.Get("") != nil {
			t.Errorf("of %d members, one is found that is not there", n)
		}
		for _, twice := range []int{0, n / 2, n - 1} {
			if n == 0 {
				continue
			}
			_, err := dps.ParseAllocationRequest([]byte(`{"deviceRuntimeContext":{"payload":{` + strings.Join(append(slices.Clone(members), members[twice]), ",") + `}}}`))
			if err == nil || !strings.Contains(err.Error(), "a member name occurs twice in one object at /deviceRuntimeContext/payload/"+fmt.Sprintf("m%d", twice*7919%1000)) {
				t.Errorf("of %d members, that with the number %d twice: %v", n, twice, err)
			}
		}
	}
}

// DPS's own members can be twice in one object like others, also as a null or in another spelling.
func TestOwnMembersTwice(t *testing.T) {
	t.Parallel()
	for body, ok := range map[string]bool{
		`{"linkedHubs":null,"linkedHubs":[]}`:       false,
		`{"linkedHubs":[],"linked\u0048ubs":[]}`:    false,
		`{"LINKEDHUBS":null,"LINKEDHUBS":["h"]}`:    false,
		`{"linkedHubs":["h"],"LINKEDHUBS":["g"]}`:   true,
		`{"usher":{"service":"a","service":"a"}}`:   false,
		`{"usher":{"service":"a"},"other":{"a":1}}`: true,
	} {
		if _, err := dps.ParseAllocationRequest([]byte(body)); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A value that is not there has nothing, and is nothing.
func TestNoValue(t *testing.T) {
	t.Parallel()
	var none *dps.Value
	if none.Kind() != dps.Null || none.Text() != "" || none.Number() != "" || none.Len() != 0 || none.Name() != "" || none.Get("a") != nil || none.Interface() != nil || string(none.AppendJSON(nil)) != "null" {
		t.Error("nil is something")
	}
	text := dps.ValueOf("a")
	if text.Get("a") != nil || text.Len() != 0 || text.Number() != "" {
		t.Error("a text has members")
	}
}

func TestValueOfReadsBack(t *testing.T) {
	t.Parallel()
	value := map[string]any{"b": []any{nil, true, false, "t\n", json.Number("1.50"), map[string]any{}, []any{}}, "a": "x"}
	made := dps.ValueOf(value)
	if got := made.Interface(); !reflect.DeepEqual(got, value) {
		t.Errorf("got %v", got)
	}
	if got := string(made.AppendJSON(nil)); got != `{"a":"x","b":[null,true,false,"t\n",1.50,{},[]]}` {
		t.Errorf("got %s", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("an int is taken")
		}
	}()
	dps.ValueOf([]any{1})
}

func TestWith(t *testing.T) {
	t.Parallel()
	object := dps.ValueOf(map[string]any{"b": true, "d": nil})
	for name, want := range map[string]string{
		"a": `{"a":"x","b":true,"d":null}`, "b": `{"b":"x","d":null}`, "c": `{"b":true,"c":"x","d":null}`, "e": `{"b":true,"d":null,"e":"x"}`,
	} {
		if got := string(object.With(name, dps.StringValue("x")).AppendJSON(nil)); got != want {
			t.Errorf("with %s: %s, want %s", name, got, want)
		}
	}
	if got := string(object.AppendJSON(nil)); got != `{"b":true,"d":null}` {
		t.Errorf("the object itself is now %s", got)
	}
	for i := range 40 { // from some size on members are found by the order of their names
		object = object.With(fmt.Sprint("m", 39-i), dps.NumberValue(json.Number(fmt.Sprint(i))))
	}
	for i := range 40 {
		if got := object.Get(fmt.Sprint("m", 39-i)).Number(); got != json.Number(fmt.Sprint(i)) {
			t.Errorf("m%d is %s, want %d", 39-i, got, i)
		}
	}
}

func TestRegisteredOn(t *testing.T) {
	t.Parallel()
	before := parse(t, `{"linkedHubs":["g","h"],"deviceRuntimeContext":{"currentIotHubHostName":"g","registrationId":"d"}}`)
	after := before.RegisteredOn("h", "id")
	want := `{"linkedHubs":["g","h"],"deviceRuntimeContext":{"currentDeviceId":"id","currentIotHubHostName":"h","registrationId":"d"}}`
	if got := string(after.Body().AppendJSON(nil)); got != want || after.Device.CurrentIotHubHostName != "h" || after.Device.CurrentDeviceID != "id" {
		t.Errorf("got %s, %+v", got, after.Device)
	}
	if before.Device.CurrentIotHubHostName != "g" || before.Body().Get("deviceRuntimeContext").Get("currentDeviceId") != nil {
		t.Error("the request before is changed")
	}
	if got := new(dps.AllocationRequest).RegisteredOn("h", "id"); got.Body() != nil || got.Device.CurrentIotHubHostName != "h" {
		t.Errorf("without a body: %+v", got)
	}
}
