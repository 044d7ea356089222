package functionshost_test

import (
	"bytes"
	"fmt"
	"os"
)

// zombie reports whether a process ended and waits to be reaped, which depends on what runs as init.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}
