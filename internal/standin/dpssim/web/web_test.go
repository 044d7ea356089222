package web_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
	"github.com/usher-dps/usher/internal/standin/dpssim/web"
)

const (
	scope = "0ne00ABCDEF"
	dps   = "usher.azure-devices-provisioning.net"
	hubA  = "contoso-hub-a.azure-devices.net"
	hubB  = "contoso-hub-b.azure-devices.net"
)

var policyKey = base64.StdEncoding.EncodeToString([]byte("the service's key of 32 bytes..."))

// stand is a complete stand-in over TLS on a local port.
type stand struct {
	t       *testing.T
	service *dpssim.Service
	address string
	client  *http.Client
}

func newStand(t *testing.T, change func(*dpssim.Config)) *stand {
	t.Helper()
	state := store.Memory()
	config := dpssim.Config{
		IDScope:  scope,
		Hubs:     []dpssim.LinkedHub{{HostName: hubA}, {HostName: hubB}},
		Policies: []dpssim.AccessPolicy{{Name: "owner", PrimaryKey: policyKey}},
	}
	if change != nil {
		change(&config)
	}
	hubs := hub.New(state, time.Now)
	service, err := dpssim.New(config, state, hubs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	server := httptest.NewUnstartedServer(web.New(web.Options{
		Service:   service,
		Hubs:      web.HubAPI(hubs, hub.Policy{Name: "iothubowner", PrimaryKey: policyKey}, hubA, hubB),
		WebSocket: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }),
	}))
	certificate, _ := newCertificate(t, "server", nil)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	s := &stand{t: t, service: service, address: server.Listener.Addr().String()}
	s.client = s.clientWith(nil)
	return s
}

// clientWith reaches the stand under any host name and presents these certificates.
func (s *stand) clientWith(certificates []tls.Certificate) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.address)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates},
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func newCertificate(t *testing.T, name string, issuer *tls.Certificate) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: issuer == nil, BasicConstraintsValid: true,
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// answer is a response.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

func (s *stand) call(client *http.Client, method, url, body string, header map[string]string) answer {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{s.t, response.StatusCode, response.Header, data}
}

func serviceToken(resource, policy string) string {
	key, _ := base64.StdEncoding.DecodeString(policyKey)
	return attest.NewToken(resource, key, time.Now().Add(time.Hour), policy)
}

// manage calls the service API as an owner. header is name, value, name, value.
func (s *stand) manage(method, path, body string, header ...string) answer {
	s.t.Helper()
	return s.manageIn("2021-10-01", method, path, body, header...)
}

// manageIn calls it in an API version.
func (s *stand) manageIn(version, method, path, body string, header ...string) answer {
	s.t.Helper()
	headers := map[string]string{"Authorization": serviceToken(dps, "owner"), "Content-Type": "application/json"}
	for i := 0; i < len(header); i += 2 {
		headers[header[i]] = header[i+1]
	}
	return s.call(s.client, method, "https://"+dps+path+"?api-version="+version, body, headers)
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("got %d %s, want %d", a.status, a.body, status)
	}
	return a
}

// refused expects an error body of DPS and returns its message.
func (a answer) refused(status, code int) string {
	a.t.Helper()
	a.want(status)
	var body struct {
		ErrorCode                         int
		TrackingID, Message, TimestampUTC string
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		a.t.Fatalf("%s: %v", a.body, err)
	}
	if body.ErrorCode != code || a.header.Get("x-ms-error-code") != strconv.Itoa(code) || body.TrackingID == "" || body.TimestampUTC == "" {
		a.t.Errorf("got %s with %v, want %d", a.body, a.header, code)
	}
	return body.Message
}

func (a answer) json() (document map[string]any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, &document); err != nil {
		a.t.Fatalf("%s: %v", a.body, err)
	}
	return document
}

func symmetricGroup(id string) string {
	return `{"enrollmentGroupId":"` + id + `","attestation":{"type":"symmetricKey"},"allocationPolicy":"hashed"}`
}

