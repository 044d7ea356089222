// Package attest proves and checks the identity of devices and service clients: shared access signatures, X.509 chains
// and TPM keys.
package attest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// KeyNameRegistration is the key name in a device's token for DPS.
const KeyNameRegistration = "registration"

const (
	tokenScheme = "SharedAccessSignature "
	maxToken    = 4 << 10 // bytes; a real one has fewer than 400
)

// Token is a SharedAccessSignature token.
type Token struct {
	Resource string // decoded
	Expiry   time.Time
	KeyName  string // "" if the token names none

	signed    string // what the signature covers: sr and se as the token spells them
	signature []byte
}

// DeviceResource is the resource of a device's token for DPS.
func DeviceResource(idScope, registrationID string) string {
	return idScope + "/registrations/" + registrationID
}

// DeriveKey returns the key of one device of a group with a symmetric key.
func DeriveKey(groupKey []byte, registrationID string) []byte { return sign(groupKey, registrationID) }

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// NewToken makes a token as a client does. Without a keyName the token has no skn.
func NewToken(resource string, key []byte, expiry time.Time, keyName string) string {
	sr := url.QueryEscape(resource)
	se := strconv.FormatInt(expiry.Unix(), 10)
	signature := base64.StdEncoding.EncodeToString(sign(key, sr+"\n"+se))
	token := tokenScheme + "sr=" + sr + "&sig=" + url.QueryEscape(signature) + "&se=" + se
	if keyName != "" {
		token += "&skn=" + url.QueryEscape(keyName)
	}
	return token
}

// ParseToken reads a token. Clients spell it in several ways: fields in any order, sr escaped with upper-case or
// lower-case hex digits or not at all. Errors contain nothing from the token.
func ParseToken(text string) (Token, error) {
	if len(text) > maxToken {
		return Token{}, errors.New("the SharedAccessSignature is too long")
	}
	if len(text) < len(tokenScheme) || !strings.EqualFold(text[:len(tokenScheme)], tokenScheme) {
		return Token{}, errors.New(`the token does not begin with "SharedAccessSignature "`)
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(text[len(tokenScheme):], "&") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		switch name {
		case "sr", "sig", "se", "skn":
		default:
			return Token{}, errors.New("the SharedAccessSignature has a field other than sr, sig, se and skn")
		}
		if _, twice := fields[name]; twice {
			return Token{}, fmt.Errorf("the SharedAccessSignature has %s twice", name)
		}
		fields[name] = value
	}
	for _, name := range []string{"sr", "sig", "se"} {
		if fields[name] == "" {
			return Token{}, fmt.Errorf("the SharedAccessSignature has no %s", name)
		}
	}
	resource, err := url.QueryUnescape(fields["sr"])
	if err != nil {
		return Token{}, errors.New("the SharedAccessSignature's sr has an invalid escape")
	}
	// Some clients escape the signature, some do not. Base64 has no %, and an unescaped plus is a plus.
	encoded, err := url.PathUnescape(fields["sig"])
	if err != nil {
		return Token{}, errors.New("the SharedAccessSignature's sig has an invalid escape")
	}
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Token{}, errors.New("the SharedAccessSignature's sig is not base64")
	}
	seconds, err := strconv.ParseInt(fields["se"], 10, 64)
	if err != nil {
		return Token{}, errors.New("the SharedAccessSignature's se is not a number of seconds")
	}
	keyName, err := url.QueryUnescape(fields["skn"])
	if err != nil {
		return Token{}, errors.New("the SharedAccessSignature's skn has an invalid escape")
	}
	return Token{
		Resource:  resource,
		Expiry:    time.Unix(seconds, 0),
		KeyName:   keyName,
		signed:    fields["sr"] + "\n" + fields["se"],
		signature: signature,
	}, nil
}

// SignedWith reports whether the token was made with the key.
func (t Token) SignedWith(key []byte) bool {
	return len(key) > 0 && hmac.Equal(t.signature, sign(key, t.signed))
}

// Check reports what is wrong with the token apart from its signature: it expired, or it is for another resource. Case
// does not matter.
func (t Token) Check(resource string, now time.Time) error {
	if !t.Expiry.After(now) {
		return fmt.Errorf("the SharedAccessSignature expired at %s", t.Expiry.UTC().Format(time.RFC3339))
	}
	if !strings.EqualFold(t.Resource, resource) {
		return errors.New("the SharedAccessSignature is for another resource")
	}
	return nil
}

// DecodeKey decodes a key of an enrollment or a policy.
func DecodeKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, errors.New("the key is not base64")
	}
	return key, nil
}

// SignedWithEither reports whether the token was made with one of two keys in base64. An empty or invalid key matches
// nothing.
func (t Token) SignedWithEither(primary, secondary string) bool {
	for _, text := range []string{primary, secondary} {
		if key, err := DecodeKey(text); err == nil && t.SignedWith(key) {
			return true
		}
	}
	return false
}
