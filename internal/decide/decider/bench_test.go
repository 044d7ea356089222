package decider_test

import (
	"os"
	"testing"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// BenchmarkAllocate is the whole decision, bytes in and bytes out, on the request that DPS sent for the appliance of
// Microsoft's tutorial.
func BenchmarkAllocate(b *testing.B) {
	rules, err := decider.LoadRules(b.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules"})
	if err != nil {
		b.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		b.Fatal(err)
	}
	body, err := os.ReadFile("../../../examples/requests/req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json")
	if err != nil {
		b.Fatal(err)
	}
	var response []byte
	b.ReportAllocs()
	for b.Loop() {
		_, a := allocator.AllocateJSON(b.Context(), body)
		if a.Result != answer.Assigned {
			b.Fatal(a.Summary())
		}
		response = a.Response.AppendJSON(response[:0])
	}
}
