package functionshost_test

import (
	"os"
	"syscall"
	"testing"
)

// syscallSIGURG does not exist here; this value never arrives.
const syscallSIGURG = syscall.Signal(-1)

func alive(t *testing.T, pid int) bool {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	p.Release()
	return true
}
