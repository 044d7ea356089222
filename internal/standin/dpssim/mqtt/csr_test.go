package mqtt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// TestCertificateOnRequest registers with a certificate signing request, and connects to the hub with the certificate
// that was issued.
func TestCertificateOnRequest(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	effects := map[string]chan struct{}{dpssim.TransportMQTT: make(chan struct{}), dpssim.TransportMQTTWS: make(chan struct{})}
	f := newFixtureWith(t, store.Memory(), func(c *dpssim.Config, g *model.EnrollmentGroup) {
		c.Certify, g.CertificatePolicyName = authority.Certify, "floor-1"
		c.OnEntry = func(e dpssim.Entry) {
			if e.Kind == dpssim.KindEffect {
				close(effects[e.Transport])
			}
		}
	})
	transports(t, f, func(t *testing.T, url, transport string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		id := "press-" + transport
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id}}, key)
		if err != nil {
			t.Fatal(err)
		}
		l := dpsLogin(id)
		l.username = strings.Replace(l.username, "2019-03-31", "2026-11-01", 1)
		d := f.connect(t, url, l)
		d.subscribe(t, "$dps/registrations/res/#", 1)
		body, _ := json.Marshal(model.RegistrationRequest{RegistrationID: id, CSR: base64.StdEncoding.EncodeToString(csr)})
		d.publish(t, "$dps/registrations/PUT/iotdps-register/?$rid=1", string(body), 1)
		var status model.RegistrationOperationStatus
		if got := d.receive(t); json.Unmarshal([]byte(got.Body), &status) != nil || status.Status != "assigning" {
			t.Fatalf("got %+v", got)
		}
		select {
		case <-effects[transport]:
		case <-time.After(patience):
			t.Fatal("the registration did not end")
		}
		d.publish(t, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+status.OperationID, "", 1)
		got := d.receive(t)
		if err := json.Unmarshal([]byte(got.Body), &status); err != nil || status.Status != "assigned" {
			t.Fatalf("got %+v, %v", got, err)
		}
		d.Disconnect(100)

		toHub := login{clientID: id, username: hubA + "/" + id + "/?api-version=2021-04-12",
			certificate: &tls.Certificate{Certificate: status.RegistrationState.IssuedCertificateChain, PrivateKey: key}}
		f.connect(t, url, toHub)
	})
}
