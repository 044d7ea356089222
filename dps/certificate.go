package dps

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// maxCertificateText bounds what ParseCertificate reads, in bytes. A leaf certificate with a 4096-bit RSA key and
// generous extensions has about 3 KB in DER, hence about 4 KB in base64; this allows four times as much.
const maxCertificateText = 16 << 10

// Certificate is what a rule can see of a device's X.509 certificate. It has no key material. What DPS also reports of
// an enrollment's certificate (X509CertificateInfo) has the same form.
type Certificate struct {
	Subject, Issuer CertificateName

	// SerialNumber in upper-case hexadecimal, two digits a byte, without separators.
	SerialNumber string
	// Version of X.509: 1, 2 or 3.
	Version int
	// NotBefore and NotAfter bound the validity, in UTC with whole seconds. They are not compared with the time: DPS
	// has authenticated the device.
	NotBefore, NotAfter time.Time

	// DNSNames and URIs of the subject's alternative name, nil without any.
	DNSNames, URIs []string

	// SHA1Thumbprint and SHA256Thumbprint of the DER in upper-case hexadecimal.
	SHA1Thumbprint, SHA256Thumbprint string
}

// CertificateName has the common attributes of a distinguished name. Attributes that can occur several times keep the
// certificate's order; absent ones are nil or "".
type CertificateName struct {
	CommonName         string
	SerialNumber       string
	Organization       []string
	OrganizationalUnit []string
	Country            []string
	Province           []string
	Locality           []string
}

// DeviceCertificate is the certificate that a device showed. It is parsed when it is first asked for, and once.
type DeviceCertificate struct {
	// Text is as DPS sent it.
	Text string

	once        sync.Once
	certificate *Certificate
	err         error
}

// Parse returns what [ParseCertificate] returns for the text.
func (c *DeviceCertificate) Parse() (*Certificate, error) {
	c.once.Do(func() { c.certificate, c.err = ParseCertificate(c.Text) })
	return c.certificate, c.err
}

// ParseCertificate reads a certificate from text: DER in base64 as DPS sends it in
// deviceRuntimeContext.x509.clientCertificate, with or without line breaks, or PEM. Of several PEM blocks it takes the
// first certificate, which in a chain is the leaf. It refuses a text of more than 16 KiB.
//
// It checks only the form of the certificate, not the signature, the chain or the dates. Errors do not quote the text,
// which may be a private key sent by mistake.
func ParseCertificate(text string) (*Certificate, error) {
	if len(text) > maxCertificateText {
		return nil, fmt.Errorf("certificate text has %d bytes, at most %d are read", len(text), maxCertificateText)
	}
	der, err := certificateDER(text)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		// crypto/x509 quotes parts of the certificate in some of its errors.
		reason, _, _ := strings.Cut(err.Error(), `"`)
		return nil, fmt.Errorf("certificate does not parse: %s", strings.TrimSpace(strings.TrimPrefix(reason, "x509: ")))
	}
	uris := make([]string, 0, len(c.URIs))
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	if len(uris) == 0 {
		uris = nil
	}
	serial := c.SerialNumber.Bytes()
	if len(serial) == 0 {
		serial = []byte{0} // zero is not allowed as a serial number, but occurs
	}
	return &Certificate{
		Subject:          certificateName(c.Subject),
		Issuer:           certificateName(c.Issuer),
		SerialNumber:     fmt.Sprintf("%X", serial),
		Version:          c.Version,
		NotBefore:        c.NotBefore.UTC(),
		NotAfter:         c.NotAfter.UTC(),
		DNSNames:         c.DNSNames,
		URIs:             uris,
		SHA1Thumbprint:   fmt.Sprintf("%X", sha1.Sum(c.Raw)),
		SHA256Thumbprint: fmt.Sprintf("%X", sha256.Sum256(c.Raw)),
	}, nil
}

// certificateDER decodes the text.
func certificateDER(text string) ([]byte, error) {
	if strings.Contains(text, "-----BEGIN ") {
		for rest := []byte(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return nil, errors.New("certificate text is PEM without a readable CERTIFICATE block")
			}
			if block.Type == "CERTIFICATE" {
				return block.Bytes, nil
			}
		}
	}
	// The decoder skips line breaks, but not blanks and tabs.
	text = strings.Join(strings.Fields(text), "")
	if text == "" {
		return nil, errors.New("certificate text is empty")
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("certificate text is neither PEM nor base64: %w", err) // names an offset, no content
	}
	return der, nil
}

func certificateName(n pkix.Name) CertificateName {
	return CertificateName{
		CommonName:         n.CommonName,
		SerialNumber:       n.SerialNumber,
		Organization:       n.Organization,
		OrganizationalUnit: n.OrganizationalUnit,
		Country:            n.Country,
		Province:           n.Province,
		Locality:           n.Locality,
	}
}
