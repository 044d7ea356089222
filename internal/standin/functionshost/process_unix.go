//go:build unix

package functionshost

import (
	"os/exec"
	"syscall"
)

func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup sends SIGKILL to the handler's process group. Deliberately no parent-death signal is set: a real host that
// is killed orphans its handler, so the handler must notice that itself, and tests must see it.
func killGroup(cmd *exec.Cmd) {
	// The only error, ESRCH, means that the group has ended already.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
