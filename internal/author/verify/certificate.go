package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"slices"
	"time"
)

// subject is what a generated certificate says about a device.
type subject struct {
	organizations, units []string
	commonName           string
	dnsNames             []string
	expired              bool
	serial               int64 // 0 counts as 2
}

// certificateOf returns a self-signed certificate, in base64 of DER; "" if X.509 cannot express the subject. It is the
// same for the same subject, because Ed25519 signatures are deterministic, and the key and the dates are fixed.
func certificateOf(s subject) string {
	if s.serial == 0 {
		s.serial = 2
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(s.serial),
		Subject:      pkix.Name{CommonName: s.commonName, Organization: s.organizations, OrganizationalUnit: s.units},
		NotBefore:    time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2044, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(s.serial)),
		DNSNames:     s.dnsNames,
	}
	if s.expired {
		template.NotBefore = time.Date(2014, 1, 1, 0, 0, 0, 0, time.UTC)
		template.NotAfter = time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(der)
}

// leaves lists the attributes of the certificate. Setting one makes a new certificate.
func (s *subject) leaves() []leaf {
	var list []leaf
	add := func(value string, set func(s *subject, text string)) {
		list = append(list, leaf{value, func(d *draft, value any) bool {
			text, ok := value.(string)
			if !ok || text == "" || len(text) > 64 {
				return false
			}
			changed := *d.attestation.subject
			set(&changed, text)
			enrolled := d.attestation.enrolled
			d.attestation = certified(changed)
			d.attestation.enrolled = enrolled
			return d.attestation.certificate != ""
		}})
	}
	for i, text := range s.organizations {
		add(text, func(s *subject, text string) {
			s.organizations = slices.Clone(s.organizations)
			s.organizations[i] = text
		})
	}
	for i, text := range s.units {
		add(text, func(s *subject, text string) {
			s.units = slices.Clone(s.units)
			s.units[i] = text
		})
	}
	add(s.commonName, func(s *subject, text string) { s.commonName = text })
	for i, text := range s.dnsNames {
		add(text, func(s *subject, text string) {
			s.dnsNames = slices.Clone(s.dnsNames)
			s.dnsNames[i] = text
		})
	}
	return list
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
	again := certificateOf(subject{organizations: c.Subject.Organization, units: c.Subject.OrganizationalUnit,
		commonName: c.Subject.CommonName, dnsNames: c.DNSNames, expired: c.NotAfter.Year() < 2024, serial: c.SerialNumber.Int64() + 1 + int64(n)})
	return again, again != ""
}
