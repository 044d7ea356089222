// Package entra checks access tokens of Microsoft Entra ID, or of another issuer of a test, without asking it.
package entra

import (
	"errors"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

// Audiences of tokens, from the scopes that clients ask for.
const (
	AudienceDPS = "https://azure-devices-provisioning.net"
	AudienceHub = "https://iothubs.azure.net"
)

// Issuer is who issues tokens. The zero value issues none. Each valid token has all rights: roles are not in tokens.
type Issuer struct {
	Name string `json:"issuer"` // the claim iss
	Keys Keys   `json:"keys"`
}

// Keys are an issuer's public keys.
type Keys struct{ set jwk.Set }

// ParseKeys reads a JSON Web Key Set, or public keys and certificates in PEM.
func ParseKeys(text []byte) (Keys, error) {
	isPEM := !strings.HasPrefix(strings.TrimSpace(string(text)), "{")
	set, err := jwk.Parse(text, jwk.WithPEM(isPEM))
	if err != nil || set.Len() == 0 {
		return Keys{}, errors.New("it has neither a JSON Web Key Set nor public keys in PEM")
	}
	for i := range set.Len() {
		key, _ := set.Key(i)
		if asymmetric, ok := key.(jwk.AsymmetricKey); !ok || asymmetric.IsPrivate() {
			return Keys{}, errors.New("it has a key that is not public")
		}
	}
	return Keys{set}, nil
}

// Empty reports whether there are no keys.
func (k Keys) Empty() bool { return k.set == nil }

// Token returns the access token in an Authorization header.
func Token(authorization string) (token string, ok bool) {
	return strings.CutPrefix(authorization, "Bearer ")
}

// Check refuses a token that is not a valid one for the audience. The error does not quote the token.
func (i Issuer) Check(token, audience string, now time.Time) error {
	if i.Keys.Empty() {
		return errors.New("the stand-in takes no tokens of Microsoft Entra ID: set entra in its configuration")
	}
	clock := jwt.ClockFunc(func() time.Time { return now })
	parsed, err := jwt.Parse([]byte(token), jwt.WithClock(clock), jwt.WithIssuer(i.Name), jwt.WithRequiredClaim("exp"),
		jwt.WithKeySet(i.Keys.set, jws.WithRequireKid(false), jws.WithInferAlgorithmFromKey(true)))
	if err != nil {
		return err
	}
	named, _ := parsed.Audience()
	for _, one := range named {
		if strings.TrimSuffix(one, "/") == audience {
			return nil
		}
	}
	return errors.New("the token is not for the audience " + audience)
}
