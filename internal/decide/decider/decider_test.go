package decider_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func load(t testing.TB, files map[string]string) *decider.Rules {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	rules, err := decider.LoadRules(t.Context(), fsys, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func request(t testing.TB) *dps.AllocationRequest {
	t.Helper()
	body, err := os.ReadFile("../../../examples/requests/req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json")
	if err != nil {
		t.Fatal(err)
	}
	request, err := dps.ParseAllocationRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// edited is the same request with a change to its body.
func edited(t testing.TB, edit func(document map[string]any)) *dps.AllocationRequest {
	t.Helper()
	document := request(t).Document()
	edit(document)
	request, err := dps.ParseAllocationRequest(dps.AppendValue(nil, document))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func TestNotReadyUntilThereAreRules(t *testing.T) {
	t.Parallel()
	allocator, err := decider.New(decider.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a := allocator.Allocate(t.Context(), request(t)); a.Result != answer.NotReady {
		t.Errorf("without rules: %+v", a)
	}
	rules := load(t, map[string]string{"d.rego": "package allocation.default\n\nhub := input.linkedHubs[0]\n"})
	allocator.Use(rules)
	if a := allocator.Allocate(t.Context(), request(t)); a.Result != answer.Assigned {
		t.Errorf("with rules: %+v", a)
	}
	if allocator.Rules() != rules {
		t.Error("Rules returns others than those in use")
	}
}

// TestSwapUnderLoad: while rules change, every request is decided by one set of them, the old or the new.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	sets := make([]*decider.Rules, 2)
	for i := range sets {
		// Hub and payload are evaluated apart; of two sets they would differ.
		sets[i] = load(t, map[string]string{"d.rego": fmt.Sprintf(
			"package allocation.default\n\nhub := input.linkedHubs[%d]\n\npayload := {\"set\": %d}\n", i, i)})
	}
	allocator, err := decider.New(decider.Options{Rules: sets[0], Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	asked := request(t)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				decision := allocator.Allocate(t.Context(), asked)
				if decision.Result != answer.Assigned {
					t.Error(decision.Summary())
					return
				}
				want := fmt.Sprintf(`{"iotHubHostName":%q,"payload":{"set":`, decision.Response.IotHubHostName)
				set := 0
				if decision.Response.IotHubHostName == asked.LinkedHubs[1] {
					set = 1
				}
				if got := string(decision.Response.AppendJSON(nil)); got != want+fmt.Sprint(set)+"}}" {
					t.Errorf("two sets in one answer: %s", got)
					return
				}
			}
		})
	}
	for i := range 500 {
		allocator.Use(sets[i%2])
		if a := allocator.Allocate(t.Context(), asked); a.Result != answer.Assigned {
			t.Error(a.Summary())
		}
	}
	close(stop)
	group.Wait()
}

func TestTimeoutAndCancellation(t *testing.T) {
	t.Parallel()
	rules := load(t, map[string]string{"d.rego": `package allocation.default

hub := input.linkedHubs[0] if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a + b == 0
}
`})
	allocator, err := decider.New(decider.Options{Rules: rules, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if a := allocator.Allocate(t.Context(), request(t)); a.Result != answer.Timeout {
		t.Errorf("past the deadline: %+v", a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := allocator.Allocate(ctx, request(t)); a.Result != answer.Canceled {
		t.Errorf("canceled: %+v", a)
	}
}

func TestLazyRulesFaultApart(t *testing.T) {
	t.Parallel()
	fsys := fstest.MapFS{
		"good.rego": {Data: []byte("package allocation.default\n\nhub := input.linkedHubs[0]\n")},
		"bad.rego":  {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [contoso-*]\n#   on_undecided: reject\npackage allocation.bad\n\nhub := inptu.linkedHubs[0]\n")},
	}
	rules, err := decider.LoadRules(t.Context(), fsys, decider.RulesOptions{Name: "rules", Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	asked := request(t)
	a := allocator.Allocate(t.Context(), asked)
	if a.Result != answer.Undecided || !strings.Contains(a.CauseText(), "rules/bad.rego:7") || strings.Contains(a.Detail, "rules/") {
		t.Errorf("of the broken rule: %+v", a)
	}
	asked.Enrollment.ID = "another"
	if a := allocator.Allocate(t.Context(), asked); !a.Result.IsOutcome() || a.PackageName() != "allocation.default" {
		t.Errorf("of the good rule: %+v", a)
	}
	if err := rules.CompileAll(t.Context()); err == nil || !strings.Contains(err.Error(), "rules/bad.rego:7") {
		t.Errorf("CompileAll: %v", err)
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	rules := load(t, map[string]string{
		"d.rego": "package allocation.default\n\nhub := input.linkedHubs[0]\n",
		"a.rego": "# METADATA\n# title: A\n# custom:\n#   enrollment_groups: [a, \"b-*\"]\n#   individual_enrollments: [c]\npackage allocation.a\n\nhub := input.linkedHubs[0]\n",
	})
	type shown struct {
		answer.Rule
		Groups, Individuals []string
		Default             bool
	}
	want := []shown{
		{Rule: answer.Rule{Package: "allocation.a", Title: "A", Place: "rules/a.rego:1"}, Groups: []string{"a", "b-*"}, Individuals: []string{"c"}},
		{Rule: answer.Rule{Package: "allocation.default", Place: "rules/d.rego:1"}, Default: true},
	}
	var got []shown
	for _, rule := range rules.All() {
		got = append(got, shown{rule.Rule, rule.Groups, rule.Individuals, rule.IsDefault()})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if digest := rules.Digest(); !strings.HasPrefix(digest, "sha256:") || len(digest) != len("sha256:")+64 {
		t.Errorf("digest %q", digest)
	}
}

func TestReasonsOfEveryShape(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 1000)
	for rule, want := range map[string][]string{
		`reject contains "no"`:                           {"no"},
		`reject := "no"`:                                 {"no"},
		`reject := true`:                                 {"no reason given"},
		`reject contains {"reason": "no"}`:               {"no"},
		`reject contains {"other": "x"}`:                 {"no reason given"},
		`reject contains ""`:                             {"no reason given"},
		`reject contains 7`:                              {"no reason given"},
		`reject := ["b", "a"]`:                           {"b", "a"},
		`reject contains "` + long + `"`:                 {strings.Repeat("é", 256) + "…"},
		"reject contains \"b\"\n\nreject contains \"a\"": {"a", "b"},
	} {
		rules := load(t, map[string]string{"d.rego": "package allocation.default\n\n" + rule + "\n"})
		allocator, err := decider.New(decider.Options{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		decision := allocator.Allocate(t.Context(), request(t))
		if decision.Result != answer.Rejected {
			t.Errorf("%s: got %+v", rule, decision)
		}
		if diff := cmp.Diff(want, decision.Reasons); diff != "" {
			t.Errorf("%s: -want +got:\n%s", rule, diff)
		}
	}
}

// TestAnswersWhileABuiltinComputesOn: a built-in that cannot be interrupted does not keep the caller waiting, and only
// so many may compute on.
func TestAnswersWhileABuiltinComputesOn(t *testing.T) {
	t.Parallel()
	fsys := fstest.MapFS{"d.rego": {Data: []byte("package allocation.default\n\nhub := input.linkedHubs[0] if bits.lsh(1, 20000000) > 5\n")}}
	rules, err := decider.LoadRules(t.Context(), fsys, decider.RulesOptions{AllowBuiltins: []string{"bits.lsh"}})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 { // two more than may compute on: those are answered without a try
		start := time.Now()
		if a := allocator.Allocate(t.Context(), request(t)); a.Result != answer.Timeout {
			t.Fatalf("call %d: %+v", i, a)
		}
		// Alone it takes seconds; with the others, a multiple of that.
		if waited := time.Since(start); waited > 2*time.Second {
			t.Errorf("call %d: the caller waited %s", i, waited)
		}
	}
}
