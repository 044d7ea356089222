package replay

import (
	"fmt"
	"testing"

	"github.com/usher-dps/usher/dps"
)

// A log with names without end makes no report without end. It is tested in here because to decide so many requests
// takes a minute.
func TestTallyIsBounded(t *testing.T) {
	t.Parallel()
	const beyond = 5000
	var total tally
	for i := range maxCells + beyond {
		hub := State{Result: "assigned", Hub: fmt.Sprint("hub-", i)}
		total.addBounded(cell{kind: Stayed, enrollmentKind: dps.EnrollmentGroup, enrollment: fmt.Sprint("group-", i), before: hub, after: hub, on: hub.Hub}, 1)
	}
	known := total.cells[7]
	if i := total.addBounded(known, 1); i != 7 || total.counts[7] != 2 {
		t.Errorf("a known cell is counted at %d: %d", i, total.counts[7])
	}
	if n := len(total.cells); n != maxCells+1 {
		t.Errorf("%d cells", n)
	}
	others := State{Result: "assigned", Hub: Others}
	want := cell{kind: Stayed, enrollmentKind: dps.EnrollmentGroup, enrollment: Others, before: others, after: others, on: Others}
	if last := total.cells[maxCells]; last != want || total.counts[maxCells] != beyond {
		t.Errorf("%d counted under %+v", total.counts[maxCells], last)
	}
	// What has no hub gets none.
	total.addBounded(cell{kind: FirstRejected, enrollment: "new", after: State{Result: "rejected"}}, 1)
	if last := total.cells[len(total.cells)-1]; last.before.Hub != "" || last.after.Hub != "" || last.on != "" || last.enrollment != Others {
		t.Errorf("a device without a hub is counted under %+v", last)
	}
}
