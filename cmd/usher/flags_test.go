package main

import (
	"regexp"
	"testing"

	"github.com/spf13/pflag"
)

// A wrong value of any flag is named with the flag and with what is wanted, and not with a function of Go.
func TestWrongValues(t *testing.T) {
	t.Parallel()
	wrong := 0
	for _, cmd := range commands(newCommand()) {
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			for _, value := range []string{"x", "-1", "99999999999999999999", "?"} {
				err := cmd.ParseFlags([]string{"--" + flag.Name + "=" + value})
				if err == nil {
					continue
				}
				wrong++
				got := describeFlagError(err).Error()
				if want := "^--" + flag.Name + ` is "` + regexp.QuoteMeta(value) + `": `; !regexp.MustCompile(want).MatchString(got) {
					t.Errorf("%s: %s; want %s", cmd.CommandPath(), got, want)
				}
				if bad := regexp.MustCompile(`strconv|time: |invalid argument|syntax`).FindString(got); bad != "" {
					t.Errorf("%s: %s: has %q", cmd.CommandPath(), got, bad)
				}
			}
		})
	}
	if wrong < 100 {
		t.Errorf("only %d values were refused", wrong)
	}
}
