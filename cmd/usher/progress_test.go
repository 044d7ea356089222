package main

import (
	"bytes"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressText(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		n     int
		share float64
	}{
		"100 tests, 20/s":                {100, 0},
		"100 tests, 20/s, 25%, 15s left": {100, .25},
		"400 tests, 80/s, 100%, 0s left": {400, 1},
		"400 tests, 80/s":                {400, 1.1},  // more than expected
		"1 tests, 0/s":                   {1, .00001}, // too early to estimate
	} {
		if got := progressText(c.n, "tests", c.share, 5*time.Second); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Progress is shown after two seconds, not too often, and is removed at the end.
func TestProgressIsPatient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var screen bytes.Buffer
		p := &progress{w: &screen, unit: "tests", start: time.Now()}
		p.update(10, .1)
		if screen.Len() > 0 {
			t.Errorf("at once it shows %q", screen.String())
		}
		time.Sleep(2 * time.Second) // by the bubble's clock
		p.update(40, .4)
		p.update(41, .41)
		if got := screen.String(); got != "\r\x1b[K40 tests, 20/s, 40%, 3s left" {
			t.Errorf("after two seconds it shows %q", got)
		}
		screen.Reset()
		p.done()
		if got := screen.String(); got != "\r\x1b[K" {
			t.Errorf("at the end it shows %q", got)
		}
	})
}

// Progress is shown only on a terminal.
func TestProgressIsForTerminals(t *testing.T) {
	t.Parallel()
	file, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := newProgress(file, "tests")
	p.start = p.start.Add(-time.Minute)
	p.update(10, .1)
	p.done()
	if info, err := file.Stat(); err != nil || info.Size() > 0 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}
