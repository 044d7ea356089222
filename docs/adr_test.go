package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// pureRegoChoice is a weighted rendezvous choice in Rego alone: each hub scores -weight/ln(u), with u in (0, 1) from a
// hash of the device and the hub.
const pureRegoChoice = `package allocation.default

hub := name if {
	best := max({score | some score in scores})
	some name
	scores[name] == best
}

scores[name] := score if {
	some name in input.linkedHubs
	hash := crypto.sha256(concat("/", [input.deviceRuntimeContext.registrationId, name]))
	high := (digits[substring(hash, 0, 1)] * 16) + digits[substring(hash, 1, 1)]
	low := (digits[substring(hash, 2, 1)] * 16) + digits[substring(hash, 3, 1)]
	score := 1 / (0 - ln((((high * 256) + low) + 0.5) / 65536))
}

# ln(x) = 2 (z + z^3/3 + z^5/5 + ...), z = (x-1)/(x+1)
ln(x) := (2 * z) * (1 + (q * (third + (q * (0.2 + (q * (seventh + (q * ninth)))))))) if {
	z := (x - 1) / (x + 1)
	q := z * z
}

third := 1 / 3

seventh := 1 / 7

ninth := 1 / 9

digits := {
	"0": 0, "1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6, "7": 7,
	"8": 8, "9": 9, "a": 10, "b": 11, "c": 12, "d": 13, "e": 14, "f": 15,
}
`

// The figures of ADR 5: the same decision by the library, which has Go built-ins below it, and without them.
func BenchmarkADR0005(b *testing.B) {
	const hubs = 10
	var linked []string
	for i := range hubs {
		linked = append(linked, fmt.Sprintf(`"hub-%d.azure-devices.net"`, i))
	}
	choice := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "device-0042"},
		"linkedHubs": [` + strings.Join(linked, ", ") + `]}`
	certificate, err := os.ReadFile(filepath.Join(root, "examples", "requests", "constructed-11-group-x509-signing-initial.json"))
	if err != nil {
		b.Fatal(err)
	}
	serve := "package allocation.default\n\nhub := input.linkedHubs[0] if "
	for _, c := range []struct{ name, rule, request string }{
		{"floor/hubs", "package allocation.default\n\nhub := input.linkedHubs[0]\n", choice},
		{"choice/builtin", "package allocation.default\n\nimport data.dps\n\nhub := dps.spread(input.linkedHubs)\n", choice},
		{"choice/rego", pureRegoChoice, choice},
		{"floor/certificate", "package allocation.default\n\nhub := input.linkedHubs[0]\n", string(certificate)},
		{"certificate/builtin", serve + `data.dps.certificate.subject.organization[0] == "Contoso"`,
			string(certificate)},
		{"certificate/opa", serve + `crypto.x509.parse_certificates(input.deviceRuntimeContext.x509.clientCertificate)[0].Subject.Organization[0] == "Contoso"`,
			string(certificate)},
	} {
		b.Run(c.name, func(b *testing.B) {
			library, err := os.ReadFile(filepath.Join(root, "rules", "lib", "dps.rego"))
			if err != nil {
				b.Fatal(err)
			}
			rules, err := decider.LoadRules(b.Context(), fstest.MapFS{
				"rule.rego": {Data: []byte(c.rule)},
				"dps.rego":  {Data: library},
			}, decider.RulesOptions{})
			if err != nil {
				b.Fatal(err)
			}
			allocator, err := decider.New(decider.Options{Rules: rules})
			if err != nil {
				b.Fatal(err)
			}
			body := []byte(c.request)
			b.ReportAllocs()
			for b.Loop() {
				if _, a := allocator.AllocateJSON(b.Context(), body); a.Result != answer.Assigned {
					b.Fatal(a.Summary())
				}
			}
		})
	}
}
