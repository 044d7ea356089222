package dps_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
)

// newCertificate makes the DER of a self-signed certificate with the template's names.
func newCertificate(t testing.TB, template *x509.Certificate) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func deviceTemplate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(0x0abcde),
		Subject: pkix.Name{
			CommonName:         "device-1",
			SerialNumber:       "SN-7",
			Organization:       []string{"Contoso", "Fabrikam"},
			OrganizationalUnit: []string{"model-x"},
			Country:            []string{"DE"},
			Province:           []string{"Bavaria"},
			Locality:           []string{"Munich"},
		},
		NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)),
		NotAfter:  time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC),
		DNSNames:  []string{"device-1.example.com"},
		URIs:      []*url.URL{{Scheme: "urn", Opaque: "device:1"}},
	}
}

func TestParseCertificateReadsEveryField(t *testing.T) {
	t.Parallel()
	der := newCertificate(t, deviceTemplate())
	name := dps.CertificateName{
		CommonName:         "device-1",
		SerialNumber:       "SN-7",
		Organization:       []string{"Contoso", "Fabrikam"},
		OrganizationalUnit: []string{"model-x"},
		Country:            []string{"DE"},
		Province:           []string{"Bavaria"},
		Locality:           []string{"Munich"},
	}
	s1, s256 := sha1.Sum(der), sha256.Sum256(der)
	want := &dps.Certificate{
		Subject:          name,
		Issuer:           name,
		SerialNumber:     "0ABCDE",
		Version:          3,
		NotBefore:        time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
		NotAfter:         time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC),
		DNSNames:         []string{"device-1.example.com"},
		URIs:             []string{"urn:device:1"},
		SHA1Thumbprint:   strings.ToUpper(hex.EncodeToString(s1[:])),
		SHA256Thumbprint: strings.ToUpper(hex.EncodeToString(s256[:])),
	}
	got, err := dps.ParseCertificate(base64.StdEncoding.EncodeToString(der))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseCertificate (-want +got):\n%s", diff)
	}
}

// The thumbprints and the serial number come out as DPS writes them in the enrollment of the same certificate, which
// openssl computed for the example.
func TestParseCertificateAgreesWithCertificateInfo(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile("../examples/requests/constructed-12-individual-x509-initial.json")
	if err != nil {
		t.Fatal(err)
	}
	var request struct {
		IndividualEnrollment struct {
			Attestation struct {
				X509 struct {
					ClientCertificates struct {
						Primary struct {
							Info struct {
								SHA1Thumbprint   string    `json:"sha1Thumbprint"`
								SHA256Thumbprint string    `json:"sha256Thumbprint"`
								NotBefore        time.Time `json:"notBeforeUtc"`
								NotAfter         time.Time `json:"notAfterUtc"`
							}
						}
					}
				}
			}
		}
		DeviceRuntimeContext struct {
			X509 struct{ ClientCertificate string }
		}
	}
	if err := json.Unmarshal(body, &request); err != nil {
		t.Fatal(err)
	}
	got, err := dps.ParseCertificate(request.DeviceRuntimeContext.X509.ClientCertificate)
	if err != nil {
		t.Fatal(err)
	}
	info := request.IndividualEnrollment.Attestation.X509.ClientCertificates.Primary.Info
	if got.SHA1Thumbprint != info.SHA1Thumbprint || got.SHA256Thumbprint != info.SHA256Thumbprint ||
		!got.NotBefore.Equal(info.NotBefore) || !got.NotAfter.Equal(info.NotAfter) {
		t.Errorf("ParseCertificate = %+v, the request's info is %+v", got, info)
	}
	if got.Subject.CommonName != "device-0042" || got.Issuer.CommonName != "Contoso IoT Intermediate CA EU-01" {
		t.Errorf("subject %+v, issuer %+v", got.Subject, got.Issuer)
	}
}

