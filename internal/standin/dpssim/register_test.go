package dpssim_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// TestRefusals checks that a device that cannot prove its identity is refused as at DPS.
func TestRefusals(t *testing.T) {
	t.Parallel()
	root := (*authority)(nil).issue(t, "Root", true, nextYear())
	intermediate := root.issue(t, "Intermediate", true, nextYear())
	stranger := (*authority)(nil).issue(t, "Root", true, nextYear())
	leaf := intermediate.issue(t, "device-1", false, nextYear())
	expired := intermediate.issue(t, "device-1", false, time.Now().Add(-24*time.Hour))
	own := root.issue(t, "individual-1", false, nextYear())

	r := newRig(t, func(c *dpssim.Config) {
		c.Certificates = []dpssim.CACertificate{{Name: "uploaded", Certificate: root.certificate}}
	})
	r.putGroup(customGroup(nil))
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
		g.EnrollmentGroupID = "by-ca"
		g.Attestation = model.Attestation{Type: model.AttestationX509, X509: &model.X509{
			CAReferences: &model.X509CAReferences{Primary: "uploaded"},
		}}
	}))
	individual := model.IndividualEnrollment{RegistrationID: "individual-1", Enrollment: model.Enrollment{Attestation: model.Attestation{
		Type: model.AttestationX509, X509: &model.X509{ClientCertificates: &model.X509Certificates{
			Primary: &model.X509Certificate{Certificate: own.pem()},
		}},
	}}}
	r.putIndividual(individual)
	byKey := model.IndividualEnrollment{RegistrationID: "individual-2", Enrollment: model.Enrollment{Attestation: model.Attestation{
		Type: model.AttestationSymmetricKey, SymmetricKey: &model.SymmetricKey{
			PrimaryKey:   base64.StdEncoding.EncodeToString([]byte("primary key of 32 bytes ........")),
			SecondaryKey: base64.StdEncoding.EncodeToString([]byte("secondary key of 32 bytes ......")),
		},
	}}}
	r.putIndividual(byKey)

	with := func(caller dpssim.Caller, change func(*dpssim.Caller)) dpssim.Caller {
		change(&caller)
		return caller
	}
	device := groupDevice("device-1")
	for _, c := range []struct {
		name   string
		caller dpssim.Caller
		status int // 0 if it may register
		code   int
		says   string
	}{
		{"group key", device, 0, 0, ""},
		{"group key, id in another case of letters but signed so", groupDevice("DEVICE-1"), 0, 0, ""},
		{"another device's key", with(device, func(c *dpssim.Caller) { c.SAS = groupDevice("device-2").SAS }), 401, 401002, "another resource"},
		{"wrong key", with(device, func(c *dpssim.Caller) { c.SAS = token("device-1", []byte("no")) }), 401, 401002, "none of the groups"},
		{"the group's key itself", with(device, func(c *dpssim.Caller) {
			c.SAS = token("device-1", []byte("a group key of thirty-two bytes!"))
		}), 401, 401002, "the key of group toasters itself"},
		{"expired token", with(device, func(c *dpssim.Caller) {
			key, _ := base64.StdEncoding.DecodeString(groupKey)
			c.SAS = attest.NewToken(attest.DeviceResource(idScope, "device-1"), attest.DeriveKey(key, "device-1"), time.Now().Add(-time.Second), "registration")
		}), 401, 401002, "expired"},
		{"no token", with(device, func(c *dpssim.Caller) { c.SAS = "" }), 401, 401002, "neither"},
		{"broken token", with(device, func(c *dpssim.Caller) { c.SAS = "SharedAccessSignature sr=x" }), 401, 401002, "no sig"},
		{"other scope", with(device, func(c *dpssim.Caller) { c.IDScope = "0ne00FFFFFF" }), 404, 404201, "ID scope"},
		{"no api-version", with(device, func(c *dpssim.Caller) { c.APIVersion = "" }), 400, 400004, "api-version"},
		{"id that ends with a dash", groupDevice("device-"), 0, 0, ""},
		{"id that ends with a dot", groupDevice("device."), 400, 400004, "registrationId"},
		{"bad id", with(device, func(c *dpssim.Caller) { c.RegistrationID = "-x" }), 400, 400004, "registrationId"},
		{"chain to an uploaded CA", certificateDevice("device-1", leaf, intermediate), 0, 0, ""},
		{"intermediate not sent", certificateDevice("device-1", leaf), 401, 401002, `did not send the certificate of "CN=Intermediate, O=Contoso"`},
		{"another CA of the same name", certificateDevice("device-1", stranger.issue(t, "device-1", false, nextYear())), 401, 401002, "or another of that name did"},
		{"certificate of another device", certificateDevice("device-2", leaf, intermediate), 401, 401002, "common name"},
		{"expired certificate", certificateDevice("device-1", expired, intermediate), 401, 401002, "expired"},
		{"individual's own certificate", certificateDevice("individual-1", own), 0, 0, ""},
		{"an individual enrollment wins over a group that would do", certificateDevice("individual-1", root.issue(t, "individual-1", false, nextYear())), 401, 401002, "neither of those"},
		{"a key where a certificate is wanted", groupDevice("individual-1"), 401, 401002, "requires a certificate"},
		{"primary key", with(groupDevice("individual-2"), func(c *dpssim.Caller) {
			c.SAS = token("individual-2", []byte("primary key of 32 bytes ........"))
		}), 0, 0, ""},
		{"secondary key", with(groupDevice("individual-2"), func(c *dpssim.Caller) {
			c.SAS = token("individual-2", []byte("secondary key of 32 bytes ......"))
		}), 0, 0, ""},
		{"a group's key where an individual enrollment has its own", groupDevice("individual-2"), 401, 401002, "neither key"},
		{"a certificate where a key is wanted", certificateDevice("individual-2", root.issue(t, "individual-2", false, nextYear())), 401, 401002, "no SharedAccessSignature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := r.Journal(0, 0, dpssim.JournalFilter{}).Last
			err := r.Authenticate(c.caller)
			if c.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if state := r.register(c.caller, model.RegistrationRequest{}).RegistrationState; state.Status != "assigned" {
					t.Errorf("got %+v", state)
				}
				return
			}
			if refusal := refused(t, err, c.code); refusal.Status != c.status || !strings.Contains(refusal.Error(), c.says) {
				t.Errorf("got %v", refusal)
			}
			_, err = r.Register(c.caller, model.RegistrationRequest{})
			refused(t, err, c.code)
			_, err = r.Operation(c.caller, "4.x.y")
			refused(t, err, c.code)
			entries := r.Journal(before, 10, dpssim.JournalFilter{}).Entries
			if len(entries) != 3 || entries[1].Status != c.status || entries[1].Kind != dpssim.KindRegister ||
				!strings.Contains(entries[1].Line(), c.says) { // on the console
				t.Errorf("journal: %+v", entries)
			}
		})
	}
}

