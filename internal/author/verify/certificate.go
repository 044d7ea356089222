package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"time"
)

// subject is what a generated certificate says about a device.
type subject struct {
	organizations, units []string
	commonName           string
	dnsNames             []string
}

// certificateOf returns a self-signed certificate, in base64 of DER. It is the same for the same subject and serial
// number, because Ed25519 signatures are deterministic, and the key and the dates are fixed.
func certificateOf(s subject, serial int64) string {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: s.commonName, Organization: s.organizations, OrganizationalUnit: s.units},
		NotBefore:    time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2044, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(serial)),
		DNSNames:     s.dnsNames,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return "" // X.509 cannot express the subject; the caller leaves it out
	}
	return base64.StdEncoding.EncodeToString(der)
}

// renewed returns a copy of a certificate with another serial number and other dates, as after its nth renewal. It
// returns false if the text is not a certificate.
func renewed(text string, n int) (string, bool) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", false
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "", false
	}
	s := subject{c.Subject.Organization, c.Subject.OrganizationalUnit, c.Subject.CommonName, c.DNSNames}
	again := certificateOf(s, c.SerialNumber.Int64()+1+int64(n))
	return again, again != ""
}
