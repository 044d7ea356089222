package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/author/verify"
)

// completions returns what the shell offers, without the descriptions.
func completions(t *testing.T, args ...string) []string {
	t.Helper()
	var stdout, stderr strings.Builder
	if code := run(t.Context(), append([]string{"__complete"}, args...), strings.NewReader(""), &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if last := lines[len(lines)-1]; last != ":4" { // the directive of cobra for "no file names"
		t.Errorf("usher %s: directive %s", strings.Join(args, " "), last)
	}
	var values []string
	for _, line := range lines[:len(lines)-1] {
		value, _, _ := strings.Cut(line, "\t")
		values = append(values, value)
	}
	return values
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	var lints, promises []string
	for _, l := range lint.Lints() {
		lints = append(lints, l.ID)
	}
	for _, p := range verify.Promises() {
		promises = append(promises, p.ID)
	}
	for _, c := range []struct {
		args, want []string
	}{
		{[]string{"check", "--explain", ""}, lints},
		{[]string{"check", "--explain", "payload-d"}, []string{"payload-decides"}},
		{[]string{"check", "--fail-on", ""}, []string{"error", "warning"}},
		{[]string{"check", "-o", ""}, checkFormats},
		{[]string{"verify", "--promise", ""}, promises},
		{[]string{"verify", "--promise", "twin,li"}, []string{"twin,linked-hub"}},
		{[]string{"verify", "--rules", "../../rules", "--rule", "tenants,b"}, []string{"tenants,breakroom"}},
		{[]string{"verify", "--rules", "nowhere", "--rule", ""}, nil},
		{[]string{"verify", "-o", "s"}, []string{"sarif"}},
		{[]string{"bench", "--rules", "../../rules", "--rule", "t"}, []string{"tenants"}},
		{[]string{"bench", "--metrics", "typical,p9"}, []string{"typical,p95", "typical,p99"}},
		{[]string{"replay", "--fail-on", "m"}, []string{"moved", "malformed"}},
		{[]string{"test", "-o", ""}, testFormats},
		{[]string{"new", "--from", "ten"}, []string{"tenants"}},
		{[]string{"bundle", "--signing-alg", "HS"}, []string{"HS256", "HS384", "HS512"}},
	} {
		if got := completions(t, c.args...); !slices.Equal(got, c.want) {
			t.Errorf("usher %s offers %q, want %q", strings.Join(c.args, " "), got, c.want)
		}
	}
}

// Every -o that chooses a format completes the formats that its help names.
func TestEveryFormatIsOffered(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, cmd := range commands(newCommand()) {
		f := cmd.Flags().Lookup("output")
		if f == nil || f.DefValue != "text" {
			continue
		}
		seen++
		formats := completions(t, append(strings.Fields(cmd.CommandPath())[1:], "-o", "")...)
		said := strings.Fields(strings.NewReplacer(",", " ", " or ", " ").Replace(f.Usage))
		if len(formats) < 2 || !slices.Equal(formats, said) {
			t.Errorf("%s offers %q, but its help says %q", cmd.CommandPath(), formats, f.Usage)
		}
	}
	if seen < 7 {
		t.Errorf("%d commands have formats", seen)
	}
}
