package enrollment

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// New returns an enrollment that DPS does not have yet.
func New(kind Kind, id string, attestation map[string]any) Enrollment {
	return Enrollment{Kind: kind, Document: map[string]any{
		kind.idMember():      id,
		"attestation":        attestation,
		"provisioningStatus": "enabled",
	}}
}

// SymmetricKey returns the attestation by keys that DPS generates.
func SymmetricKey() map[string]any { return map[string]any{"type": "symmetricKey"} }

// CAReference returns the attestation by certificates of a CA that is registered with DPS under the name.
func CAReference(name string) map[string]any {
	return map[string]any{"type": "x509", "x509": map[string]any{"caReferences": map[string]any{"primary": name}}}
}

// Certificate returns the attestation by a certificate in PEM: the signing certificate of a group, or the device's own
// certificate for an individual enrollment.
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
			return nil, errors.New("the certificate is not a CA certificate: a group needs the one that signs its devices' certificates")
		}
	}
	return map[string]any{"type": "x509", "x509": map[string]any{
		member: map[string]any{"primary": map[string]any{"certificate": base64.StdEncoding.EncodeToString(block.Bytes)}},
	}}, nil
}

// ProbeHeader marks a request that does not come from a device. The webhook decides it like any other, and marks its
// record as a probe.
const ProbeHeader = "Usher-Probe"

// tryTimeout leaves time for a cold start.
const tryTimeout = 30 * time.Second

// TryKey sends an empty request with the webhook's key. It fails unless the webhook accepts the key, which an answer of
// 400 shows.
func TryKey(ctx context.Context, client *http.Client, webhook Webhook) error {
	status, _, err := Post(ctx, client, webhook, []byte("{}"))
	switch {
	case err != nil:
		return err
	case status == http.StatusForbidden:
		// Both the Functions host and the handler answer 401 if the key is wrong.
		return fmt.Errorf("%s does not admit calls from this address: it answers 403; admit the address for a while (allowedAddresses in infra/), then run this again", webhook.Address())
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%s does not accept the key: it answers %d", webhook.Address(), status)
	case status != http.StatusBadRequest:
		return fmt.Errorf("%s answers an empty request with %d, but the webhook answers 400: is the URL right?", webhook.Address(), status)
	}
	return nil
}

// Post sends a body as DPS does, and marks it as a probe. The client may be nil. Errors do not contain the key.
func Post(ctx context.Context, client *http.Client, webhook Webhook, body []byte) (status int, answer []byte, err error) {
	if client == nil {
		client = &http.Client{
			Timeout:       tryTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, webhook.URL, bytes.NewReader(body))
	if err != nil {
		return 0, nil, errNoURL
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set(ProbeHeader, "1")
	response, err := client.Do(request)
	if err != nil {
		// Go's error quotes the URL, which contains the key.
		return 0, nil, fmt.Errorf("%s cannot be reached: %w", webhook.Address(), errors.Unwrap(err))
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, answer, err
}
