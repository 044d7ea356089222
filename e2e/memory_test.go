package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// bombs are rules that make much of little, by the enrollment group that they serve.
var bombs = map[string]string{
	"joins": `t0 := concat("", ["0123456789" | some i in numbers.range(1, 1000)])
t1 := concat("", [t0, t0, t0, t0, t0, t0, t0, t0, t0, t0])
t2 := concat("", [t1, t1, t1, t1, t1, t1, t1, t1, t1, t1])
t3 := concat("", [t2, t2, t2, t2, t2, t2, t2, t2, t2, t2])
t4 := concat("", [t3, t3, t3, t3, t3, t3, t3, t3, t3, t3])
hub := "contoso-eu" if count(t4) > 1`,
	"range": `hub := "contoso-eu" if count(numbers.range(1, 1000000000)) > 1`,
	"replace": `t0 := concat("", ["x" | some i in numbers.range(1, 30000)])
hub := "contoso-eu" if count(replace(replace(t0, "x", t0), "x", t0)) > 1`,
	"json": `a0 := ["x", "x", "x", "x", "x", "x", "x", "x", "x", "x"]
a1 := [a0, a0, a0, a0, a0, a0, a0, a0, a0, a0]
a2 := [a1, a1, a1, a1, a1, a1, a1, a1, a1, a1]
a3 := [a2, a2, a2, a2, a2, a2, a2, a2, a2, a2]
a4 := [a3, a3, a3, a3, a3, a3, a3, a3, a3, a3]
a5 := [a4, a4, a4, a4, a4, a4, a4, a4, a4, a4]
a6 := [a5, a5, a5, a5, a5, a5, a5, a5, a5, a5]
a7 := [a6, a6, a6, a6, a6, a6, a6, a6, a6, a6]
hub := "contoso-eu" if json.marshal(a7) != ""`,
	"twin": `hub := "contoso-eu"
initial_twin := {"tags": {"a": [[i, j] | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000)]}}`,
}

// failing is a definition in which a built-in function fails for all devices here, so that topdown decides.
const failing = "reject contains \"a negative device\" if to_number(input.deviceRuntimeContext.registrationId) < 0\n"

// Rules that make much of little end with the line that did, the handler stays small, and others are answered, whatever
// evaluates the rules.
func TestMemoryOfRules(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ evaluator, before string }{
		"plan":                   {"plan", ""},
		"topdown":                {"topdown", ""},
		"topdown after the plan": {"plan", failing},
	} {
		t.Run(name, func(t *testing.T) { memoryOfRules(t, test.evaluator, test.before) })
	}
}

func memoryOfRules(t *testing.T, evaluator, before string) {
	rules := t.TempDir()
	for group, text := range bombs {
		writeRule(t, rules, group, before+text)
	}
	writeRule(t, rules, "fine", `hub := input.linkedHubs[0]`)
	r := launch(t, map[string]string{"USHER_RULES": rules, "USHER_RECORD_SINKS": "none", "USHER_EVALUATOR": evaluator, "USHER_DECISION_TIMEOUT": "4s"})
	ask := func(group, id string) (int, string) {
		body := fmt.Sprintf(`{"enrollmentGroup": {"enrollmentGroupId": %q}, "deviceRuntimeContext": {"registrationId": %q}, "linkedHubs": ["contoso-eu.azure-devices.net"]}`, group, id)
		response, err := http.Post(r.url+"/api/allocate", "application/json", bytes.NewReader([]byte(body)))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(text)
	}
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for group := range bombs {
				if status, text := ask(group, fmt.Sprintf("bomb-%d", client)); status != http.StatusServiceUnavailable || !strings.Contains(text, `"timeout"`) {
					t.Errorf("%s: %d %s", group, status, text)
				}
				if status, text := ask("fine", fmt.Sprintf("fine-%d", client)); status != http.StatusOK {
					t.Errorf("another device: %d %s", status, text)
				}
			}
		})
	}
	clients.Wait()
	if most := peak(t, r.command.Process.Pid); most > 300<<20 {
		t.Errorf("the handler took %d MiB", most>>20)
	} else {
		t.Logf("the handler took %d MiB", most>>20)
	}
	for group := range bombs {
		// On a busy machine the limit of time can come first, which has no line.
		if strings.Contains(r.output(), "exceeded its time limit") {
			break
		}
		if !strings.Contains(r.output(), fmt.Sprintf("rules/%s.rego:", group)) && !strings.Contains(r.output(), fmt.Sprintf("%s.rego:", group)) {
			t.Errorf("no line of %s in the log", group)
		}
	}
}

func writeRule(t *testing.T, folder, group, text string) {
	t.Helper()
	text = fmt.Sprintf("# METADATA\n# custom:\n#   enrollment_groups: [%s]\npackage allocation.%[1]s\n\n%s\n", group, text)
	if err := os.WriteFile(filepath.Join(folder, group+".rego"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// peak is the most memory that a process has had resident, in bytes.
func peak(t *testing.T, process int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process))
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kilobytes, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}
