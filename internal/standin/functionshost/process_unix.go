//go:build unix

package functionshost

import (
	"os/exec"
	"syscall"
)

func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup sends SIGKILL to the handler's process group. No parent-death signal is set, deliberately: the real host
// leaves its handler orphaned when it is killed, so the handler must watch over that itself, and tests must see it.
func killGroup(cmd *exec.Cmd) {
	// ESRCH says that it ended meanwhile, which is what is wanted.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
