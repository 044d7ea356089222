//go:build unix

package functionshost_test

import (
	"syscall"
	"testing"
)

// syscallSIGURG is what Go's runtime sends to itself.
const syscallSIGURG = syscall.SIGURG

// alive reports whether a process runs. A zombie whose parent is gone is reaped by init and does not count.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	return syscall.Kill(pid, 0) == nil && !zombie(pid)
}
