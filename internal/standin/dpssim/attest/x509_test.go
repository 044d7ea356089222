package attest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
)

type link struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func issue(t *testing.T, issuer *link, name string, ca bool, from, to time.Time) *link {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xABCDEF),
		Subject:      pkix.Name{Country: []string{"US"}, Organization: []string{"Contoso, Ltd"}, CommonName: name},
		NotBefore:    from, NotAfter: to, IsCA: ca, BasicConstraintsValid: true,
	}
	parent := &link{template, key}
	if issuer != nil {
		parent = issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &link{certificate, key}
}

func TestVerifyChain(t *testing.T) {
	t.Parallel()
	now := time.Now()
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	root := issue(t, nil, "root", true, from, to)
	intermediate := issue(t, root, "intermediate", true, from, to)
	leaf := issue(t, intermediate, "device-1", false, from, to)
	direct := issue(t, root, "device-1", false, from, to)
	stranger := issue(t, nil, "root", true, from, to)
	expired := issue(t, intermediate, "device-1", false, now.Add(-3*time.Hour), now.Add(-2*time.Hour))
	noCA := issue(t, direct, "device-1", false, from, to)

	for name, c := range map[string]struct {
		chain, signing []*link
		want           *link  // nil for none
		says           string // then
	}{
		"by the root, intermediate sent":    {[]*link{leaf, intermediate}, []*link{root}, root, ""},
		"by the root, whole chain sent":     {[]*link{leaf, intermediate, root}, []*link{root}, root, ""},
		"by the intermediate":               {[]*link{leaf}, []*link{intermediate}, intermediate, ""},
		"by the second of two":              {[]*link{direct}, []*link{stranger, root}, root, ""},
		"by both, the nearest counts":       {[]*link{leaf, intermediate, root}, []*link{root, intermediate}, intermediate, ""},
		"intermediate not sent":             {[]*link{leaf}, []*link{root}, nil, `the device did not send the certificate of "CN=intermediate, O=Contoso\\, Ltd, C=US", which issued "CN=device-1, O=Contoso\\, Ltd, C=US": send the intermediates`},
		"a root of the same name":           {[]*link{leaf, intermediate}, []*link{stranger}, nil, `the known certificate of "CN=root`},
		"expired":                           {[]*link{expired, intermediate}, []*link{root}, nil, "expired"},
		"root sent, of no enrollment":       {[]*link{leaf, intermediate, root}, []*link{stranger}, nil, `the chain ends at "CN=root`},
		"certificates of others sent":       {[]*link{leaf, stranger, direct}, []*link{root}, nil, `did not send the certificate of "CN=intermediate`},
		"signed by a device":                {[]*link{noCA, direct}, []*link{root}, nil, `the known certificate of "CN=device-1`},
		"the signing certificate as device": {[]*link{root}, []*link{root}, nil, "a signing certificate as its own"},
		"no certificate":                    {nil, []*link{root}, nil, "presented no certificate"},
	} {
		got, err := attest.VerifyChain(certificates(c.chain), certificates(c.signing), now)
		switch {
		case c.want == nil && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v, want %s", name, err, c.says)
		case c.want != nil && (err != nil || !got.Equal(c.want.Certificate)):
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func certificates(links []*link) (list []*x509.Certificate) {
	for _, l := range links {
		list = append(list, l.Certificate)
	}
	return list
}

func TestCheckLeaf(t *testing.T) {
	t.Parallel()
	now := time.Now()
	leaf := issue(t, nil, "Device-1", false, now.Add(-time.Hour), now.Add(time.Hour)).Certificate
	for _, c := range []struct {
		id   string
		at   time.Time
		want string
	}{
		{"device-1", now, ""},
		{"device-2", now, `common name is "Device-1"`},
		{"device-1", now.Add(2 * time.Hour), "expired at"},
		{"device-1", now.Add(-2 * time.Hour), "not valid before"},
	} {
		err := attest.CheckLeaf(leaf, c.id, c.at)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s at %s: got %v, want %q", c.id, c.at, err, c.want)
		}
	}
}

func TestParseCertificate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	certificate := issue(t, nil, "x", true, now, now.Add(time.Hour)).Certificate
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	encoded := base64.StdEncoding.EncodeToString(certificate.Raw)
	for name, form := range map[string]string{
		"PEM":                     text,
		"PEM in base64":           base64.StdEncoding.EncodeToString([]byte(text)),
		"base64":                  encoded,
		"base64 with line breaks": encoded[:64] + "\r\n" + encoded[64:] + "\n",
	} {
		if got, err := attest.ParseCertificate(form); err != nil || !got.Equal(certificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for form, want := range map[string]string{
		"":     "cannot be read",
		"%":    "neither PEM nor base64",
		"AAAA": "cannot be read",
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})): "is a PRIVATE KEY",
	} {
		if _, err := attest.ParseCertificate(form); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", form, err, want)
		}
	}
}

// TestCertificateInfo checks that names are written as .NET does, as in captured enrollments: most specific part first.
func TestCertificateInfo(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root := issue(t, nil, "Contoso Root", true, now, now.Add(time.Hour))
	info := attest.CertificateInfo(issue(t, root, "device-1", false, now, now.Add(time.Hour)).Certificate)
	if want := `CN=device-1, O=Contoso\, Ltd, C=US`; info.SubjectName != want {
		t.Errorf("subject %q, want %q", info.SubjectName, want)
	}
	if want := `CN=Contoso Root, O=Contoso\, Ltd, C=US`; info.IssuerName != want {
		t.Errorf("issuer %q, want %q", info.IssuerName, want)
	}
	if info.SerialNumber != "ABCDEF" || info.Version != 3 || len(info.SHA1Thumbprint) != 40 || len(info.SHA256Thumbprint) != 64 ||
		strings.ToUpper(info.SHA256Thumbprint) != info.SHA256Thumbprint {
		t.Errorf("got %+v", info)
	}
}