// TestNearestGroup checks that DPS chooses the most specific group by certificate, and no other if that is disabled.
func TestNearestGroup(t *testing.T) {
	t.Parallel()
	root := (*authority)(nil).issue(t, "Root", true, nextYear())
	line := root.issue(t, "Line", true, nextYear())
	inLine := certificateDevice("device-1", line.issue(t, "device-1", false, nextYear()), line, root)
	elsewhere := certificateDevice("device-2", root.issue(t, "device-2", false, nextYear()), root)
	r := newRig(t, nil)
	group := func(id, status string, ca *authority) {
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
			g.EnrollmentGroupID, g.ProvisioningStatus = id, status
			g.Attestation = model.Attestation{Type: model.AttestationX509, X509: &model.X509{
				SigningCertificates: &model.X509Certificates{Primary: &model.X509Certificate{Certificate: ca.pem()}},
			}}
		}))
	}
	group("a-root", "enabled", root)
	group("b-line", "enabled", line)
	for want, caller := range map[string]dpssim.Caller{"b-line": inLine, "a-root": elsewhere} {
		if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.X509 == nil || state.X509.EnrollmentGroupID != want {
			t.Errorf("want group %s, got %+v", want, state.X509)
		}
	}
	group("b-line", "disabled", line)
	if got, err := r.Register(inLine, model.RegistrationRequest{}); err != nil || got.Status != "disabled" {
		t.Errorf("got %+v, %v: the group further off is not asked", got, err)
	}
}

