package entra_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
)

const issuer = "https://sts.windows.net/tenant/"

// now is when the tests check tokens.
var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// signed is a token that is valid but for the change.
func signed(t *testing.T, algorithm jwa.SignatureAlgorithm, key any, change func(jwt.Token) error) string {
	t.Helper()
	token, err := jwt.NewBuilder().Issuer(issuer).Audience([]string{entra.AudienceDPS}).
		NotBefore(now.Add(-time.Minute)).IssuedAt(now.Add(-time.Minute)).Expiration(now.Add(time.Hour)).Build()
	if err == nil && change != nil {
		err = change(token)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Sign(token, jwt.WithKey(algorithm, key))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := publicPEM(t, &key.PublicKey)
	keys, err := entra.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, value any) func(jwt.Token) error {
		return func(token jwt.Token) error { return token.Set(name, value) }
	}
	for _, c := range []struct{ name, token, problem string }{
		{"valid", signed(t, jwa.RS256(), key, nil), ""},
		{"PS256", signed(t, jwa.PS256(), key, nil), ""},
		{"a slash", signed(t, jwa.RS256(), key, claim("aud", entra.AudienceDPS+"/")), ""},
		{"several audiences", signed(t, jwa.RS256(), key, claim("aud", []string{"x", entra.AudienceDPS})), ""},
		{"a hub's audience", signed(t, jwa.RS256(), key, claim("aud", entra.AudienceHub)), "audience"},
		{"no audience", signed(t, jwa.RS256(), key, func(token jwt.Token) error { return token.Remove("aud") }), "audience"},
		{"another issuer", signed(t, jwa.RS256(), key, claim("iss", "https://sts.windows.net/other/")), "iss"},
		{"expired", signed(t, jwa.RS256(), key, claim("exp", now.Add(-time.Second))), "exp"},
		{"without an end", signed(t, jwa.RS256(), key, func(token jwt.Token) error { return token.Remove("exp") }), "exp"},
		{"not yet valid", signed(t, jwa.RS256(), key, claim("nbf", now.Add(time.Minute))), "nbf"},
		{"another key", signed(t, jwa.RS256(), stranger, nil), "verif"},
		{"signed with the text of the public key", signed(t, jwa.HS256(), text, nil), "verif"},
		{"not a token", "secret", "parse"},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := entra.Issuer{Name: issuer, Keys: keys}.Check(c.token, entra.AudienceDPS, now)
			switch {
			case c.problem == "" && c.token != "":
				if err != nil {
					t.Error(err)
				}
			case err == nil || !strings.Contains(err.Error(), c.problem):
				t.Errorf("got %v, want %s", err, c.problem)
			case c.token != "" && strings.Contains(err.Error(), c.token):
				t.Errorf("the error quotes the token: %v", err)
			}
			if (entra.Issuer{}).Check(c.token, entra.AudienceDPS, now) == nil {
				t.Error("no one's tokens are taken")
			}
		})
	}
}

// TestParseKeys reads keys in each form, and checks tokens with them.
func TestParseKeys(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(keys ...any) []byte {
		t.Helper()
		s := jwk.NewSet()
		for i, one := range keys {
			imported, err := jwk.Import(one)
			if err == nil {
				err = imported.Set(jwk.KeyIDKey, string(rune('a'+i)))
			}
			if err == nil {
				err = s.AddKey(imported)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		text    []byte
		problem string
	}{
		{"PEM", publicPEM(t, &key.PublicKey), ""},
		{"PEM, two", append(publicPEM(t, &other.PublicKey), publicPEM(t, &key.PublicKey)...), ""},
		{"set", set(&key.PublicKey), ""},
		{"set, two", set(&other.PublicKey, &key.PublicKey), ""},
		{"private PEM", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), "not public"},
		{"private set", set(key), "not public"},
		{"a shared secret", set([]byte("secret")), "not public"},
		{"empty set", []byte(`{"keys":[]}`), "neither"},
		{"nothing", nil, "neither"},
		{"text", []byte("secret"), "neither"},
	} {
		keys, err := entra.ParseKeys(c.text)
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: got %v, want %s", c.name, err, c.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := (entra.Issuer{Name: issuer, Keys: keys}).Check(signed(t, jwa.ES256(), key, nil), entra.AudienceDPS, now); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
