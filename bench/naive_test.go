package main

import "testing"

// The naive floor loads the rules of today, with all functions that these call.
func TestNaiveLoadsTheRules(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := writeRules("..", folder); err != nil {
		t.Fatal(err)
	}
	if _, err := newNaive(folder); err != nil {
		t.Error(err)
	}
}
