package enrollment_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/operate/enrollment"
)

const secret = "c2VjcmV0LWZ1bmN0aW9uLWtleQ=="

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	return document
}

func TestApply(t *testing.T) {
	t.Parallel()
	before := enrollment.Enrollment{Kind: enrollment.Group, Document: decode(t, `{
		"enrollmentGroupId": "line-a", "etag": "\"1\"", "allocationPolicy": "static", "iotHubHostName": "a.azure-devices.net",
		"iotHubs": ["a.azure-devices.net"], "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true},
		"initialTwin": {"tags": {"site": "north"}}, "somethingNew": [1, 2]}`)}
	untouched := decode(t, string(marshal(t, before.Document)))
	target := enrollment.Target{
		Webhook: enrollment.Webhook{URL: "https://f.example/api/allocate?code=" + secret, APIVersion: "2021-10-01"},
		Hubs:    []string{"b.azure-devices.net"}, Reprovision: enrollment.Never,
	}
	if err := target.Check(); err != nil {
		t.Fatal(err)
	}
	after := target.Apply(before)
	want := decode(t, `{
		"enrollmentGroupId": "line-a", "etag": "\"1\"", "allocationPolicy": "custom",
		"customAllocationDefinition": {"webhookUrl": "https://f.example/api/allocate?code=`+secret+`", "apiVersion": "2021-10-01"},
		"iotHubs": ["b.azure-devices.net"], "reprovisionPolicy": {"updateHubAssignment": false, "migrateDeviceData": false},
		"initialTwin": {"tags": {"site": "north"}}, "somethingNew": [1, 2]}`)
	if !reflect.DeepEqual(decode(t, string(marshal(t, after.Document))), want) {
		t.Errorf("got %s", marshal(t, after.Document))
	}
	if !reflect.DeepEqual(before.Document, untouched) {
		t.Error("Apply changed its argument")
	}
	if again := enrollment.Changes(after, target.Apply(after)); len(again) != 0 {
		t.Errorf("applying it again changes %+v", again)
	}
	changes := fmt.Sprintf("%+v", enrollment.Changes(before, after))
	for _, pointer := range []string{"/allocationPolicy", "/customAllocationDefinition", "/iotHubHostName", "/iotHubs", "/reprovisionPolicy"} {
		if !strings.Contains(changes, pointer) {
			t.Errorf("no change of %s in %s", pointer, changes)
		}
	}
	if strings.Contains(changes, secret) || strings.Contains(changes, "c2Vjc") {
		t.Errorf("the key is shown: %s", changes)
	}
}

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A new key is shown as a change, but neither key is shown.
func TestOnlyTheKeyChanges(t *testing.T) {
	t.Parallel()
	before := enrollment.Enrollment{Kind: enrollment.Group, Document: decode(t, `{"enrollmentGroupId": "a", "allocationPolicy": "custom",
		"customAllocationDefinition": {"webhookUrl": "https://f.example/api/allocate?x=1&code=old-key", "apiVersion": "2019-03-31"}}`)}
	after := enrollment.Target{Webhook: enrollment.Webhook{URL: "https://f.example/api/allocate?code=new-key"}}.ApplyKey(before)
	if got := after.Webhook(); got.URL != "https://f.example/api/allocate?code=new-key&x=1" || got.APIVersion != "2019-03-31" {
		t.Errorf("the webhook is %+v", got)
	}
	changes := enrollment.Changes(before, after)
	if len(changes) != 1 || changes[0].Key != enrollment.KeyChanged || strings.Contains(changes[0].Old+changes[0].New, "-key") {
		t.Errorf("changes %+v", changes)
	}
}

// What happens to the key is named: it is another one only if there was one.
func TestTargetCheck(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"": "not a URL", "usher": "not a URL", "http://f.example/api/allocate": "not https",
		"https://me:pw@f.example/api/allocate": "user or a password", "://": "not a URL", "https://:443/api": "not a URL",
	} {
		err := enrollment.Target{Webhook: enrollment.Webhook{URL: url}}.Check()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", url, err, want)
		}
	}
	good := enrollment.Webhook{URL: "http://localhost:7071/api/allocate"}
	if err := (enrollment.Target{Webhook: good}).Check(); err != nil {
		t.Errorf("a webhook on this machine: %v", err)
	}
	if err := (enrollment.Target{Webhook: good, Hubs: []string{"contoso-eu"}}).Check(); err == nil || !strings.Contains(err.Error(), "contoso-eu.azure-devices.net") {
		t.Errorf("a hub without its domain: %v", err)
	}
	if err := (enrollment.Target{Webhook: good, Reprovision: "sometimes"}).Check(); err == nil || !strings.Contains(err.Error(), "migrate, reset or never") {
		t.Errorf("an unknown policy: %v", err)
	}
}

func TestSameAddress(t *testing.T) {
	t.Parallel()
	one := enrollment.Webhook{URL: "https://F.example/api/allocate?code=a"}
	for url, want := range map[string]bool{
		"https://f.example/API/Allocate/?code=b": true, "https://f.example/api/allocate": true,
		"https://g.example/api/allocate": false, "https://f.example/api": false, "": false,
	} {
		if got := one.SameAddress(enrollment.Webhook{URL: url}); got != want {
			t.Errorf("%q: %v", url, got)
		}
	}
}

// A webhook that does not admit this machine is not reported as one that refuses the key.
func TestTryKey(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		http.StatusBadRequest: "", http.StatusUnauthorized: "does not accept the key", http.StatusForbidden: "allowedAddresses",
		http.StatusOK: "is the URL right?",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(server.Close)
		err := enrollment.TryKey(t.Context(), server.Client(), enrollment.Webhook{URL: server.URL + "/api/allocate?code=" + secret})
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "c2Vjc")) {
			t.Errorf("%d: %v, want %q", status, err, want)
		}
	}
}

// What happens to a key is told without the key.
func TestKeyChanges(t *testing.T) {
	t.Parallel()
	calling := func(webhook string) enrollment.Enrollment {
		document := map[string]any{"enrollmentGroupId": "g"}
		if webhook != "" {
			document["customAllocationDefinition"] = map[string]any{"webhookUrl": webhook}
		}
		return enrollment.Enrollment{Kind: enrollment.Group, Document: document}
	}
	const plain, one, two = "https://f.example/api/allocate", "https://f.example/api/allocate?code=one", "https://f.example/api/allocate?code=two"
	for _, test := range []struct {
		before, after string
		want          enrollment.KeyChange
	}{
		{"", one, enrollment.KeyAdded}, {plain, one, enrollment.KeyAdded}, {one, two, enrollment.KeyChanged},
		{one, plain, enrollment.KeyRemoved}, {one, "", enrollment.KeyRemoved}, {"", plain, ""},
	} {
		changes := enrollment.Changes(calling(test.before), calling(test.after))
		if len(changes) != 1 || changes[0].Key != test.want {
			t.Errorf("from %q to %q: %+v, want %q", test.before, test.after, changes, test.want)
		}
	}
}
