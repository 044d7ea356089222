package schema_test

import (
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/schemas"
)

// The sample is about 2 KB: a group with its CA certificate, and the device's certificate.
const benchmarkSample = "constructed-11-group-x509-signing-initial.json"

func BenchmarkValidateAccept(b *testing.B) {
	s := compileRequest(b)
	doc := readJSON(b, benchmarkSample)
	b.ReportAllocs()
	for b.Loop() {
		if violations := s.Validate(doc); violations != nil {
			b.Fatal(violations)
		}
	}
}

// BenchmarkLibrary has a JSON Schema library check the same document, for comparison with BenchmarkValidateAccept.
func BenchmarkLibrary(b *testing.B) {
	s, err := jsonschema.CompileString("schema:///request", string(schemas.AllocationRequest()))
	if err != nil {
		b.Fatal(err)
	}
	doc := readJSON(b, benchmarkSample)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Validate(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidateRefuse(b *testing.B) {
	s := compileRequest(b)
	doc := readJSON(b, benchmarkSample).(map[string]any)
	doc["linkedHubs"] = "one.azure-devices.net"
	b.ReportAllocs()
	for b.Loop() {
		if violations := s.Validate(doc); len(violations) != 1 {
			b.Fatal(violations)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	source := schemas.AllocationRequest()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schema.Compile("request", source); err != nil {
			b.Fatal(err)
		}
	}
}
