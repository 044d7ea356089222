//go:build unix && !linux

package funchost_test

func zombie(int) bool { return false }
