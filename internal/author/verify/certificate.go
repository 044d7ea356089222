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

// maxAttribute is the length that X.520 allows for an attribute of a subject.
const maxAttribute = 64

// subject is what a generated certificate says about a device.
type subject struct {
	organizations, units []string
	commonName           string
	dnsNames             []string
	until                time.Time // when it expires; zero stands for the year 2044
	serial               int64     // 0 counts as 2
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
		NotBefore:    s.end().AddDate(-20, 0, 0),
		NotAfter:     s.end(),
		DNSNames:     s.dnsNames,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(der)
}

// end is when the certificate expires.
func (s subject) end() time.Time {
	if s.until.IsZero() {
		return time.Date(2044, 1, 3, 0, 0, 0, 0, time.UTC)
	}
	return s.until
}

// leaves lists the attributes of the certificate. Setting one makes a new certificate.
func (s *subject) leaves() []leaf {
	var list []leaf
	change := func(d *draft, set func(s *subject)) bool {
		changed := *d.attestation.subject
		set(&changed)
		enrolled := d.attestation.enrolled
		d.attestation = certified(changed)
		d.attestation.enrolled = enrolled
		return d.attestation.certificate != ""
	}
	add := func(value string, set func(s *subject, text string)) {
		list = append(list, leaf{value, func(d *draft, value any) bool {
			text, ok := value.(string)
			return ok && text != "" && len(text) <= maxAttribute && change(d, func(s *subject) { set(s, text) })
		}})
	}
	addList := func(texts []string, set func(s *subject, texts []string)) {
		values := make([]any, len(texts))
		for i, text := range texts {
			values[i] = text
		}
		list = append(list, leaf{values, func(d *draft, value any) bool {
			elements, ok := value.([]any)
			texts := textsIn(elements)
			return ok && len(texts) == len(elements) && change(d, func(s *subject) { set(s, texts) })
		}})
	}
	addList(s.organizations, func(s *subject, texts []string) { s.organizations = texts })
	addList(s.units, func(s *subject, texts []string) { s.units = texts })
	addList(s.dnsNames, func(s *subject, texts []string) { s.dnsNames = texts })
	list = append(list, leaf{s.end().Format(time.RFC3339), func(d *draft, value any) bool {
		text, _ := value.(string)
		until, err := time.Parse(time.RFC3339, text)
		return err == nil && until.Year() > 1970 && until.Year() < 2200 && change(d, func(s *subject) { s.until = until })
	}})
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
		commonName: c.Subject.CommonName, dnsNames: c.DNSNames, until: c.NotAfter.AddDate(1+n, 0, n), serial: c.SerialNumber.Int64() + 1 + int64(n)})
	return again, again != ""
}