// TestDeviceOverHTTP registers as SDKs do, with the keys that the service made.
func TestDeviceOverHTTP(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	s.manage("PUT", "/enrollmentGroups/toasters", symmetricGroup("toasters")).want(200)
	keys := s.manage("POST", "/enrollmentgroups/toasters/attestationmechanism", "").want(200).json()["symmetricKey"].(map[string]any)
	groupKey, err := base64.StdEncoding.DecodeString(keys["primaryKey"].(string))
	if err != nil {
		t.Fatal(err)
	}
	const id = "device:1"
	header := map[string]string{
		"Authorization": attest.NewToken(attest.DeviceResource(scope, id), attest.DeriveKey(groupKey, id), time.Now().Add(time.Hour), "registration"),
		"Content-Type":  "application/json; charset=utf-8",
	}
	const global = "https://global.azure-devices-provisioning.net/"
	begun := s.call(s.client, "PUT", global+scope+"/registrations/device%3A1/register?api-version=2019-03-31", `{"registrationId":"device:1"}`, header).want(202)
	operation := begun.json()["operationId"].(string)
	if begun.json()["status"] != "assigning" || begun.header.Get("Retry-After") != "2" {
		t.Errorf("got %s, %v", begun.body, begun.header)
	}
	location := begun.header.Get("Location")
	if want := global + scope + "/registrations/device:1/operations/" + operation + "?api-version=2019-03-31"; location != want {
		t.Errorf("Location %s, want %s", location, want)
	}
	var ended answer
	for deadline := time.Now().Add(10 * time.Second); ; {
		ended = s.call(s.client, "GET", location, `{}`, header) // Node sends a body
		if ended.status != 202 || time.Now().After(deadline) {
			break
		}
		if ended.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	state := ended.want(200).json()["registrationState"].(map[string]any)
	if state["status"] != "assigned" || state["deviceId"] != id || !strings.HasSuffix(state["assignedHub"].(string), ".azure-devices.net") {
		t.Errorf("got %s", ended.body)
	}
	if got := s.call(s.client, "POST", global+scope+"/registrations/"+id+"?api-version=2021-10-01", `{}`, header).want(200).json(); got["assignedHub"] != state["assignedHub"] {
		t.Errorf("look-up: %v", got)
	}
	// The device is on the hub, which the hub's own API tells.
	hubHost := state["assignedHub"].(string)
	device := s.call(s.client, "GET", "https://"+hubHost+"/devices/device%3A1?api-version=2021-04-12", "", map[string]string{
		"Authorization": serviceToken(hubHost, "iothubowner"),
	}).want(200)
	if device.json()["deviceId"] != id {
		t.Errorf("got %s", device.body)
	}
	// And the service API tells of the registration, without what is for the device.
	registration := s.manage("GET", "/registrations/"+id, "").want(200).json()
	if registration["assignedHub"] != hubHost || registration["symmetricKey"] != nil {
		t.Errorf("got %v", registration)
	}
}

func TestDeviceRefusals(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	s.manage("PUT", "/enrollmentGroups/toasters", symmetricGroup("toasters")).want(200)
	base := "https://" + dps + "/" + scope + "/registrations/d1"
	bad := map[string]string{"Authorization": attest.NewToken(attest.DeviceResource(scope, "d1"), []byte("wrong"), time.Now().Add(time.Hour), "registration")}
	s.call(s.client, "PUT", base+"/register?api-version=2019-03-31", `{}`, bad).refused(401, 401002)
	s.call(s.client, "GET", base+"/operations/x?api-version=2019-03-31", ``, bad).refused(401, 401002)
	s.call(s.client, "PUT", base+"/register", `{}`, bad).refused(400, 400004)
	s.call(s.client, "PUT", base+"/register?api-version=2019-03-31", `{"payload":`, bad).refused(400, 400004)
	s.call(s.client, "PUT", base+"/register?api-version=2019-03-31", `{"payload":{"a":"`+strings.Repeat("x", 96<<10)+`"}}`, bad).refused(413, dpssim.CodeTooLarge)
	s.call(s.client, "PUT", "https://"+dps+"/other/registrations/d1/register?api-version=2019-03-31", `{}`, bad).refused(404, 404201)
	if got := s.call(s.client, "POST", base+"/register?api-version=2019-03-31", `{}`, bad); got.header.Get("Allow") != "PUT" {
		t.Errorf("Allow %q", got.header.Get("Allow"))
	} else {
		got.refused(405, dpssim.CodeMethodNotAllowed)
	}
	s.call(s.client, "GET", "https://"+dps+"/favicon.ico", ``, nil).refused(404, 404201)
	for _, entry := range s.service.Journal(0, 100, dpssim.JournalFilter{Kind: dpssim.KindRegister}).Entries {
		if entry.Status < 400 || entry.DPSEffect == "" {
			t.Errorf("got %+v", entry)
		}
	}
	if got := s.service.Journal(0, 100, dpssim.JournalFilter{Kind: dpssim.KindRegister}); len(got.Entries) != 7 {
		t.Errorf("%d calls are in the journal, want 7", len(got.Entries))
	}
}

// TestAttestationNone checks that an enrollment without attestation lets no device in.
func TestAttestationNone(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	s.manage("PUT", "/enrollments/d1", `{"attestation":{"type":"none"}}`).want(200)
	s.manage("PUT", "/enrollmentGroups/g", `{"attestation":{"type":"none"}}`).want(200)
	device, _ := newCertificate(t, "d1", nil)
	token := map[string]string{"Authorization": attest.NewToken(attest.DeviceResource(scope, "d1"), []byte(""), time.Now().Add(time.Hour), "registration")}
	for _, id := range []string{"d1", "d2"} {
		url := "https://" + dps + "/" + scope + "/registrations/" + id + "/register?api-version=2019-03-31"
		for name, got := range map[string]answer{
			"nothing":       s.call(s.client, "PUT", url, `{}`, nil),
			"a TPM":         s.call(s.client, "PUT", url, `{"tpm":{"endorsementKey":"AAAA","storageRootKey":"AAAA"}}`, nil),
			"a token":       s.call(s.client, "PUT", url, `{}`, token),
			"a certificate": s.call(s.clientWith([]tls.Certificate{device}), "PUT", url, `{}`, nil),
		} {
			if got.status != 401 && got.status != 404 {
				t.Errorf("%s with %s: got %d %s", id, name, got.status, got.body)
			}
		}
	}
}

// TestCertificateOverTLS checks that TLS proves that a device has the key of its certificate.
func TestCertificateOverTLS(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	ca, caPEM := newCertificate(t, "ca", nil)
	strangerCA, _ := newCertificate(t, "ca", nil)
	group, err := json.Marshal(map[string]any{
		"enrollmentGroupId": "x509", "allocationPolicy": "hashed",
		"attestation": map[string]any{"type": "x509", "x509": map[string]any{
			"signingCertificates": map[string]any{"primary": map[string]any{"certificate": caPEM}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	saved := s.manage("PUT", "/enrollmentGroups/x509", string(group)).want(200)
	if text := string(saved.body); strings.Contains(text, "BEGIN CERTIFICATE") || !strings.Contains(text, `"subjectName":"CN=ca"`) {
		t.Errorf("got %s: DPS tells what is in a certificate and never gives it back", text)
	}
	url := "https://" + dps + "/" + scope + "/registrations/d1/register?api-version=2019-03-31"
	device, _ := newCertificate(t, "d1", &ca)
	s.call(s.clientWith([]tls.Certificate{device}), "PUT", url, `{}`, nil).want(202)
	stranger, _ := newCertificate(t, "d1", &strangerCA)
	if message := s.call(s.clientWith([]tls.Certificate{stranger}), "PUT", url, `{}`, nil).refused(401, 401002); message != "Invalid certificate." {
		t.Errorf("got %q", message)
	}
	s.call(s.client, "PUT", url, `{}`, nil).refused(401, 401002)
	// What was read comes back and may be put back.
	s.manage("PUT", "/enrollmentGroups/x509", string(saved.body), "If-Match", saved.json()["etag"].(string)).want(200)
}

func TestEnrollmentsAndETags(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	for _, kind := range []struct{ path, id, document string }{
		{"/enrollments/", "registrationId", `{"registrationId":"One","deviceId":"D-1","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + policyKey + `"}},"capabilities":{"iotEdge":true}}`},
		{"/enrollmentGroups/", "enrollmentGroupId", `{"enrollmentGroupId":"One","attestation":{"type":"symmetricKey"},"capabilities":{"iotEdge":true}}`},
	} {
		path := kind.path + "One"
		s.manage("GET", path, "").refused(404, 404201)
		created := s.manage("PUT", path, kind.document).want(200).json()
		etag := created["etag"].(string)
		if !strings.HasPrefix(etag, `"`) || created[kind.id] != "One" || created["provisioningStatus"] != "enabled" ||
			created["createdDateTimeUtc"] == nil || fmt.Sprint(created["attestation"]) != "map[type:symmetricKey]" {
			t.Errorf("created %v", created)
		}
		if got := s.manage("GET", strings.ToLower(path), "").want(200).json(); got["etag"] != etag || got["reprovisionPolicy"] != nil {
			t.Errorf("got %v", got)
		}
		keys := s.manage("POST", path+"/attestationMechanism", "").want(200).json()["symmetricKey"].(map[string]any)
		if keys["primaryKey"] == "" || keys["secondaryKey"] == "" {
			t.Errorf("keys %v", keys)
		}

		if message := s.manage("PUT", path, kind.document).refused(409, 409201); message != "Enrollment already exists." {
			t.Errorf("got %q", message)
		}
		s.manage("PUT", path, kind.document, "If-Match", `"stale"`).refused(412, 412001)
		updated := s.manage("PUT", path, kind.document, "If-Match", etag).want(200).json()
		if updated["etag"] == etag || updated["createdDateTimeUtc"] != created["createdDateTimeUtc"] {
			t.Errorf("updated %v", updated)
		}
		if again := s.manage("POST", path+"/attestationmechanism", "").want(200).json()["symmetricKey"].(map[string]any); fmt.Sprint(again) != fmt.Sprint(keys) {
			t.Errorf("keys changed from %v to %v", keys, again)
		}
		if whatever := s.manage("PUT", path, kind.document, "If-Match", "*").want(200).json(); whatever["etag"] == updated["etag"] {
			t.Errorf("replaced %v", whatever)
		} else {
			updated = whatever
		}
		s.manage("PUT", kind.path+"Two", strings.ReplaceAll(kind.document, "One", "Two"), "If-Match", "*").refused(412, 412001)

		s.manage("DELETE", path, "", "If-Match", etag).refused(412, 412001)
		if deleted := s.manage("DELETE", path, "", "If-Match", updated["etag"].(string)).want(204); len(deleted.body) != 0 {
			t.Errorf("got %s", deleted.body)
		}
		s.manage("DELETE", path, "").refused(404, 404201)
		s.manage("POST", path+"/attestationmechanism", "").refused(404, 404201)
	}
}

// TestValidation checks that a refusal names the member.
func TestValidation(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	_, caPEM := newCertificate(t, "ca", nil)
	ca, err := json.Marshal(caPEM)
	if err != nil {
		t.Fatal(err)
	}
	const key = `"attestation":{"type":"symmetricKey"}`
	for _, c := range []struct{ path, document, want string }{
		{"/enrollments/a", `{"registrationId":"b",` + key + `}`, "registrationId"},
		{"/enrollments/a", `{}`, "attestation.type"},
		{"/enrollments/a", `{"attestation":{"type":"password"}}`, "attestation.type"},
		{"/enrollments/a", `{"attestation":{"type":"tpm"}}`, "attestation.tpm.endorsementKey"},
		{"/enrollments/a", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"AAAA"}}}`, "attestation.tpm"},
		{"/enrollments/a", `{"attestation":{"type":"x509"}}`, "attestation.x509"},
		{"/enrollments/a", `{"attestation":{"type":"x509","x509":{"clientCertificates":{}}}}`, "attestation.x509.clientCertificates.primary"},
		{"/enrollments/a", `{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"!"}}}}}`, "attestation.x509.clientCertificates.primary.certificate"},
		{"/enrollments/a", `{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":` + string(ca) + `}}}}}`, "attestation.x509.signingCertificates"},
		{"/enrollments/a", `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"nobody"}}}}`, "attestation.x509.caReferences.primary"},
		{"/enrollments/a", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"short"}}}`, "attestation.symmetricKey.primaryKey"},
		{"/enrollments/a", `{` + key + `,"deviceId":"a b"}`, "deviceId"},
		{"/enrollments/a", `{` + key + `,"optionalDeviceInformation":[]}`, "optionalDeviceInformation"},
		{"/enrollments/a", `{` + key + `,"provisioningStatus":"off"}`, "provisioningStatus"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"custom"}`, "customAllocationDefinition"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"custom","customAllocationDefinition":{"apiVersion":"1"}}`, "customAllocationDefinition.webhookUrl"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://x"}}`, "customAllocationDefinition.apiVersion"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://x","apiVersion":"2018-04-01"}}`, "customAllocationDefinition.apiVersion"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"static"}`, "iotHubHostName"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"random"}`, "allocationPolicy"},
		{"/enrollments/a", `{` + key + `,"iotHubs":["` + hubA + `"]}`, "allocationPolicy"},
		{"/enrollments/a", `{` + key + `,"allocationPolicy":"hashed","iotHubs":["` + hubA + `","x.azure-devices.net"]}`, "iotHubs[1]"},
		{"/enrollments/a", `{` + key + `,"iotHubHostName":"x.azure-devices.net"}`, "iotHubHostName"},
		{"/enrollments/a", `{` + key + `,"initialTwin":{"tags":1}}`, "initialTwin.tags"},
		{"/enrollments/a", `{` + key + `,"initialTwin":{"properties":{"desired":"x"}}}`, "initialTwin.properties.desired"},
		{"/enrollments/-a", `{` + key + `}`, "registrationId"},
		{"/enrollments/a", `{"attestation":`, "JSON"},
		{"/enrollments/a", `{"attestation":{"type":1}}`, "JSON"},
		{"/enrollmentGroups/g", `{"enrollmentGroupId":"h",` + key + `}`, "enrollmentGroupId"},
		{"/enrollmentGroups/g", `{"attestation":{"type":"tpm"}}`, "attestation.type"},
		{"/enrollmentGroups/g", `{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":` + string(ca) + `}}}}}`, "attestation.x509.clientCertificates"},
	} {
		if message := s.manage("PUT", c.path, c.document).refused(400, 400004); !strings.Contains(message, c.want) {
			t.Errorf("%s: got %q, want %s", c.document, message, c.want)
		}
	}
}