func TestNothingEnrolled(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, caller := range []dpssim.Caller{groupDevice("device-1"), {IDScope: idScope, RegistrationID: "device-1", APIVersion: modernAPI}} {
		_, err := r.Register(caller, model.RegistrationRequest{})
		if refusal := refused(t, err, 404201); refusal.Status != 404 {
			t.Errorf("got %v", refusal)
		}
	}
}

func TestBodyOfRegister(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.putGroup(customGroup(nil))
	_, err := r.Register(groupDevice("device-1"), model.RegistrationRequest{RegistrationID: "device-2"})
	refused(t, err, 400004)
	// A null payload is none, and is not posted.
	r.register(groupDevice("device-1"), model.RegistrationRequest{RegistrationID: "DEVICE-1", Payload: json.RawMessage(`null`)})
	if strings.Contains(string(r.hook.requests[0]), "payload") {
		t.Errorf("posted %s", r.hook.requests[0])
	}
	_, err = r.Operation(groupDevice("device-1"), "4.0.0")
	if refusal := refused(t, err, dpssim.CodeOperationNotFound); refusal.Status != 404 {
		t.Errorf("got %v", refusal)
	}
}

// TestPayloadOfAnyKind checks that a device may send any JSON as payload, and what a webhook sees of it.
func TestPayloadOfAnyKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ sent, setting, want string }{
		{`{"a":1}`, "", `{"a":1}`},
		{`"text"`, "", `"text"`},
		{`"{\"a\":\"b\"}"`, "", `"{\"a\":\"b\"}"`}, // as the Java SDK sends it
		{`"{\"a\":\"b\"}"`, dpssim.PayloadParsed, `{"a":"b"}`},
		{`" {\"a\":1} "`, dpssim.PayloadParsed, `{"a":1}`},
		{`"text"`, dpssim.PayloadParsed, `"text"`},
		{`"null"`, dpssim.PayloadParsed, `"null"`},
		{`"[1]"`, dpssim.PayloadParsed, `"[1]"`},
		{`""`, dpssim.PayloadParsed, `""`},
		{`{"a":"{}"}`, dpssim.PayloadParsed, `{"a":"{}"}`},
		{`7`, dpssim.PayloadParsed, `7`},
		{`[1,2]`, "", `[1,2]`},
		{`false`, "", `false`},
		{`null`, "", ``},
		{``, "", ``},
	} {
		r := newRig(t, func(config *dpssim.Config) { config.Behaviour.DevicePayload = c.setting })
		r.putGroup(customGroup(nil))
		body := `{}`
		if c.sent != "" {
			body = `{"payload":` + c.sent + `}`
		}
		request, err := dpssim.ParseRequest([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if state := r.register(groupDevice("device-1"), request).RegistrationState; state.Status != "assigned" {
			t.Errorf("%s: got %+v", body, state)
		}
		if got := string(r.hook.lastRequest(t).DeviceRuntimeContext.Payload); got != c.want {
			t.Errorf("%s, %q: the webhook sees %s, want %s", body, c.setting, got, c.want)
		}
	}
}

// TestTwoCertificates checks that the hub knows the certificate of an individual enrollment that registered last, and
// not the other one: it connects only after it has registered.
func TestTwoCertificates(t *testing.T) {
	t.Parallel()
	old, renewed := (*authority)(nil).issue(t, "lathe-1", false, nextYear()), (*authority)(nil).issue(t, "lathe-1", false, nextYear())
	r := newRig(t, nil)
	r.putIndividual(model.IndividualEnrollment{RegistrationID: "lathe-1", Enrollment: model.Enrollment{Attestation: model.Attestation{
		Type: model.AttestationX509, X509: &model.X509{ClientCertificates: &model.X509Certificates{
			Primary: &model.X509Certificate{Certificate: old.pem()}, Secondary: &model.X509Certificate{Certificate: renewed.pem()},
		}},
	}}})
	for i, pair := range [][2]*authority{{old, renewed}, {renewed, old}, {old, renewed}} {
		state := r.register(certificateDevice("lathe-1", pair[0]), model.RegistrationRequest{}).RegistrationState
		connects := func(a *authority) bool {
			return r.hubs.AuthenticateDevice(state.AssignedHub, "lathe-1", "", certificateDevice("", a).Certificates) == nil
		}
		if !connects(pair[0]) || connects(pair[1]) {
			t.Errorf("registration %d: the one that registered connects: %v, the other: %v", i, connects(pair[0]), connects(pair[1]))
		}
		device, err := r.hubs.Device(state.AssignedHub, "lathe-1")
		body, _ := json.Marshal(device)
		if thumbprint := attest.SHA256Thumbprint(pair[0].certificate); err != nil || strings.Count(string(body), thumbprint) != 2 {
			t.Errorf("registration %d: want its thumbprint in both places, got %s, %v", i, body, err)
		}
	}
}

// TestAPIVersions checks that devices must name an API version that DPS has.
func TestAPIVersions(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.putGroup(customGroup(nil))
	for version, says := range map[string]string{
		"": "api-version is missing", "1": "Unsupported API version 1.", "2021-10-02": "Unsupported API version 2021-10-02.",
		"2017-11-15": "", "2019-03-31": "", "2021-06-01": "", "2021-10-01": "", "2026-11-01": "", "2026-11-15-preview": "",
	} {
		caller := groupDevice("device-1")
		caller.APIVersion = version
		_, register := r.Register(caller, model.RegistrationRequest{})
		_, poll := r.Operation(caller, "4.x.y")
		_, lookUp := r.LookUp(caller, model.RegistrationRequest{})
		for call, err := range map[string]error{"CONNECT": r.Authenticate(caller), "register": register, "poll": poll, "look-up": lookUp} {
			refusal, _ := errors.AsType[*dpssim.APIError](err)
			if known := refusal == nil || refusal.Code != 400004; known != (says == "") || !known && (refusal.Status != 400 || refusal.Message != says) {
				t.Errorf("%s with %q: %v", call, version, err)
			}
		}
	}
}

func TestDisabledEnrollment(t *testing.T) {
	t.Parallel()
	want := model.RegistrationOperationStatus{Status: "disabled", RegistrationState: &model.DeviceRegistrationState{
		RegistrationID: "device-1", Status: "disabled",
	}}
	r := newRig(t, nil)
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) { g.ProvisioningStatus = "disabled" }))
	got, err := r.Register(groupDevice("device-1"), model.RegistrationRequest{})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	// As azure-sdk-for-c's tests have it.
	body, err := json.Marshal(got)
	if want := `{"operationId":"","status":"disabled","registrationState":{"registrationId":"device-1","status":"disabled"}}`; err != nil || string(body) != want {
		t.Errorf("got %s, %v", body, err)
	}
	if dpssim.RegisterStatus(got) != http.StatusOK {
		t.Error("disabled is answered with 200")
	}
	r.putGroup(customGroup(nil))
	if err := r.SetTrouble(dpssim.Trouble{DisabledGroups: []string{"TOASTERS"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Register(groupDevice("device-1"), model.RegistrationRequest{}); err != nil || got.Status != "disabled" {
		t.Errorf("by trouble: %+v, %v", got, err)
	}
	if got, err := r.LookUp(groupDevice("device-1"), model.RegistrationRequest{}); err != nil || !reflect.DeepEqual(got, *want.RegistrationState) {
		t.Errorf("before it registered, the look-up says %+v, %v", got, err)
	}
	if r.hook.calls() != 0 {
		t.Error("the webhook was called")
	}
	if err := r.SetTrouble(dpssim.Trouble{}); err != nil {
		t.Fatal(err)
	}
	if got := r.register(groupDevice("device-1"), model.RegistrationRequest{}); got.Status != "assigned" {
		t.Errorf("without trouble: %+v", got)
	}
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) { g.ProvisioningStatus = "disabled" }))
	if got, err := r.LookUp(groupDevice("device-1"), model.RegistrationRequest{}); err != nil || !reflect.DeepEqual(got, *want.RegistrationState) {
		t.Errorf("after it registered, the look-up says %+v, %v", got, err)
	}
}

