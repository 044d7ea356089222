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

// BenchmarkLookup is a decision by a rule that declares no look-up, one that it does not ask, and one that it asks, whose
// source is in memory: the difference is what look-ups cost the decider.
func BenchmarkLookup(b *testing.B) {
	const declared = "device: {row: {type: object, properties: {open: {type: boolean}, tenant: {type: string}}}}"
	const hub = "package allocation[\"default\"]\n\nhub := input.linkedHubs[0]"
	for _, c := range []struct{ name, lookups, rule string }{
		{"not declared", "", hub},
		{"not asked", declared, hub},
		{"asked", declared, hub + " if lookup.device(input.deviceRuntimeContext.registrationId).open"},
	} {
		b.Run(c.name, func(b *testing.B) {
			rules := load(b, map[string]string{"lookups.yaml": c.lookups, "default.rego": c.rule + "\n"})
			d, err := decider.New(decider.Options{Rules: rules, Lookups: oneRow{row: map[string]any{"open": true, "tenant": "contoso"}}})
			if err != nil {
				b.Fatal(err)
			}
			r := request(b)
			b.ReportAllocs()
			for b.Loop() {
				if a := d.Allocate(b.Context(), r); a.Result != answer.Assigned {
					b.Fatal(a.Summary())
				}
			}
		})
	}
}