func TestServiceAuthorization(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	key, _ := base64.StdEncoding.DecodeString(policyKey)
	for name, token := range map[string]string{
		"none":           "",
		"another host":   serviceToken("other.azure-devices-provisioning.net", "owner"),
		"unknown policy": serviceToken(dps, "nobody"),
		"expired":        attest.NewToken(dps, key, time.Now().Add(-time.Second), "owner"),
		"wrong key":      attest.NewToken(dps, []byte("wrong"), time.Now().Add(time.Hour), "owner"),
		"no token":       "Bearer x",
	} {
		got := s.manage("GET", "/enrollments/a", "", "Authorization", token)
		if message := got.refused(401, 401000); message != "Unauthorized" {
			t.Errorf("%s: %q", name, message)
		}
		entries := s.service.Journal(0, 100, dpssim.JournalFilter{Kind: dpssim.KindService}).Entries
		if reason := entries[len(entries)-1].Error; reason == "" {
			t.Errorf("%s: the journal does not say why", name)
		}
	}
	got := s.call(s.client, "GET", "https://"+dps+"/enrollments/a", "", map[string]string{"Authorization": serviceToken(dps, "owner")})
	if message := got.refused(400, 400004); !strings.Contains(message, "api-version") {
		t.Errorf("got %q", message)
	}
	if message := s.manageIn("2019-04-01", "GET", "/enrollments/a", "").refused(400, 400004); message != "Unsupported API version 2019-04-01." {
		t.Errorf("got %q", message)
	}
	s.manage("PATCH", "/enrollments/a", "").refused(405, dpssim.CodeMethodNotAllowed)
	s.manage("GET", "/enrollments/a/b/c", "").refused(404, 404201)
}