// TestTPM goes through challenge, activation and registration, and uses the key for the hub.
func TestTPM(t *testing.T) {
	t.Parallel()
	tpm, err := softtpm.New()
	if err != nil {
		t.Fatal(err)
	}
	other, err := softtpm.New()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil)
	enrollment := model.IndividualEnrollment{RegistrationID: "tpm-1", Enrollment: model.Enrollment{Attestation: model.Attestation{
		Type: model.AttestationTPM, TPM: &model.TPM{EndorsementKey: tpm.Keys().EndorsementKey},
	}}}
	r.putIndividual(enrollment)
	keys, otherKeys := tpm.Keys(), other.Keys()
	request := model.RegistrationRequest{TPM: &keys}
	caller := dpssim.Caller{IDScope: idScope, RegistrationID: "tpm-1", APIVersion: modernAPI, Transport: dpssim.TransportHTTP}

	for name, bad := range map[string]model.RegistrationRequest{
		"another endorsement key": {TPM: &otherKeys},
		"no keys":                 {},
	} {
		_, err := r.Register(caller, bad)
		if refusal := refused(t, err, 401002); refusal.Challenge != nil {
			t.Errorf("%s: got a challenge", name)
		}
	}
	_, err = r.Register(dpssim.Caller{IDScope: idScope, RegistrationID: "tpm-2", APIVersion: modernAPI}, request)
	refused(t, err, 404201)

	caller.SAS = r.answerChallenge(caller, request, tpm)
	_, err = r.Register(caller, model.RegistrationRequest{})
	refused(t, err, 400004) // the keys are needed again
	_, err = r.Register(caller, model.RegistrationRequest{TPM: &otherKeys})
	refused(t, err, 401002) // and are those of the enrollment
	state := r.register(caller, request).RegistrationState
	if state.Status != "assigned" || state.TPM == nil {
		t.Fatalf("got %+v", state)
	}
	blob, err := base64.StdEncoding.DecodeString(state.TPM.AuthenticationKey)
	if err != nil {
		t.Fatal(err)
	}
	hubKey, err := tpm.Import(blob)
	if err != nil {
		t.Fatal(err)
	}
	sas := attest.NewToken(state.AssignedHub+"/devices/tpm-1", hubKey, time.Now().Add(time.Hour), "")
	if err := r.hubs.AuthenticateDevice(state.AssignedHub, "tpm-1", sas, nil); err != nil {
		t.Errorf("the hub does not know the key: %v", err)
	}
	if err := r.Authenticate(dpssim.Caller{IDScope: idScope, RegistrationID: "tpm-1", APIVersion: modernAPI}); err == nil {
		t.Error("a TPM connected without a token")
	} else {
		refused(t, err, 401002)
	}
	// A key from an old challenge is worth nothing after a new one.
	r.answerChallenge(caller, request, tpm)
	_, err = r.Register(caller, request)
	refused(t, err, 401002)
}

