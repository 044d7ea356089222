package answer

import (
	"bytes"

	"github.com/usher-dps/usher/dps"
)

// Difference is a way in which two answers to one request differ for the device or for DPS.
type Difference string

// The differences.
const (
	InOutcome Difference = "outcome" // such as assigned and rejected
	InHub     Difference = "hub"
	InTwin    Difference = "twin"
	InPayload Difference = "payload"
	InFault   Difference = "fault" // only one has a decision, or neither has one, for different reasons
)

// Differences lists the kinds of difference.
func Differences() []Difference {
	return []Difference{InOutcome, InHub, InTwin, InPayload, InFault}
}

// Compare lists in what two answers to one request differ. It does not compare which rule gave them or the words of the
// reasons.
func Compare(a, b *Answer) []Difference {
	switch {
	case a.Result != b.Result && a.Result.IsOutcome() && b.Result.IsOutcome():
		return []Difference{InOutcome}
	case a.Result != b.Result:
		return []Difference{InFault}
	}
	var found []Difference
	if !dps.SameHub(a.Response.IotHubHostName, b.Response.IotHubHostName) {
		found = append(found, InHub)
	}
	if !equal(a.Response.InitialTwin, b.Response.InitialTwin) {
		found = append(found, InTwin)
	}
	if !equal(a.Response.Payload, b.Response.Payload) {
		found = append(found, InPayload)
	}
	return found
}

// equal compares objects as DPS receives them. A missing object is not equal to an empty one.
func equal(a, b *dps.Value) bool {
	if (a == nil) != (b == nil) {
		return false
	}
	return bytes.Equal(a.AppendJSON(nil), b.AppendJSON(nil))
}
