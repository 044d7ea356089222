package enrollment

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"
)

// New is an enrollment that DPS has not got yet.
func New(kind Kind, id string, attestation map[string]any) Enrollment {
	return Enrollment{Kind: kind, Document: map[string]any{
		kind.idMember():      id,
		"attestation":        attestation,
		"provisioningStatus": "enabled",
	}}
}

// SymmetricKey is the attestation by keys that DPS makes.
func SymmetricKey() map[string]any { return map[string]any{"type": "symmetricKey"} }

// CAReference is the attestation by certificates of a CA that DPS knows under a name.
func CAReference(name string) map[string]any {
	return map[string]any{"type": "x509", "x509": map[string]any{"caReferences": map[string]any{"primary": name}}}
}

// Certificate is the attestation by a certificate in PEM: the signing certificate of
// a group, the device's own for an individual enrollment.
func Certificate(kind Kind, text []byte) (map[string]any, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a certificate in PEM")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("not a certificate: %w", err)
	}
	member := "clientCertificates"
	if kind == Group {
		member = "signingCertificates"
		if !parsed.IsCA {
			return nil, errors.New("the certificate is no CA: a group takes the one that signs its devices' certificates")
		}
	}
	return map[string]any{"type": "x509", "x509": map[string]any{
		member: map[string]any{"primary": map[string]any{"certificate": base64.StdEncoding.EncodeToString(block.Bytes)}},
	}}, nil
}

// ApplyKey returns the enrollment with the target's key in the URL that it calls, and
// all else as it is.
func (t Target) ApplyKey(e Enrollment) Enrollment {
	webhook, err := e.Webhook().WithKey(t.Webhook.Key())
	if err != nil {
		return e
	}
	changed := Enrollment{Kind: e.Kind, Document: maps.Clone(e.Document)}
	definition, _ := e.Document["customAllocationDefinition"].(map[string]any)
	definition = maps.Clone(definition)
	definition["webhookUrl"] = webhook.URL
	changed.Document["customAllocationDefinition"] = definition
	return changed
}

// ProbeHeader marks a request that no device stands behind. The webhook decides it as
// any other, and says in the record that it was one.
const ProbeHeader = "Usher-Probe"

// tryTimeout leaves time for a cold start.
const tryTimeout = 30 * time.Second

// TryKey asks the webhook for nothing with its key. It fails unless the webhook takes
// the key: an answer of 400 says that it does.
func TryKey(ctx context.Context, client *http.Client, webhook Webhook) error {
	status, _, err := Post(ctx, client, webhook, []byte("{}"))
	switch {
	case err != nil:
		return err
	case status == http.StatusForbidden:
		// A wrong key is answered 401, by the Functions host and by the handler alike.
		return fmt.Errorf("%s admits no calls from this address: it answers 403; admit it for a while (allowedAddresses in infra/), then run this again", webhook.Address())
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%s does not take the key: it answers %d", webhook.Address(), status)
	case status != http.StatusBadRequest:
		return fmt.Errorf("%s answers an empty request with %d, and the webhook with 400: is the URL right?", webhook.Address(), status)
	}
	return nil
}

// Post sends a body as DPS does, marked as a probe. The client may be nil. Errors do
// not name the key.
func Post(ctx context.Context, client *http.Client, webhook Webhook, body []byte) (status int, answer []byte, err error) {
	if client == nil {
		client = &http.Client{
			Timeout:       tryTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, webhook.URL, strings.NewReader(string(body)))
	if err != nil {
		return 0, nil, errNoURL
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set(ProbeHeader, "1")
	response, err := client.Do(request)
	if err != nil {
		// Go's error quotes the URL, and the key in it.
		return 0, nil, fmt.Errorf("%s cannot be reached: %w", webhook.Address(), errors.Unwrap(err))
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, answer, err
}