// TestHubKnowsDevice checks that after any attestation the device can connect to its hub with its credentials.
func TestHubKnowsDevice(t *testing.T) {
	t.Parallel()
	root := (*authority)(nil).issue(t, "Root", true, nextYear())
	leaf := root.issue(t, "x509-1", false, nextYear())
	r := newRig(t, nil)
	r.putGroup(customGroup(nil))
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
		g.EnrollmentGroupID = "x509"
		g.Attestation = model.Attestation{Type: model.AttestationX509, X509: &model.X509{
			SigningCertificates: &model.X509Certificates{Primary: &model.X509Certificate{Certificate: root.pem()}},
		}}
		g.Capabilities = &model.Capabilities{IoTEdge: true}
	}))
	r.register(groupDevice("key-1"), model.RegistrationRequest{})
	key, _ := base64.StdEncoding.DecodeString(groupKey)
	sas := attest.NewToken(hubA+"/devices/key-1", attest.DeriveKey(key, "key-1"), time.Now().Add(time.Hour), "")
	if err := r.hubs.AuthenticateDevice(hubA, "key-1", sas, nil); err != nil {
		t.Error(err)
	}
	caller := certificateDevice("x509-1", leaf)
	r.register(caller, model.RegistrationRequest{})
	if err := r.hubs.AuthenticateDevice(hubA, "x509-1", "", caller.Certificates); err != nil {
		t.Error(err)
	}
	device, err := r.hubs.Device(hubA, "x509-1")
	if body, _ := json.Marshal(device); err != nil || !strings.Contains(string(body), `"iotEdge":true`) {
		t.Errorf("got %s, %v", body, err)
	}
}