func TestBulk(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	one := func(id, more string) string {
		return `{"registrationId":"` + id + `","attestation":{"type":"symmetricKey"}` + more + `}`
	}
	bulk := func(mode string, enrollments ...string) answer {
		return s.manage("POST", "/enrollments", `{"mode":"`+mode+`","enrollments":[`+strings.Join(enrollments, ",")+`]}`)
	}
	wantErrors := func(a answer, codes ...int) {
		t.Helper()
		result := a.want(200).json()
		failed := result["errors"].([]any)
		if result["isSuccessful"] != (len(codes) == 0) || len(failed) != len(codes) {
			t.Fatalf("got %s", a.body)
		}
		for i, code := range codes {
			if int(failed[i].(map[string]any)["errorCode"].(float64)) != code {
				t.Errorf("got %s, want %v", a.body, codes)
			}
		}
	}
	wantErrors(bulk("create", one("a", ""), one("b", "")))
	wantErrors(bulk("create", one("a", ""), one("c", ""), one("d", `,"allocationPolicy":"custom"`)), dpssim.CodeConflict, 400004)
	etag := s.manage("GET", "/enrollments/c", "").want(200).json()["etag"].(string) // c was made, its neighbours were not
	quoted, err := json.Marshal(etag)
	if err != nil {
		t.Fatal(err)
	}
	wantErrors(bulk("update", one("a", ""), one("e", "")))
	wantErrors(bulk("updateIfMatchETag", one("c", `,"etag":`+string(quoted)), one("a", `,"etag":"\"no\""`), one("b", "")), 412001, 400004)
	wantErrors(bulk("delete", one("a", ""), one("z", "")), 404201)
	bulk("replace", one("a", "")).refused(400, 400004)
	bulk("create").refused(400, 400004)
	bulk("create", strings.Split(strings.Repeat(one("x", "")+"|", 11), "|")[:11]...).refused(400, 400004)
	s.manage("POST", "/enrollmentGroups", `{"mode":"create","enrollments":[]}`).refused(400, 400004)
	wantErrors(s.manage("POST", "/enrollmentGroups", `{"mode":"create","enrollmentGroups":[`+symmetricGroup("g")+`]}`))
	s.manage("GET", "/enrollmentGroups/g", "").want(200)
}

