package keymaterial_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/keymaterial"
)

const request = `{
	"enrollmentGroup": {"enrollmentGroupId": "line-a", "attestation": {
		"type": "symmetricKey",
		"symmetricKey": {"primaryKey": "UHJpbWFyeUtleU9mVGhlR3JvdXA=", "secondaryKey": "k2"},
		"x509": {"signingCertificates": {"primary": {"certificate": "MIIBsigning", "info": {"subjectName": "CN=ca"}}}},
		"tpm": {"endorsementKey": "RW5kb3JzZW1lbnRLZXk=", "storageRootKey": null}}},
	"deviceRuntimeContext": {"registrationId": "press-1", "payload": {"primaryKey": {"any": ["payloadsecret"]}},
		"x509": {"ClientCertificate": "MIIBleafleafleaf"}},
	"linkedHubs": ["contoso-eu.azure-devices.net"]
}`

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	return document
}

func TestMaskValue(t *testing.T) {
	t.Parallel()
	document := decode(t, request)
	masked := keymaterial.Of(document).Value(document)
	want := decode(t, `{
		"enrollmentGroup": {"enrollmentGroupId": "line-a", "attestation": {
			"type": "symmetricKey",
			"symmetricKey": {"primaryKey": "(masked)", "secondaryKey": "(masked)"},
			"x509": {"signingCertificates": {"primary": {"certificate": "(masked)", "info": {"subjectName": "CN=ca"}}}},
			"tpm": {"endorsementKey": "(masked)", "storageRootKey": null}}},
		"deviceRuntimeContext": {"registrationId": "press-1", "payload": {"primaryKey": {"any": ["(masked)"]}},
			"x509": {"ClientCertificate": "(masked)"}},
		"linkedHubs": ["contoso-eu.azure-devices.net"]}`)
	if diff := cmp.Diff(any(want), masked); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(decode(t, request), document); diff != "" {
		t.Errorf("the document is changed:\n%s", diff)
	}
}

// A device can send its payload as a text; keys in that are found as well.
func TestKeysInTexts(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0LW9mLWEtdGV4dA=="
	quoted := func(text string) string {
		t.Helper()
		encoded, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	object := `{"name": "n", "primaryKey": "` + secret + `"}`
	for _, payload := range []string{
		object, "[1, " + object + "]", `{"a": 1, "a": ` + object + `}`, object + object, " " + object + " and more", object[:len(object)-1],
		quoted(object), quoted("[" + quoted(object) + "]"), `{"SASTOKEN": {"any": [["` + secret + `"]]}}`, `{"list": [{"x": [], "csr": "` + secret + `"}]}`,
	} {
		mask := keymaterial.Of(map[string]any{"deviceRuntimeContext": map[string]any{"payload": payload}})
		if got := mask.Text("the payload is " + payload); strings.Contains(got, secret) {
			t.Errorf("%s: %s", payload, got)
		}
		if got := mask.Text("n is a name"); got != "n is a name" {
			t.Errorf("%s: %s", payload, got)
		}
	}
	for _, payload := range []string{secret, `{"name": "` + secret + `", "primaryKey": 1}`, `[{"primaryKey": {}}, "` + secret + `"]`, `{"primaryKey": [1], "x": "` + secret + `"}`, "{", `"`, ""} {
		if got := keymaterial.Of(map[string]any{"payload": payload}).Text("is " + secret); got != "is "+secret {
			t.Errorf("%s: %s", payload, got)
		}
	}
}

// What a rule makes of a key is also hidden: in another case, within a sentence, and in part.
func TestMaskText(t *testing.T) {
	t.Parallel()
	mask := keymaterial.Of(decode(t, request))
	for _, test := range []struct{ text, want string }{
		{"UHJpbWFyeUtleU9mVGhlR3JvdXA=", "(masked)"},
		{"uhjpbwfyeutleu9mvghlr3jvdxa=", "(masked)"},
		{"key UHJpbWFyeUtleU9mVGhlR3JvdXA= and MIIBSIGNING.", "key (masked) and (masked)."},
		{"JpbWFyeUtleU9m", "(masked)"},
		{"k2", "(masked)"},
		{"a k2 in a sentence is too short to be hidden", "a k2 in a sentence is too short to be hidden"},
		{"line-a", "line-a"},
		{"", ""},
	} {
		if got := mask.Text(test.text); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
	if got := (keymaterial.Mask{}).Text("a text"); got != "a text" {
		t.Errorf("the zero mask makes %q", got)
	}
}

// Line ends are escaped where a value is printed as JSON or Rego.
func TestMaskLines(t *testing.T) {
	t.Parallel()
	const pem = "-----BEGIN CERTIFICATE-----\r\nMIIBfirstfirstfirst\r\nsecondsecondsecond\r\nlast\r\n-----END CERTIFICATE-----\r\n"
	document := map[string]any{"clientCertificate": pem}
	shown, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	got := keymaterial.Of(document).Text("asked about " + string(shown))
	if strings.Contains(got, "first") || strings.Contains(got, "second") || !strings.HasPrefix(got, `asked about {"clientCertificate":"`) {
		t.Errorf("got %s", got)
	}
}

// FuzzMask: what is shown contains no key of eight or more characters.
func FuzzMask(f *testing.F) {
	f.Add("UHJpbWFyeUtleU9mVGhlR3JvdXA=", "before ", " after")
	f.Add("ſecretſecret", "K", "ß")
	f.Add("((((((((", "(", "masked)")
	f.Fuzz(func(t *testing.T, key, before, after string) {
		if len(strings.ToLower(key)) < 8 || len(key) < 8 || strings.Contains(keymaterial.Masked, strings.ToLower(key)) {
			return
		}
		mask := keymaterial.Of(map[string]any{"primaryKey": key})
		shown, _ := mask.Value(map[string]any{"note": key}).(map[string]any)
		if shown["note"] != keymaterial.Masked {
			t.Errorf("%q alone is shown as %v", key, shown["note"])
		}
		if !utf8.ValidString(key) {
			return
		}
		if shown := mask.Text(before + "|" + key + "|" + after); strings.Contains(shown, "|"+key+"|") {
			t.Errorf("%q is in %q", key, shown)
		}
	})
}
