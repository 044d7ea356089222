package model_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// TestTime checks the captured format, without trailing zeros.
func TestTime(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("", 3600)
	for want, at := range map[string]time.Time{
		`"2020-09-23T10:58:31.62286Z"`:   time.Date(2020, 9, 23, 11, 58, 31, 622860000, zone),
		`"2022-08-03T17:15:10.8464255Z"`: time.Date(2022, 8, 3, 17, 15, 10, 846425599, time.UTC),
		`"2026-11-21T19:06:17Z"`:         time.Date(2026, 11, 21, 19, 6, 17, 0, time.UTC),
	} {
		got, err := json.Marshal(struct{ T *model.Time }{&model.Time{Time: at}})
		if err != nil || string(got) != `{"T":`+want+`}` {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
		var back model.Time
		if err := json.Unmarshal([]byte(want), &back); err != nil || back.Sub(at).Abs() > 100*time.Nanosecond {
			t.Errorf("%s read as %v, %v", want, back, err)
		}
	}
	var back model.Time
	for _, text := range []string{`"yesterday"`, `1`, `"2020-09-23"`} {
		if err := json.Unmarshal([]byte(text), &back); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

// TestEveryMemberOfTheSpecification reads records that have every member of a version, and writes the same in the same
// order.
func TestEveryMemberOfTheSpecification(t *testing.T) {
	t.Parallel()
	for name, record := range map[string]model.Record{
		"individualEnrollment-2021-10-01": new(model.IndividualEnrollment),
		"individualEnrollment-2026-11-01": new(model.IndividualEnrollment),
		"enrollmentGroup-2026-11-01":      new(model.EnrollmentGroup),
	} {
		document, err := os.ReadFile("testdata/" + name + "-maximum.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(document, record); err != nil {
			t.Fatal(err)
		}
		if len(record.Common().Unknown) != 0 {
			t.Errorf("%s: not known: %v", name, record.Common().Unknown)
		}
		_, version, _ := strings.Cut(name, "-")
		model.Shape(record, version) // has nothing to remove
		written, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, document); err != nil {
			t.Fatal(err)
		}
		// Trailing zeros of a second are cut, see TestTime.
		cut := func(text []byte) string { return strings.ReplaceAll(string(text), ".760Z", ".76Z") }
		if got, want := cut(written), cut(want.Bytes()); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}
