package functionshost

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps Ctrl-C in the console away from the handler.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// killGroup ends the handler. Its children survive: ending them would need a job object.
func killGroup(cmd *exec.Cmd) {
	// An error means that the handler has ended already.
	_ = cmd.Process.Kill()
}
