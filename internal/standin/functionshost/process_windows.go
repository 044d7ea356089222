package functionshost

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps Ctrl-C in the console from the handler.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// killGroup ends the handler. Children of the handler live on: that would need a job object.
func killGroup(cmd *exec.Cmd) {
	// The error says that it ended meanwhile, which is what is wanted.
	_ = cmd.Process.Kill()
}
