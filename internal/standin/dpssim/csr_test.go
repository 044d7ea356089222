package dpssim_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

const csrAPI = "2026-11-01"

// newCSR is a certificate signing request as a device sends it.
func newCSR(t *testing.T, commonName string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// newCSRRig has an authority for devices.
func newCSRRig(t *testing.T, change func(*dpssim.Config)) (*rig, *pki.Authority) {
	t.Helper()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, func(c *dpssim.Config) {
		c.Certify = authority.Certify
		if change != nil {
			change(c)
		}
	}), authority
}

func issuing(g *model.EnrollmentGroup) { g.CertificatePolicyName = "floor-1" }

func csrDevice(id string) dpssim.Caller {
	caller := groupDevice(id)
	caller.APIVersion = csrAPI
	return caller
}

// TestCertificateOnRequest checks what a device, a service client, a webhook and the hub see of an issued certificate.
func TestCertificateOnRequest(t *testing.T) {
	t.Parallel()
	r, authority := newCSRRig(t, nil)
	r.putGroup(customGroup(issuing))
	caller := csrDevice("Press-1")
	chainOf := func(state *model.DeviceRegistrationState) (chain []*x509.Certificate) {
		for _, der := range state.IssuedCertificateChain {
			certificate, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, certificate)
		}
		return chain
	}
	status := r.register(caller, model.RegistrationRequest{CSR: newCSR(t, "Press-1")})
	chain := chainOf(status.RegistrationState)
	if len(chain) != 2 || chain[0].Subject.CommonName != "Press-1" || chain[0].IsCA || !chain[1].Equal(authority.Devices().Certificate) {
		t.Fatalf("got %+v", status)
	}
	for i, certificate := range chain {
		if err := certificate.CheckSignatureFrom(chain[min(i+1, len(chain)-1)]); err != nil {
			t.Errorf("certificate %d: %v", i, err)
		}
	}
	if err := r.hubs.AuthenticateDevice(hubA, "Press-1", "", chain[:1]); err != nil {
		t.Errorf("the issued certificate does not connect: %v", err)
	}

	if state, err := r.LookUp(caller, model.RegistrationRequest{}); err != nil || state.Status != "assigned" || state.IssuedCertificateChain != nil {
		t.Errorf("look-up: %+v, %v", state, err)
	}
	_, err := r.LookUp(caller, model.RegistrationRequest{CSR: newCSR(t, "Press-1")})
	if refusal := refused(t, err, 400004); refusal.Status != 400 || !strings.Contains(refusal.Message, "csr") {
		t.Errorf("look-up with a csr: %v", refusal)
	}
	if state, err := r.Registration("press-1"); err != nil || state.IssuedCertificateChain != nil {
		t.Errorf("service API: %+v, %v", state, err)
	}
	if again, err := r.Operation(groupDevice("Press-1"), status.OperationID); err != nil || again.Status != "assigned" || again.RegistrationState.IssuedCertificateChain != nil {
		t.Errorf("a version without the member: %+v, %v", again, err)
	}
	if again, err := r.Operation(caller, status.OperationID); err != nil || len(again.RegistrationState.IssuedCertificateChain) != 2 {
		t.Errorf("polled again: %+v, %v", again, err)
	}
	if got := r.hook.lastRequest(t).DeviceRuntimeContext; got.CSR != "" || got.X509 != nil || got.SymmetricKey == nil {
		t.Errorf("the webhook sees %+v", got)
	}

	// A new request renews: the hub then knows only the new certificate.
	renewed := chainOf(r.register(caller, model.RegistrationRequest{CSR: newCSR(t, "Press-1")}).RegistrationState)
	if r.hubs.AuthenticateDevice(hubA, "Press-1", "", renewed[:1]) != nil || r.hubs.AuthenticateDevice(hubA, "Press-1", "", chain[:1]) == nil {
		t.Error("the renewed certificate does not connect, or the one before does")
	}
	// Without a request, none is issued, and the hub knows what the device registered with.
	if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.IssuedCertificateChain != nil {
		t.Errorf("got %+v", state)
	}
	if r.hubs.AuthenticateDevice(hubA, "Press-1", "", renewed[:1]) == nil {
		t.Error("the certificate connects although the device registered without a request")
	}
}

// TestCSRRefused checks requests that are none, or for another device.
func TestCSRRefused(t *testing.T) {
	t.Parallel()
	good := newCSR(t, "press-1")
	der, _ := base64.StdEncoding.DecodeString(good)
	forged := append([]byte(nil), der...)
	forged[len(forged)-1] ^= 1
	r, _ := newCSRRig(t, nil)
	r.putGroup(customGroup(issuing))
	for name, c := range map[string]struct{ csr, says string }{
		"PEM":                  {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), "csr: it is not base64 of DER, without the BEGIN and END lines"},
		"no request":           {"AAAA", "csr: it is not a certificate signing request"},
		"another device":       {newCSR(t, "press-2"), `csr: its common name is "press-2", which is not the registration ID "press-1"`},
		"another letter case":  {newCSR(t, "PRESS-1"), "which is not the registration ID"},
		"no common name":       {newCSR(t, ""), `csr: its common name is ""`},
		"signed by no one":     {base64.StdEncoding.EncodeToString(forged), "csr: it is not a certificate signing request"},
		"something follows it": {base64.StdEncoding.EncodeToString(append(der, 0)), "csr: it is not a certificate signing request"},
	} {
		_, err := r.Register(csrDevice("press-1"), model.RegistrationRequest{CSR: c.csr})
		if refusal := refused(t, err, 400004); refusal.Status != 400 || !strings.Contains(refusal.Message, c.says) {
			t.Errorf("%s: got %v", name, refusal)
		}
	}
	old := groupDevice("press-1")
	if state := r.register(old, model.RegistrationRequest{CSR: "AAAA"}).RegistrationState; state.Status != "assigned" || state.IssuedCertificateChain != nil {
		t.Errorf("a version that has no csr: %+v", state)
	}
}

// TestCSRSettings checks the settings about what no one has published.
func TestCSRSettings(t *testing.T) {
	t.Parallel()
	csr := newCSR(t, "press-1")
	request := model.RegistrationRequest{CSR: csr}
	r, _ := newCSRRig(t, func(c *dpssim.Config) { c.Behaviour.CSRInWebhook = true })
	r.putGroup(customGroup(issuing))
	r.register(csrDevice("press-1"), request)
	if got := r.hook.lastRequest(t).DeviceRuntimeContext.CSR; got != csr {
		t.Errorf("the webhook sees %q", got)
	}

	r.putGroup(customGroup(nil))
	_, err := r.Register(csrDevice("press-1"), request)
	if refusal := refused(t, err, 400004); !strings.Contains(refusal.Message, "set its certificatePolicyName") {
		t.Errorf("got %v", refusal)
	}
	for setting, want := range map[string]int{dpssim.CSRIgnored: 0, dpssim.CSRIssued: 2} {
		r, _ := newCSRRig(t, func(c *dpssim.Config) { c.Behaviour.CSRWithoutPolicy = setting })
		r.putGroup(customGroup(nil))
		if state := r.register(csrDevice("press-1"), request).RegistrationState; state.Status != "assigned" || len(state.IssuedCertificateChain) != want {
			t.Errorf("%s: got %+v", setting, state)
		}
	}
	bare := newRig(t, nil)
	bare.putGroup(customGroup(issuing))
	_, err = bare.Register(csrDevice("press-1"), request)
	if refusal := refused(t, err, 400004); !strings.Contains(refusal.Message, "no authority") {
		t.Errorf("got %v", refusal)
	}
}
