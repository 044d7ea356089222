package attest_test

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
)

var (
	key    = []byte("a key of some thirty-two bytes..")
	expiry = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
)

// TestTokenSpellings checks the spellings that SDKs use: the signature covers sr as it is spelled.
func TestTokenSpellings(t *testing.T) {
	t.Parallel()
	const resource = "0ne00ABCDEF/registrations/Device:1"
	const se = "1893553445"
	for name, sr := range map[string]string{
		"Node, symmetric key":  resource,
		"Node TPM, C#, Python": "0ne00ABCDEF%2Fregistrations%2FDevice%3A1",
		"C":                    "0ne00ABCDEF%2fregistrations%2fDevice%3a1",
	} {
		// The HMAC is DeriveKey's, which is checked against a published value below.
		signature := base64.StdEncoding.EncodeToString(attest.DeriveKey(key, sr+"\n"+se))
		for _, text := range []string{
			"SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signature) + "&se=" + se + "&skn=registration",
			"SharedAccessSignature sr=" + sr + "&sig=" + signature + "&skn=registration&se=" + se,
			"SharedAccessSignature sr=" + sr + "&se=" + se + "&sig=" + signature,
		} {
			token, err := attest.ParseToken(text)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if !token.SignedWith(key) {
				t.Errorf("%s: the signature does not hold", name)
			}
			if token.SignedWith([]byte("another key")) || token.SignedWith(nil) {
				t.Errorf("%s: the signature holds with another key", name)
			}
			if err := token.Check("0NE00abcdef/registrations/device:1", expiry.Add(-time.Hour*24*365)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestDeriveKey is the example of Microsoft's how-to on group keys.
func TestDeriveKey(t *testing.T) {
	t.Parallel()
	groupKey, err := attest.DecodeKey("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	if err != nil {
		t.Fatal(err)
	}
	derived := base64.StdEncoding.EncodeToString(attest.DeriveKey(groupKey, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"))
	if want := "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="; derived != want {
		t.Errorf("got %s, want %s", derived, want)
	}
}

func TestTokenCheck(t *testing.T) {
	t.Parallel()
	token, err := attest.ParseToken(attest.NewToken("scope/registrations/d", key, expiry, "registration"))
	if err != nil {
		t.Fatal(err)
	}
	if token.KeyName != "registration" || !token.Expiry.Equal(expiry) || token.Resource != "scope/registrations/d" {
		t.Errorf("got %+v", token)
	}
	for _, c := range []struct {
		resource string
		now      time.Time
		want     string
	}{
		{"scope/registrations/d", expiry.Add(-time.Second), ""},
		{"scope/registrations/d", expiry, "expired at 2030-01-02T03:04:05Z"},
		{"scope/registrations/other", expiry.Add(-time.Second), "another resource"},
		{"scope/registrations/d2", expiry.Add(-time.Second), "another resource"},
	} {
		err := token.Check(c.resource, c.now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s at %s: got %v, want %q", c.resource, c.now, err, c.want)
		}
	}
}

func TestParseTokenRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                                       "does not begin",
		"Bearer sr=a&sig=Yg==&se=1":                              "does not begin",
		"SharedAccessSignature sig=Yg==&se=1":                    "has no sr",
		"SharedAccessSignature sr=a&se=1":                        "has no sig",
		"SharedAccessSignature sr=a&sig=Yg==":                    "has no se",
		"SharedAccessSignature sr=a&sr=b&se=1":                   "sr twice",
		"SharedAccessSignature sr=%zz&sig=Yg==&se=1":             "sr has an invalid escape",
		"SharedAccessSignature sr=a&sig=%zz&se=1":                "sig has an invalid escape",
		"SharedAccessSignature sr=a&sig=!&se=1":                  "sig is not base64",
		"SharedAccessSignature sr=a&sig=Yg==&se=soon":            "se is not a number",
		"SharedAccessSignature sr=a&sig=Yg==&se=1&skn=%zz":       "skn has an invalid escape",
		"SharedAccessSignature sr=a&sig=Yg==&se=1&x=1":           "a field other than",
		"SharedAccessSignature sr=" + strings.Repeat("a", 5<<10): "too long",
	} {
		if _, err := attest.ParseToken(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(attest.NewToken("scope/registrations/d", key, expiry, "registration"))
	f.Add("SharedAccessSignature sr=a%2Fb&sig=Yg%3D%3D&se=1&skn=")
	f.Add("sharedaccesssignature sr=a&sig=+/==&se=-1")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := attest.ParseToken(text)
		if err != nil {
			return
		}
		if token.SignedWith(key) && !strings.Contains(text, "sig=") {
			t.Errorf("%q is signed without a signature", text)
		}
		again, err := attest.ParseToken(attest.NewToken(token.Resource, key, token.Expiry, token.KeyName))
		if err != nil && len(token.Resource) < 1000 && len(token.KeyName) < 100 {
			t.Fatalf("made of %q: %v", text, err)
		}
		if err == nil && (again.Resource != token.Resource || !again.SignedWith(key)) {
			t.Errorf("%q: made again as %+v", text, again)
		}
	})
}
