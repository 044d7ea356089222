package ruleset

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// pace is how fast rules are loaded. Nil means as fast as all processors can. Otherwise one goroutine works, and rests
// after each piece of work for as long as it took, so that requests find a processor at once: the scheduler would let
// them wait for the end of a time slice, which is ten milliseconds.
type pace struct{ since time.Time }

// Bounds of a rest. Shorter ones cost more than they give; a longer piece of work was an interruption of the process.
const (
	minRest = 300 * time.Microsecond
	maxRest = 20 * time.Millisecond
)

func (rs *Ruleset) newPace() *pace {
	if !rs.options.Background {
		return nil
	}
	return &pace{since: time.Now()}
}

// rest is called between pieces of work.
func (p *pace) rest() {
	if p == nil {
		return
	}
	if worked := time.Since(p.since); worked >= minRest {
		time.Sleep(min(worked, maxRest))
		p.since = time.Now()
	}
}

// each does work for all numbers below n.
func (p *pace) each(n int, work func(int)) {
	if p != nil {
		for i := range n {
			work(i)
			p.rest()
		}
		return
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				work(int(i))
			}
		})
	}
	group.Wait()
}