func TestQuery(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	for i := range 5 {
		id := fmt.Sprint("e", i)
		s.manage("PUT", "/enrollments/"+id, `{"attestation":{"type":"symmetricKey"}}`).want(200)
		s.manage("PUT", "/enrollmentGroups/"+id, symmetricGroup(id)).want(200)
	}
	for path, c := range map[string]struct{ query, member, itemType string }{
		"/enrollments/query":      {"SELECT * FROM enrollments", "registrationId", "enrollment"},
		"/enrollmentGroups/query": {"select * from enrollmentGroups", "enrollmentGroupId", "enrollmentGroup"},
	} {
		var ids []string
		continuation, pages := "", 0
		for {
			header := []string{"x-ms-max-item-count", "2"}
			if continuation != "" {
				header = append(header, "x-ms-continuation", continuation)
			}
			page := s.manage("POST", path, `{"query":"`+c.query+`"}`, header...).want(200)
			var items []map[string]any
			if err := json.Unmarshal(page.body, &items); err != nil {
				t.Fatal(err)
			}
			for _, item := range items {
				ids = append(ids, item[c.member].(string))
			}
			if page.header.Get("x-ms-item-type") != c.itemType {
				t.Errorf("%s: item type %q", path, page.header.Get("x-ms-item-type"))
			}
			pages++
			if continuation = page.header.Get("x-ms-continuation"); continuation == "" {
				break
			}
		}
		if got := strings.Join(ids, " "); got != "e0 e1 e2 e3 e4" || pages != 3 {
			t.Errorf("%s: %s in %d pages", path, got, pages)
		}
		s.manage("POST", path, `{"query":"`+c.query+`"}`, "x-ms-continuation", "%").refused(400, 400004)
		s.manage("POST", path, `{"query":"`+c.query+`"}`, "x-ms-max-item-count", "many").refused(400, 400004)
	}
	if got := s.manage("POST", "/registrations/e1/query", `{"query":"SELECT *"}`).want(200); string(got.body) != "[]" {
		t.Errorf("got %s", got.body)
	}
	s.manage("POST", "/registrations/nobody/query", `{"query":"SELECT *"}`).refused(404, 404201)
	s.manage("GET", "/registrations/nobody", "").refused(404, 404201)
	s.manage("POST", "/enrollments/query", "").refused(400, 400004) // only a query of registrations has no body
}

