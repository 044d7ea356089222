//go:build unix && !linux

package functionshost_test

func zombie(int) bool { return false }