// TestPolicies checks the policies that need no webhook.
func TestPolicies(t *testing.T) {
	t.Parallel()
	allocate := func(t *testing.T, change func(*model.EnrollmentGroup), config func(*dpssim.Config), devices int) map[string]int {
		t.Helper()
		r := newRig(t, config)
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
			g.CustomAllocationDefinition = nil
			change(g)
		}))
		counts := map[string]int{}
		for i := range devices {
			id := fmt.Sprintf("device-%d", i)
			first := r.register(groupDevice(id), model.RegistrationRequest{}).RegistrationState
			again := first
			if i < 20 {
				again = r.register(groupDevice(id), model.RegistrationRequest{}).RegistrationState
			}
			if again.AssignedHub != first.AssignedHub || first.AssignedHub == "" {
				t.Fatalf("%s went to %q, then %q (%s)", id, first.AssignedHub, again.AssignedHub, first.ErrorMessage)
			}
			counts[first.AssignedHub]++
		}
		if r.hook.calls() != 0 {
			t.Error("the webhook was called")
		}
		return counts
	}
	t.Run("hashed by weight", func(t *testing.T) {
		t.Parallel()
		counts := allocate(t, func(g *model.EnrollmentGroup) { g.AllocationPolicy = "hashed" }, func(c *dpssim.Config) {
			c.Hubs = []dpssim.LinkedHub{{HostName: hubA, Weight: 1}, {HostName: hubB, Weight: 3}, {HostName: hubC, ExcludeFromAllocation: true}}
		}, 200)
		// 50 expected on A, a quarter; the ids are always the same, so this never flickers.
		if math.Abs(float64(counts[hubA]-50)) > 15 || counts[hubA]+counts[hubB] != 200 {
			t.Errorf("got %v", counts)
		}
	})
	t.Run("no policy is the service's", func(t *testing.T) {
		t.Parallel()
		counts := allocate(t, func(g *model.EnrollmentGroup) { g.AllocationPolicy = "" }, nil, 60)
		if len(counts) != 3 {
			t.Errorf("got %v", counts)
		}
	})
	t.Run("static", func(t *testing.T) {
		t.Parallel()
		for _, change := range []func(*model.EnrollmentGroup){
			func(g *model.EnrollmentGroup) { g.AllocationPolicy, g.IotHubHostName = "static", hubB },
			func(g *model.EnrollmentGroup) { g.AllocationPolicy, g.IotHubs = "static", []string{hubB} },
			func(g *model.EnrollmentGroup) { g.AllocationPolicy, g.IotHubHostName = "", hubB },
		} {
			if counts := allocate(t, change, nil, 5); counts[hubB] != 5 {
				t.Errorf("got %v", counts)
			}
		}
	})
	t.Run("geoLatency is the lowest latency", func(t *testing.T) {
		t.Parallel()
		counts := allocate(t, func(g *model.EnrollmentGroup) { g.AllocationPolicy = "geoLatency" }, func(c *dpssim.Config) {
			c.Hubs = []dpssim.LinkedHub{{HostName: hubA, Latency: 90 * time.Millisecond}, {HostName: hubB, Latency: 20 * time.Millisecond}, {HostName: hubC, Latency: 20 * time.Millisecond}}
		}, 60)
		if counts[hubA] != 0 || counts[hubB] == 0 || counts[hubC] == 0 {
			t.Errorf("got %v", counts)
		}
	})
	t.Run("no hub left", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *dpssim.Config) {
			c.Trouble.Hubs = map[string]string{hubA: "drained", hubB: "unlinked", hubC: "drained"}
		})
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) { g.AllocationPolicy = "hashed" }))
		state := r.register(groupDevice("device-1"), model.RegistrationRequest{}).RegistrationState
		if state.ErrorCode != 400004 || !strings.Contains(state.ErrorMessage, "No linked IoT hub") {
			t.Errorf("got %+v", state)
		}
	})
}

