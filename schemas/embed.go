// Package schemas holds the JSON Schemas (draft 2020-12) of what DPS sends to a custom-allocation webhook, of what the
// webhook answers and of what it keeps on record. The files are the contract; this package only carries them in the
// binary. Checking a document against them is the work of internal/decide/schema.
package schemas

import _ "embed"

// The files are kept as strings, which nobody can change.
var (
	//go:embed allocation-request.schema.json
	allocationRequest string
	//go:embed allocation-response.schema.json
	allocationResponse string
	//go:embed decision-record.schema.json
	decisionRecord string
)

// AllocationRequest returns the JSON Schema of the body that DPS posts, as the bytes of
// schemas/allocation-request.schema.json. The slice is the caller's own.
//
// OPA's compiler can check rules against the same schema: it reads properties, type, items and local references, and
// takes an object without listed properties for an open one.
func AllocationRequest() []byte { return []byte(allocationRequest) }

// AllocationResponse returns the JSON Schema of the body that the webhook answers with status 200, as the bytes of
// schemas/allocation-response.schema.json. The slice is the caller's own.
func AllocationResponse() []byte { return []byte(allocationResponse) }

// DecisionRecord returns the JSON Schema of a decision record, as the bytes of schemas/decision-record.schema.json. The
// slice is the caller's own.
func DecisionRecord() []byte { return []byte(decisionRecord) }
