package web_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

// TestCertificateOnRequest registers with a certificate signing request over HTTPS, by the versions that have it and by
// one that does not, and looks up the registration.
func TestCertificateOnRequest(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	device, _ := newCertificate(t, "d1", nil)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "d1"}}, device.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(map[string]string{"registrationId": "d1", "csr": base64.StdEncoding.EncodeToString(der)})
	for version, wantChain := range map[string]int{"2021-10-01": 0, "2025-07-01-preview": 2, "2026-11-01": 2, "2026-11-02-preview": 2} {
		ended := make(chan struct{})
		s := newStand(t, func(c *dpssim.Config) {
			c.Certify = authority.Certify
			c.OnEntry = func(e dpssim.Entry) {
				if e.Kind == dpssim.KindEffect {
					close(ended)
				}
			}
		})
		s.manageIn("2026-11-01", "PUT", "/enrollments/d1", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+policyKey+
			`"}},"allocationPolicy":"hashed","certificatePolicyName":"floor-1"}`).want(200)
		key, _ := base64.StdEncoding.DecodeString(policyKey)
		header := map[string]string{"Authorization": attest.NewToken(attest.DeviceResource(scope, "d1"), key, time.Now().Add(time.Hour), "registration")}
		base := "https://" + dps + "/" + scope + "/registrations/d1"
		begun := s.call(s.client, "PUT", base+"/register?api-version="+version, string(body), header).want(202)
		<-ended
		state := s.call(s.client, "GET", begun.header.Get("Location"), "", header).want(200).json()["registrationState"].(map[string]any)
		chain, _ := state["issuedCertificateChain"].([]any)
		if state["status"] != "assigned" || len(chain) != wantChain {
			t.Errorf("%s: got %v", version, state)
		}
		if wantChain == 0 {
			continue
		}
		leaf, err := attest.ParseCertificate(chain[0].(string))
		if err != nil || leaf.Subject.CommonName != "d1" {
			t.Errorf("%s: %v", version, err)
		}
		lookUp := base + "?api-version=" + version
		s.call(s.client, "POST", lookUp, string(body), header).refused(400, 400004)
		if found := s.call(s.client, "POST", lookUp, `{"registrationId":"d1"}`, header).want(200).json(); found["issuedCertificateChain"] != nil || found["status"] != "assigned" {
			t.Errorf("%s: the look-up says %v", version, found)
		}
		// The hub's API shows that the issued certificate is the one that the hub takes.
		hubHost := state["assignedHub"].(string)
		shown := s.call(s.client, "GET", "https://"+hubHost+"/devices/d1?api-version=2021-04-12", "", map[string]string{
			"Authorization": serviceToken(hubHost, "iothubowner"),
		}).want(200).json()["authentication"].(map[string]any)
		if thumbprints := shown["x509Thumbprint"].(map[string]any); thumbprints["primaryThumbprint"] != attest.SHA256Thumbprint(leaf) {
			t.Errorf("%s: the hub knows %v", version, shown)
		}
	}
}