// TestExcludedHubs checks the setting for whether a webhook sees excluded hubs.
func TestExcludedHubs(t *testing.T) {
	t.Parallel()
	for setting, want := range map[bool][]string{false: {hubA}, true: {hubA, hubB}} {
		r := newRig(t, func(c *dpssim.Config) {
			c.Hubs = []dpssim.LinkedHub{{HostName: hubA}, {HostName: hubB, ExcludeFromAllocation: true}}
			c.Behaviour.ExcludedHubsInLinkedHubs = setting
		})
		r.putGroup(customGroup(nil))
		r.register(groupDevice("device-1"), model.RegistrationRequest{})
		if got := r.hook.lastRequest(t).LinkedHubs; !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %v", setting, got)
		}
	}
}

// TestTwoAtOnce checks that while a registration is pending, the same ID is refused with 409203, or joins.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{dpssim.ConcurrentRefused, dpssim.ConcurrentJoins} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *dpssim.Config) { c.Behaviour.Concurrent = setting })
			r.putGroup(customGroup(nil))
			release := make(chan struct{})
			r.hook.set(func(w http.ResponseWriter, q *http.Request) {
				<-release
				answers(200, `{"iotHubHostName":"`+hubA+`"}`)(w, q)
			})
			const callers = 8
			operations := make(map[string]int)
			refusals := 0
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					status, err := r.Register(groupDevice("device-1"), model.RegistrationRequest{})
					mu.Lock()
					defer mu.Unlock()
					var refusal *dpssim.APIError
					switch {
					case err == nil:
						operations[status.OperationID]++
					case errors.As(err, &refusal) && refusal.Code == 409203 && refusal.Status == http.StatusConflict:
						refusals++
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			close(release)
			wantRefusals := map[string]int{dpssim.ConcurrentRefused: callers - 1, dpssim.ConcurrentJoins: 0}[setting]
			if len(operations) != 1 || refusals != wantRefusals {
				t.Fatalf("operations %v, %d refusals", operations, refusals)
			}
			for id := range operations {
				caller := groupDevice("device-1")
				first := r.await(caller, model.RegistrationOperationStatus{OperationID: id, Status: "assigning"})
				second, err := r.Operation(caller, id)
				if err != nil || !reflect.DeepEqual(first, second) {
					t.Errorf("polled twice: %+v and %+v, %v", first, second, err)
				}
			}
			if r.hook.calls() != 1 {
				t.Errorf("%d calls of the webhook", r.hook.calls())
			}
		})
	}
}

