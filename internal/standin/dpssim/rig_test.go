package dpssim_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const (
	idScope = "0ne00ABCDEF"
	hubA    = "contoso-hub-a.azure-devices.net"
	hubB    = "contoso-hub-b.azure-devices.net"
	hubC    = "contoso-hub-c.azure-devices.net"

	modernAPI = "2019-03-31"
	stickyAPI = "2018-04-01"
	hookURL   = "https://contoso-function-app.azurewebsites.net/api/HttpTrigger1?code=secret"
)

// rig is a service with its hubs and a webhook that is a Go function.
type rig struct {
	*dpssim.Service
	t     *testing.T
	hubs  *hub.Registry
	store *store.Store
	hook  *hook
}

// hook is the webhook: it keeps the requests and answers what the test sets.
type hook struct {
	mu       sync.Mutex
	requests [][]byte
	urls     []string
	times    []time.Time
	answer   http.HandlerFunc
}

func (h *hook) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.requests = append(h.requests, body)
	h.urls = append(h.urls, r.URL.String())
	h.times = append(h.times, time.Now())
	answer := h.answer
	h.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	w := httptest.NewRecorder()
	answer(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func (h *hook) set(answer http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *hook) calls() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.requests)
}

// lastRequest is the AllocationRequest of the last call.
func (h *hook) lastRequest(t *testing.T) (request model.AllocationRequest) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.requests) == 0 {
		t.Fatal("the webhook was not called")
	}
	if err := json.Unmarshal(h.requests[len(h.requests)-1], &request); err != nil {
		t.Fatal(err)
	}
	return request
}

// answers makes a webhook that always gives the same answer.
func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func newRig(t *testing.T, change func(*dpssim.Config)) *rig {
	t.Helper()
	return newRigOn(t, store.Memory(), change)
}

func newRigOn(t *testing.T, state *store.Store, change func(*dpssim.Config)) *rig {
	t.Helper()
	r := newNetworkRig(t, state, change)
	r.hook = &hook{answer: answers(http.StatusOK, `{"iotHubHostName":"`+hubA+`"}`)}
	r.SetWebhookTransport(r.hook)
	return r
}

// newNetworkRig has no hook: webhooks are called over the network.
func newNetworkRig(t *testing.T, state *store.Store, change func(*dpssim.Config)) *rig {
	t.Helper()
	config := dpssim.Config{
		IDScope: idScope,
		Hubs:    []dpssim.LinkedHub{{HostName: hubA}, {HostName: hubB}, {HostName: hubC}},
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
	return &rig{Service: service, t: t, hubs: hubs, store: state}
}

// groupKey is the key of every group that customGroup makes.
var groupKey = base64.StdEncoding.EncodeToString([]byte("a group key of thirty-two bytes!"))

// customGroup is a group with a symmetric key and the webhook.
func customGroup(change func(*model.EnrollmentGroup)) model.EnrollmentGroup {
	g := model.EnrollmentGroup{
		EnrollmentGroupID: "toasters",
	}
	g.Attestation = model.Attestation{Type: model.AttestationSymmetricKey, SymmetricKey: &model.SymmetricKey{PrimaryKey: groupKey}}
	g.AllocationPolicy = model.PolicyCustom
	g.CustomAllocationDefinition = &model.CustomAllocationDefinition{WebhookURL: hookURL, APIVersion: modernAPI}
	if change != nil {
		change(&g)
	}
	return g
}

func (r *rig) putGroup(g model.EnrollmentGroup) model.EnrollmentGroup {
	r.t.Helper()
	r.put(&r.Groups, &g)
	return g
}

func (r *rig) putIndividual(e model.IndividualEnrollment) model.IndividualEnrollment {
	r.t.Helper()
	r.put(&r.Enrollments, &e)
	return e
}

// put creates an enrollment or replaces it, whatever its ETag.
func (r *rig) put(collection *dpssim.Collection, record model.Record) {
	r.t.Helper()
	ifMatch := ""
	if _, err := collection.Get(*record.ID()); err == nil {
		ifMatch = "*"
	}
	if err := collection.Put(*record.ID(), record, ifMatch); err != nil {
		r.t.Fatal(err)
	}
}

// token is a device's token, signed with a key.
func token(id string, key []byte) string {
	return attest.NewToken(attest.DeviceResource(idScope, id), key, time.Now().Add(time.Hour), attest.KeyNameRegistration)
}

// groupDevice is a device of a group with groupKey.
func groupDevice(id string) dpssim.Caller {
	key, _ := base64.StdEncoding.DecodeString(groupKey)
	return dpssim.Caller{
		IDScope: idScope, RegistrationID: id, SAS: token(id, attest.DeriveKey(key, id)),
		APIVersion: modernAPI, Transport: dpssim.TransportHTTP,
	}
}

// register registers and polls until the operation ends.
func (r *rig) register(caller dpssim.Caller, request model.RegistrationRequest) model.RegistrationOperationStatus {
	r.t.Helper()
	status, err := r.Register(caller, request)
	if err != nil {
		r.t.Fatalf("register %s: %v", caller.RegistrationID, err)
	}
	return r.await(caller, status)
}

// removeDevice deletes a device as someone could on the hub.
func (r *rig) removeDevice(hubName, id string) error {
	return r.store.Update(func(tx *store.Tx) error { return r.hubs.Remove(tx, hubName, id) })
}

func (r *rig) await(caller dpssim.Caller, status model.RegistrationOperationStatus) model.RegistrationOperationStatus {
	r.t.Helper()
	id := status.OperationID
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Hour) // of a synthetic clock, perhaps
	defer cancel()
	for status.Status == model.StatusAssigning {
		select {
		case <-ctx.Done():
			r.t.Fatalf("%s is still %s", caller.RegistrationID, status.Status)
		case <-time.After(time.Millisecond):
		}
		var err error
		if status, err = r.Operation(caller, id); err != nil {
			r.t.Fatalf("operation of %s: %v", caller.RegistrationID, err)
		}
	}
	return status
}

// refused expects an error with a code and returns it.
func refused(t *testing.T, err error, code int) *dpssim.APIError {
	t.Helper()
	var refusal *dpssim.APIError
	if !errors.As(err, &refusal) || refusal.Code != code {
		t.Fatalf("got %v, want %d", err, code)
	}
	return refusal
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

var serial = struct {
	sync.Mutex
	last int64
}{}

func nextSerial() *big.Int {
	serial.Lock()
	defer serial.Unlock()
	serial.last++
	return big.NewInt(serial.last)
}

// issue makes a certificate, self-signed if the authority is nil.
func (a *authority) issue(t *testing.T, name string, ca bool, notAfter time.Time) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Contoso"}},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: notAfter,
		IsCA: ca, BasicConstraintsValid: true,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent := &authority{template, key}
	if a != nil {
		parent = a
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.certificate, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

func nextYear() time.Time { return time.Now().AddDate(1, 0, 0) }

// certificateDevice is a device that presents certificates.
func certificateDevice(id string, chain ...*authority) dpssim.Caller {
	caller := dpssim.Caller{IDScope: idScope, RegistrationID: id, APIVersion: modernAPI, Transport: dpssim.TransportHTTP}
	for _, link := range chain {
		caller.Certificates = append(caller.Certificates, link.certificate)
	}
	return caller
}