// TestQueryTexts sends what clients send. DPS returns all records, whatever the text.
func TestQueryTexts(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	s.manage("PUT", "/enrollments/e", `{"attestation":{"type":"symmetricKey"}}`).want(200)
	s.manage("PUT", "/enrollmentGroups/g", symmetricGroup("g")).want(200)
	for _, body := range []string{
		`{"query":"SELECT * FROM enrollments"}`,
		`{"query":"*"}`,
		`{"query":""}`,
		`{}`,
		`{"query":"SELECT * FROM enrollments WHERE registrationId = 'another'"}`,
		`{"additional_properties":{},"query":"SELECT *"}`, // az iot dps
	} {
		for path, id := range map[string]string{"/enrollments/query": `"registrationId":"e"`, "/enrollmentGroups/query": `"enrollmentGroupId":"g"`} {
			got := s.manage("POST", path, body).want(200)
			if !strings.Contains(string(got.body), id) {
				t.Errorf("%s %s: %s", path, body, got.body)
			}
			if count := got.header.Get("x-ms-max-item-count"); count != "1000" {
				t.Errorf("%s: a page has %q items", path, count)
			}
		}
		s.manage("POST", "/registrations/g/query", body).want(200)
	}
	if count := s.manage("POST", "/registrations/g/query", "", "x-ms-max-item-count", "7").want(200).header.Get("x-ms-max-item-count"); count != "7" {
		t.Errorf("a page has %q items", count)
	}
}