// TestRegistrationState checks that the ETag is base64 of a quoted one and changes, and that the creation time does
// not.
func TestRegistrationState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.putGroup(customGroup(nil))
		caller := groupDevice("Device-1")
		first := r.register(caller, model.RegistrationRequest{}).RegistrationState
		time.Sleep(time.Minute)
		second := r.register(caller, model.RegistrationRequest{}).RegistrationState
		for _, state := range []*model.DeviceRegistrationState{first, second} {
			tag, err := base64.StdEncoding.DecodeString(state.ETag)
			if err != nil || !strings.HasPrefix(string(tag), `"`) || !strings.HasSuffix(string(tag), `"`) {
				t.Errorf("etag %q: %q, %v", state.ETag, tag, err)
			}
			if state.RegistrationID != "Device-1" || state.SymmetricKey.EnrollmentGroupID != "toasters" {
				t.Errorf("got %+v", state)
			}
		}
		if first.ETag == second.ETag || !first.CreatedDateTimeUTC.Equal(second.CreatedDateTimeUTC.Time) ||
			second.LastUpdatedDateTimeUTC.Sub(first.LastUpdatedDateTimeUTC.Time) < time.Minute {
			t.Errorf("first %+v, second %+v", first, second)
		}
	})
}

// TestQuota checks that 429001 follows once the quota is used up, until the minute is over.
func TestQuota(t *testing.T) {
	t.Parallel()
	if dpssim.DefaultQuota.RegistrationsPerMinute != 1000 {
		t.Errorf("got %+v", dpssim.DefaultQuota)
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *dpssim.Config) {
			c.Quota.RegistrationsPerMinute = 50
			c.TimeScale = 2
		})
		r.putGroup(customGroup(nil))
		for i := range 50 {
			if _, err := r.Register(groupDevice(fmt.Sprint("d", i)), model.RegistrationRequest{}); err != nil {
				t.Fatal(i, err)
			}
		}
		time.Sleep(20 * time.Second)
		_, err := r.Register(groupDevice("late"), model.RegistrationRequest{})
		refusal := refused(t, err, 429001)
		if refusal.Status != 429 || refusal.RetryAfter != 10*time.Second || refusal.Message != "Operations are being throttled for this tenant." {
			t.Errorf("got %+v", refusal)
		}
		time.Sleep(refusal.RetryAfter)
		if _, err := r.Register(groupDevice("late"), model.RegistrationRequest{}); err != nil {
			t.Error(err)
		}
	})
}

// TestPendingSurvives checks that the next process resumes what was pending.
func TestPendingSurvives(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	state, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, state, nil)
	r.putGroup(customGroup(nil))
	r.hook.set(answers(503, "")) // the next call is a second away
	caller := groupDevice("device-1")
	status, err := r.Register(caller, model.RegistrationRequest{Payload: json.RawMessage(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := state.Close(); err != nil {
		t.Fatal(err)
	}

	if state, err = store.Open(path); err != nil {
		t.Fatal(err)
	}
	server := newWebhook(t, hubB)
	if err := state.Update(func(tx *store.Tx) error {
		g := customGroup(func(g *model.EnrollmentGroup) { g.CustomAllocationDefinition.WebhookURL = server })
		return tx.Put("enrollmentGroups", "toasters", g)
	}); err != nil {
		t.Fatal(err)
	}
	r = newNetworkRig(t, state, nil)
	if got := r.await(caller, status); got.Status != "assigned" || got.RegistrationState.AssignedHub != hubB {
		t.Errorf("got %+v", got)
	}
	r.Close()
	if err := state.Close(); err != nil {
		t.Error(err)
	}
}
