package attest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// ParseCertificate reads one certificate in a form that enrollments use: PEM, PEM in base64, or DER in base64 with or
// without line breaks.
func ParseCertificate(text string) (*x509.Certificate, error) {
	data := []byte(text)
	if !strings.Contains(text, "-----BEGIN") {
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, errors.New("the certificate is neither PEM nor base64")
		}
		data = decoded
	}
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the PEM block is a %s, not a CERTIFICATE", block.Type)
		}
		data = block.Bytes
	}
	certificate, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	return certificate, nil
}

// SHA1Thumbprint returns the thumbprint in upper-case hex.
func SHA1Thumbprint(certificate *x509.Certificate) string {
	return fmt.Sprintf("%X", sha1.Sum(certificate.Raw))
}

// SHA256Thumbprint returns the thumbprint in upper-case hex.
func SHA256Thumbprint(certificate *x509.Certificate) string {
	return fmt.Sprintf("%X", sha256.Sum256(certificate.Raw))
}

// CertificateInfo is what DPS reports about a certificate.
func CertificateInfo(certificate *x509.Certificate) *model.X509CertificateInfo {
	return &model.X509CertificateInfo{
		SubjectName:      distinguishedName(certificate.RawSubject),
		SHA1Thumbprint:   SHA1Thumbprint(certificate),
		SHA256Thumbprint: SHA256Thumbprint(certificate),
		IssuerName:       distinguishedName(certificate.RawIssuer),
		NotBeforeUTC:     model.Time{Time: certificate.NotBefore},
		NotAfterUTC:      model.Time{Time: certificate.NotAfter},
		SerialNumber:     fmt.Sprintf("%X", certificate.SerialNumber.Bytes()),
		Version:          certificate.Version,
	}
}

// distinguishedName writes a name as .NET does: most specific part first, separated by ", ".
func distinguishedName(raw []byte) string {
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(raw, &name); err != nil {
		return ""
	}
	var parts []string
	for _, part := range slices.Backward(name) {
		parts = append(parts, pkix.RDNSequence{part}.String())
	}
	return strings.Join(parts, ", ")
}

// CheckLeaf checks that a device's certificate names the device and is valid now.
func CheckLeaf(leaf *x509.Certificate, registrationID string, now time.Time) error {
	if !strings.EqualFold(leaf.Subject.CommonName, registrationID) {
		return fmt.Errorf("the certificate's common name is %q, which is not the registration ID %q", leaf.Subject.CommonName, registrationID)
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("the certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// VerifyChain checks that the chain that a device sent, leaf first, leads to one of the signing certificates, which may
// be intermediates. It returns the signing certificate nearest to the leaf.
func VerifyChain(chain, signing []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the device presented no certificate")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, certificate := range signing {
		roots.AddCert(certificate)
	}
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return nil, missingIssuer(chain, signing)
	}
	if err != nil {
		return nil, err
	}
	var nearest *x509.Certificate
	links := 0
	for _, path := range paths {
		// A signing certificate vouches for others, not for itself as a device.
		if len(path) > 1 && (nearest == nil || len(path) < links) {
			nearest, links = path[len(path)-1], len(path)
		}
	}
	if nearest == nil {
		return nil, errors.New("the device presented a signing certificate as its own")
	}
	return nearest, nil
}

// missingIssuer says where a chain that leads to no signing certificate ends, and with which name it could go on.
func missingIssuer(chain, signing []*x509.Certificate) error {
	last := chain[0]
	for range chain { // which may hold a circle
		next := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return !c.Equal(last) && last.CheckSignatureFrom(c) == nil })
		if next < 0 {
			break
		}
		last = chain[next]
	}
	issuer := distinguishedName(last.RawIssuer)
	own := last.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) == nil
	named := func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, last.RawIssuer) }
	switch {
	case own:
		return fmt.Errorf("the chain ends at %q, which is its own issuer and not a certificate of the enrollment", issuer)
	case slices.ContainsFunc(slices.Concat(chain, signing), named):
		return fmt.Errorf("the known certificate of %q may not vouch for %q, or another of that name did",
			issuer, distinguishedName(last.RawSubject))
	}
	return fmt.Errorf("the device did not send the certificate of %q, which issued %q: send the intermediates after the leaf",
		issuer, distinguishedName(last.RawSubject))
}

// ParseRequest reads a certificate signing request, as DER in base64 without the lines of PEM, for the device of a
// registration ID, which its common name must be.
func ParseRequest(text, registrationID string) (*x509.CertificateRequest, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("it is not base64 of DER, without the BEGIN and END lines of PEM")
	}
	request, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("it is not a certificate signing request: %w", err)
	}
	if name := request.Subject.CommonName; name != registrationID {
		return nil, fmt.Errorf("its common name is %q, which is not the registration ID %q", name, registrationID)
	}
	return request, nil
}