func TestRegistrationStates(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	document := `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + policyKey + `"}},"allocationPolicy":"hashed"}`
	s.manage("PUT", "/enrollments/d1", document).want(200)
	key, _ := base64.StdEncoding.DecodeString(policyKey)
	header := map[string]string{"Authorization": attest.NewToken(attest.DeviceResource(scope, "d1"), key, time.Now().Add(time.Hour), "registration")}
	s.call(s.client, "PUT", "https://"+dps+"/"+scope+"/registrations/d1/register?api-version=2019-03-31", `{}`, header).want(202)
	var state map[string]any
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if state = s.manage("GET", "/registrations/d1", "").want(200).json(); state["status"] != "assigning" {
			break
		}
	}
	if state["status"] != "assigned" {
		t.Fatalf("got %v", state)
	}
	// A query of enrollments leaves it out, an individual enrollment shows it.
	if got := s.manage("POST", "/enrollments/query", `{"query":"SELECT *"}`).want(200); strings.Contains(string(got.body), "registrationState") {
		t.Errorf("got %s", got.body)
	}
	if shown := s.manage("GET", "/enrollments/d1", "").want(200).json()["registrationState"].(map[string]any); shown["assignedHub"] != state["assignedHub"] {
		t.Errorf("got %v", shown)
	}
	s.manage("DELETE", "/registrations/d1", "", "If-Match", `"stale"`).refused(412, 412001)
	s.manage("DELETE", "/registrations/d1", "", "If-Match", state["etag"].(string)).want(204)
	s.manage("DELETE", "/registrations/d1", "").refused(404, 404201)
}

func TestServiceQuota(t *testing.T) {
	t.Parallel()
	s := newStand(t, func(c *dpssim.Config) { c.Quota.OperationsPerMinute = 2 })
	for range 2 {
		s.manage("GET", "/enrollments/a", "").refused(404, 404201)
	}
	got := s.manage("GET", "/enrollments/a", "")
	got.refused(429, 429001)
	if wait, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
		t.Errorf("Retry-After %q", got.header.Get("Retry-After"))
	}
}

