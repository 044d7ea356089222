package ruleset

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRest(t *testing.T) {
	for _, test := range []struct{ worked, rested time.Duration }{
		{100 * time.Microsecond, 0}, {2 * time.Millisecond, 2 * time.Millisecond}, {time.Second, maxRest},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &pace{since: time.Now()}
			start := time.Now()
			time.Sleep(test.worked) // for the work
			p.rest()
			p.rest() // a rest is not taken for work
			if got := time.Since(start) - test.worked; got != test.rested {
				t.Errorf("after %v of work it rests for %v, want %v", test.worked, got, test.rested)
			}
		})
	}
}

func TestEachIsDoneOnce(t *testing.T) {
	for name, p := range map[string]*pace{"by all": nil, "by one": {since: time.Now()}} {
		done := make([]int, 1000)
		p.each(len(done), func(i int) { done[i]++ })
		for i, times := range done {
			if times != 1 {
				t.Fatalf("%s: %d is done %d times", name, i, times)
			}
		}
	}
}
