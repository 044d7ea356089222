package handler_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
)

// The webhook's URL names the DPS instance; rules and the log line see the name.
func TestService(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile("../rules/lib/dps.rego")
	if err != nil {
		t.Fatal(err)
	}
	rules := fstest.MapFS{
		"lib/dps.rego": {Data: library},
		"default.rego": {Data: []byte(`package allocation.default

import data.dps

hub := input.linkedHubs[0]

payload := {"from": dps.service}
`)},
	}
	const key = "key-0123456789abcdef"
	longest := strings.Repeat("a", 64)
	withBody := func(usher string) string {
		return `{` + usher + `"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h.azure-devices.net"]}`
	}
	for _, test := range []struct {
		query, usher string
		status       int
		from         string // "" if rules do not see a name
	}{
		{"code=" + key, "", 200, ""},
		{"code=" + key + "&dps=contoso-eu", "", 200, "contoso-eu"},
		{"dps=Contoso_EU.1&code=" + key, "", 200, "Contoso_EU.1"},
		{"dps=" + longest + "&code=" + key, "", 200, longest},
		{"code=" + key + "&dps=", "", 200, ""},
		{"code=" + key + "&xdps=eu", "", 200, ""},
		{"code=" + key, `"usher":{"service":"body"},`, 200, "body"},
		{"code=" + key, `"Usher":{"SERVICE":"body"},`, 200, "body"},
		{"code=" + key + "&dps=url", `"usher":{"service":"body"},`, 200, "url"}, // the URL is the operator's
		{"code=" + key + "&dps=url", `"usher":7,`, 200, "url"},
		{"code=" + key + "&dps=" + longest + "a", "", 400, ""},
		{"code=" + key + "&dps=" + url.QueryEscape("a b"), "", 400, ""},
		{"code=" + key + "&dps=" + url.QueryEscape("ä"), "", 400, ""},
		{"code=" + key + "&dps=" + strings.Repeat("a", 10_000), "", 400, ""},
		{"code=" + key, `"usher":{"service":""},`, 400, ""},
		{"code=" + key, `"usher":7,`, 400, ""},
		{"dps=contoso-eu", "", 401, ""},
	} {
		var log bytes.Buffer
		address := serve(t, rules, 10*time.Second, &log, handler.Options{Keys: []string{key}})
		status, _, body := post(t, address+"?"+test.query, []byte(withBody(test.usher)))
		var answer struct{ Payload struct{ From string } }
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
		if status != test.status || answer.Payload.From != test.from {
			t.Errorf("%.80s: %d %s", test.query, status, body)
		}
		if logged := strings.Contains(log.String(), `"service":`); logged != (test.from != "") ||
			logged && !strings.Contains(log.String(), fmt.Sprintf("%q:%q", "service", test.from)) {
			t.Errorf("%.80s: the log is %s", test.query, &log)
		}
		if strings.Contains(log.String(), key) || log.Len() > 4096 {
			t.Errorf("%.80s: the log is %.4096s", test.query, &log)
		}
	}
	// A body that cannot be read has a name as well.
	var log bytes.Buffer
	if status, _, _ := post(t, serve(t, rules, 10*time.Second, &log, handler.Options{})+"?dps=contoso-eu", []byte("{")); status != 400 ||
		!strings.Contains(log.String(), `"service":"contoso-eu"`) {
		t.Errorf("malformed: %d %s", status, &log)
	}
}

func TestSetService(t *testing.T) {
	t.Parallel()
	request, err := dps.ParseAllocationRequest([]byte(`{"usher":{"service":"a"},"linkedHubs":["h"]}`))
	if err != nil || request.Service != "a" {
		t.Fatal(request, err)
	}
	request.SetService("b")
	if got := fmt.Sprint(request.Document()["usher"]); request.Service != "b" || got != "map[service:b]" {
		t.Errorf("%s, %s", request.Service, got)
	}
}