func TestManagement(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	near := "https://localhost"
	s.manage("PUT", "/enrollmentGroups/toasters", strings.Replace(symmetricGroup("toasters"), `"symmetricKey"`, `"symmetricKey","symmetricKey":{"primaryKey":"`+policyKey+`"}`, 1)).want(200)
	s.call(s.client, "PUT", "https://"+dps+"/"+scope+"/registrations/d1/register?api-version=2019-03-31", `{}`, nil).refused(401, 401002)

	page := s.call(s.client, "GET", near+"/_/journal?kind=service", "", nil).want(200)
	entry := page.json()["entries"].([]any)[0].(map[string]any)
	if entry["method"] != "PUT" || entry["url"] != "/enrollmentGroups/toasters" || entry["status"] != 200.0 {
		t.Errorf("got %v", entry)
	}
	if bytes.Contains(page.body, []byte(policyKey)) {
		t.Errorf("a key is in the journal: %s", page.body)
	}
	page = s.call(s.client, "GET", near+"/_/journal?registrationId=D1&limit=1", "", nil).want(200)
	if entries := page.json()["entries"].([]any); len(entries) != 1 || entries[0].(map[string]any)["kind"] != "register" {
		t.Errorf("got %s", page.body)
	}
	for _, query := range []string{"after=x", "limit=0", "limit=-1"} {
		s.call(s.client, "GET", near+"/_/journal?"+query, "", nil).refused(400, 400004)
	}

	asJSON := map[string]string{"Content-Type": "application/json"}
	got := s.call(s.client, "PUT", near+"/_/trouble", `{"throttle":1,"hubs":{"`+strings.ToUpper(hubA)+`":"drained"}}`, asJSON).want(200)
	if got.json()["throttle"] != 1.0 {
		t.Errorf("got %s", got.body)
	}
	if got := s.call(s.client, "GET", near+"/_/trouble", "", nil).want(200); got.json()["throttle"] != 1.0 {
		t.Errorf("got %s", got.body)
	}
	if got := s.call(s.client, "PUT", "https://"+dps+"/"+scope+"/registrations/d1/register?api-version=2019-03-31", `{}`, nil); got.header.Get("Retry-After") != "5" {
		t.Errorf("Retry-After %q", got.header.Get("Retry-After"))
	} else {
		got.refused(429, 429001)
	}
	state := s.call(s.client, "GET", near+"/_/state", "", nil).want(200).json()
	if state["enrollmentGroups"] != 1.0 || state["idScope"] != scope || state["hubs"].([]any)[0].(map[string]any)["trouble"] != "drained" {
		t.Errorf("got %v", state)
	}

	s.call(s.client, "PUT", near+"/_/trouble", `{"throtle":1}`, asJSON).refused(400, 400004)
	s.call(s.client, "PUT", near+"/_/trouble", `{}`, nil).refused(415, 400004)
	// What a web page of somebody else could do.
	s.call(s.client, "GET", "https://evil.example/_/journal", "", nil).refused(403, 400004)
	s.call(s.client, "PUT", near+"/_/trouble", `{}`, map[string]string{"Content-Type": "application/json", "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}).want(403)
}

func TestRouting(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	for _, host := range []string{dps, hubA, "localhost"} {
		s.call(s.client, "GET", "https://"+host+"/$iothub/websocket", "", nil).want(http.StatusTeapot)
		s.call(s.client, "GET", "https://"+host+"/mqtt", "", nil).want(http.StatusTeapot) // the SDK for Java
	}
	// A hub's host is never the service's, whatever the path.
	s.call(s.client, "GET", "https://"+hubA+"/_/state", "", nil).want(401)
	if entries := s.service.Journal(0, 10, dpssim.JournalFilter{Kind: dpssim.KindHub}).Entries; len(entries) != 1 || entries[0].URL != "https://"+hubA+"/_/state" {
		t.Errorf("journal: %+v", entries)
	}
	request, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+dps+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.URL.RawPath, request.URL.Path = "/%zz", "/%zz"
	if response, err := s.client.Do(request); err == nil {
		defer response.Body.Close()
		if response.StatusCode/100 != 4 {
			t.Errorf("got %d", response.StatusCode)
		}
	}
}