func TestParseCertificateInEveryEncoding(t *testing.T) {
	t.Parallel()
	der := newCertificate(t, deviceTemplate())
	other := newCertificate(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "ca"}})
	plain := base64.StdEncoding.EncodeToString(der)
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	var lines strings.Builder
	for i := 0; i < len(plain); i += 64 {
		lines.WriteString(plain[i:min(i+64, len(plain))] + "\r\n")
	}
	want, err := dps.ParseCertificate(plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"lines":         lines.String(),
		"blanks":        "  " + plain[:10] + " \t" + plain[10:] + "\n",
		"PEM":           block("CERTIFICATE", der),
		"PEM with text": "subject=CN = device-1\n" + block("CERTIFICATE", der),
		"chain":         block("CERTIFICATE", der) + block("CERTIFICATE", other),
		"key before":    block("EC PARAMETERS", []byte{6, 5, 43, 129, 4, 0, 34}) + block("CERTIFICATE", der),
		"PEM with CRLF": strings.ReplaceAll(block("CERTIFICATE", der), "\n", "\r\n"),
	} {
		got, err := dps.ParseCertificate(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseCertificateRefuses(t *testing.T) {
	t.Parallel()
	der := newCertificate(t, deviceTemplate())
	secret := "c2VjcmV0LWtleS1tYXRlcmlhbA=="
	for _, tc := range []struct {
		name, text, want string
	}{
		{"nothing", "", "certificate text is empty"},
		{"blank", " \n\t", "certificate text is empty"},
		{"too long", strings.Repeat("A", 16<<10+1), "certificate text has 16385 bytes, at most 16384 are read"},
		{"not base64", "not/base64!", "certificate text is neither PEM nor base64: illegal base64 data at input byte 10"},
		{"URL alphabet", base64.URLEncoding.EncodeToString([]byte{0xff, 0xff, 0xff}), "certificate text is neither PEM nor base64: illegal base64 data at input byte 0"},
		{"not DER", secret, "certificate does not parse: malformed certificate"},
		{"cut off", base64.StdEncoding.EncodeToString(der[:len(der)-1]), "certificate does not parse: malformed certificate"},
		{"bytes after", base64.StdEncoding.EncodeToString(append(der[:len(der):len(der)], 0)), "certificate does not parse: trailing data"},
		{"private key", "-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n", "certificate text is PEM without a readable CERTIFICATE block"},
		{"broken PEM", "-----BEGIN CERTIFICATE-----\n" + secret, "certificate text is PEM without a readable CERTIFICATE block"},
	} {
		got, err := dps.ParseCertificate(tc.text)
		if err == nil {
			t.Errorf("%s: parsed as %+v", tc.name, got)
			continue
		}
		if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// crypto/x509 quotes an alternative name that it cannot take; the error must not.
func TestParseCertificateDoesNotQuoteTheCertificate(t *testing.T) {
	t.Parallel()
	template := deviceTemplate()
	template.URIs = []*url.URL{{Scheme: "https", Host: "host-to-hide.example.com", Path: "/"}}
	der := newCertificate(t, template)
	// A blank inside makes the host's name invalid without changing any length.
	broken := strings.Replace(string(der), "host-to-hide", "host to-hide", 1)
	if broken == string(der) {
		t.Fatal("the certificate does not hold the name as text")
	}
	_, err := dps.ParseCertificate(base64.StdEncoding.EncodeToString([]byte(broken)))
	if err == nil {
		t.Fatal("parsed")
	}
	if strings.Contains(err.Error(), "hide") || !strings.Contains(err.Error(), "cannot parse URI") {
		t.Errorf("error %q should tell that a URI is wrong and not which", err)
	}
}

// Whatever the text: no panic, and a result only with what every certificate has.
func FuzzParseCertificate(f *testing.F) {
	der := newCertificate(f, deviceTemplate())
	f.Add(base64.StdEncoding.EncodeToString(der))
	f.Add(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	f.Add("MIIB\n AAA=")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := dps.ParseCertificate(text)
		if (c == nil) == (err == nil) {
			t.Fatalf("certificate %v with error %v", c, err)
		}
		if c != nil && (len(c.SHA256Thumbprint) != 64 || len(c.SHA1Thumbprint) != 40 || c.SerialNumber == "" || c.NotBefore.Location() != time.UTC) {
			t.Fatalf("incomplete: %+v", c)
		}
	})
}

func BenchmarkParseCertificate(b *testing.B) {
	text := base64.StdEncoding.EncodeToString(newCertificate(b, deviceTemplate()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dps.ParseCertificate(text); err != nil {
			b.Fatal(err)
		}
	}
}

// The certificate of a request is parsed once, also for a copy of the request.
func TestDeviceCertificate(t *testing.T) {
	t.Parallel()
	body := exampleRequests(t)["constructed-11-group-x509-signing-initial.json"]
	request := parse(t, string(body))
	first, err := request.Certificate().Parse()
	if err != nil {
		t.Fatal(err)
	}
	want, err := dps.ParseCertificate(request.Certificate().Text)
	if diff := cmp.Diff(want, first); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if again, err := request.RegisteredOn("h", "d").Certificate().Parse(); err != nil || again != first {
		t.Errorf("it is parsed again: %p, %p, %v", first, again, err)
	}
	if parse(t, `{"deviceRuntimeContext":{"x509":{}}}`).Certificate() != nil {
		t.Error("there is a certificate where there is none")
	}
	for range 2 {
		if _, err := parse(t, `{"deviceRuntimeContext":{"x509":{"clientCertificate":"x"}}}`).Certificate().Parse(); err == nil {
			t.Error("no error")
		}
	}
}
