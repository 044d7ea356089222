package allocation_test

import (
	"os"
	"testing"

	"github.com/usher-dps/usher/allocation"
)

// BenchmarkAllocate is the whole decision, bytes in and bytes out, on the
// request that DPS sent for the appliance of Microsoft's tutorial.
func BenchmarkAllocate(b *testing.B) {
	rules, err := allocation.LoadRules(b.Context(), os.DirFS("../rules"), allocation.RulesOptions{Name: "rules"})
	if err != nil {
		b.Fatal(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		b.Fatal(err)
	}
	body, err := os.ReadFile("../examples/requests/req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json")
	if err != nil {
		b.Fatal(err)
	}
	var answer []byte
	b.ReportAllocs()
	for b.Loop() {
		_, decision, err := allocator.AllocateJSON(b.Context(), body)
		if err != nil {
			b.Fatal(err)
		}
		answer = decision.Response.AppendJSON(answer[:0])
	}
}
