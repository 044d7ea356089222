package sharedaccess_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/sharedaccess"
)

const secret = "c2VjcmV0LWZ1bmN0aW9uLWtleQ=="

func TestParse(t *testing.T) {
	t.Parallel()
	c, err := sharedaccess.Parse(" HostName=c.azure-devices-provisioning.net;SharedAccessKeyName=owner;SharedAccessKey=" + secret + ";GatewayHostName=localhost:8443\n")
	if err != nil || c.Host != "c.azure-devices-provisioning.net" || c.Gateway != "localhost:8443" {
		t.Errorf("%s, %s, %v", c.Host, c.Gateway, err)
	}
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c.Key), fmt.Sprintf("%v", []any{c.Key})} {
		if strings.Contains(shown, "c2Vjc") || strings.Contains(shown, "115 101 99") {
			t.Errorf("the key is printed: %s", shown)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("HostName=h;SharedAccessKeyName=n;SharedAccessKey=" + secret)
	f.Add("HostName=h;SharedAccessKeyName=n;SharedAccessKey=%%%")
	f.Add("SharedAccessKey=" + secret)
	f.Add("SharedAccessK") // part of what an error says
	texts := map[string]bool{}
	for _, wrong := range []string{"", "SharedAccessKey=%%%"} {
		_, err := sharedaccess.Parse(wrong)
		texts[err.Error()] = true
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := sharedaccess.Parse(text)
		if err == nil && c.Host == "" {
			t.Error("no host, and no error")
		}
		if err != nil && !texts[err.Error()] {
			t.Errorf("the error depends on what it is about: %v", err)
		}
	})
}
