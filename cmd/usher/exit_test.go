package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, exitOK},
		{[]string{"version"}, exitOK},
		{[]string{"host", "--help"}, exitOK},
		{[]string{"unknown"}, exitUsage},
		{[]string{"--unknown"}, exitUsage},
		{[]string{"host", "--unknown"}, exitUsage},
		{[]string{"host", "extra"}, exitUsage},
		{[]string{"host", "--port", "x"}, exitUsage},
		{[]string{"host", "--enable-auth"}, exitUsage},
		{[]string{"fmt", "testdata/no-such-folder"}, exitFailure},
		{[]string{"host", "--root", "testdata"}, exitFailure},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), c.args, strings.NewReader(""), &stdout, &stderr); got != c.want {
			t.Errorf("usher %s exits with %d, want %d; it prints:\n%s", strings.Join(c.args, " "), got, c.want, stderr.String())
		}
		if failed, says := c.want != exitOK, strings.HasPrefix(stderr.String(), "usher: "); failed != says {
			t.Errorf("usher %s: standard error is %q", strings.Join(c.args, " "), stderr.String())
		}
	}
}
