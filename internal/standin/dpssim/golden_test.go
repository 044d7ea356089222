package dpssim_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
)

// stamped matches the members whose values the service sets.
var stamped = regexp.MustCompile(`"(etag|createdDateTimeUtc|lastUpdatedDateTimeUtc)":("(?:[^"\\]|\\.)*")`)

// TestAllocationRequestsAsCaptured enrolls what the captured requests have, registers the device, and expects exactly
// the bytes that DPS posted, except for ETags and times.
func TestAllocationRequestsAsCaptured(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/req-verbatim-*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			captured := compact(t, readFile(t, file))
			var want model.AllocationRequest
			if err := json.Unmarshal(captured, &want); err != nil {
				t.Fatal(err)
			}
			r := newRig(t, linking(want.LinkedHubs))
			group := *want.EnrollmentGroup
			group.Attestation.SymmetricKey = &model.SymmetricKey{PrimaryKey: groupKey}
			group.CustomAllocationDefinition.WebhookURL = trueURL(group.CustomAllocationDefinition.WebhookURL)
			r.putGroup(group)
			got := r.requestOf(want, groupDevice(want.DeviceRuntimeContext.RegistrationID), nil)

			// The shape of what the service sets is checked, the value is not.
			for _, members := range [][][][]byte{stamped.FindAllSubmatch(got, -1), stamped.FindAllSubmatch(captured, -1)} {
				if len(members) != 3 {
					t.Fatalf("%d members, want 3", len(members))
				}
				for _, member := range members {
					if name, value := string(member[1]), string(member[2]); name == "etag" && !etags.MatchString(value) || name != "etag" && !times.MatchString(value) {
						t.Errorf("%s is %s", name, value)
					}
				}
			}
			gotBare, wantBare := stamped.ReplaceAll(got, []byte(`"$1":""`)), stamped.ReplaceAll(captured, []byte(`"$1":""`))
			if !bytes.Equal(gotBare, wantBare) {
				t.Errorf("got\n%s\nwant\n%s", gotBare, wantBare)
			}
			for _, url := range r.hook.urls {
				if url != trueURL(want.EnrollmentGroup.CustomAllocationDefinition.WebhookURL) {
					t.Errorf("called %s", url)
				}
			}
		})
	}
}

var (
	etags = regexp.MustCompile(`^"\\"[0-9a-f]{8}-0000-[0-9a-f]{4}-0000-[0-9a-f]{12}\\""$`)
	times = regexp.MustCompile(`^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,6}[1-9])?Z"$`)
)

func linking(hubs []string) func(*dpssim.Config) {
	return func(c *dpssim.Config) {
		c.Hubs = nil
		for _, name := range hubs {
			c.Hubs = append(c.Hubs, dpssim.LinkedHub{HostName: name})
		}
		for _, name := range []string{"contoso-eu-hub.azure-devices.net", "contoso-us-hub.azure-devices.net"} {
			if len(hubs) == 1 && strings.HasPrefix(name, "contoso-us") && strings.HasPrefix(hubs[0], "contoso-eu") {
				c.Hubs = append(c.Hubs, dpssim.LinkedHub{HostName: name})
			}
		}
	}
}

// trueURL is the URL that was masked.
func trueURL(masked string) string {
	return strings.Replace(masked, "?****", "?code=secret&clientId=dps", 1)
}

// requestOf registers a device as often as the wanted request requires and returns what the webhook received last.
func (r *rig) requestOf(want model.AllocationRequest, caller dpssim.Caller, tpm *softtpm.TPM) []byte {
	r.t.Helper()
	current := want.DeviceRuntimeContext.CurrentIotHubHostName
	if current == "" {
		current = want.LinkedHubs[0]
	}
	r.hook.set(answers(200, `{"iotHubHostName":"`+current+`"}`))
	registrations := 1
	if want.DeviceRuntimeContext.CurrentIotHubHostName != "" {
		registrations = 2
	}
	request := model.RegistrationRequest{RegistrationID: caller.RegistrationID, Payload: want.DeviceRuntimeContext.Payload}
	for range registrations {
		if tpm != nil {
			keys := tpm.Keys()
			request.TPM = &keys
			caller.SAS = r.answerChallenge(caller, request, tpm)
		}
		if state := r.register(caller, request).RegistrationState; state.Status != "assigned" {
			r.t.Fatalf("got %+v", state)
		}
	}
	if r.hook.calls() != registrations {
		r.t.Fatalf("%d calls, want %d", r.hook.calls(), registrations)
	}
	return r.hook.requests[registrations-1]
}

// answerChallenge makes the TPM's first register call and signs with the key of the challenge.
func (r *rig) answerChallenge(caller dpssim.Caller, request model.RegistrationRequest, tpm *softtpm.TPM) string {
	r.t.Helper()
	caller.SAS = ""
	_, err := r.Register(caller, request)
	refusal := refused(r.t, err, dpssim.CodeInvalidCredentials)
	if refusal.Status != 401 || refusal.Challenge == nil || refusal.Challenge.KeyName != "registration" {
		r.t.Fatalf("got %+v", refusal)
	}
	blob, err := base64.StdEncoding.DecodeString(refusal.Challenge.AuthenticationKey)
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := tpm.Import(blob)
	if err != nil {
		r.t.Fatal(err)
	}
	return token(caller.RegistrationID, key)
}

// TestAllocationRequestsAsConstructed does the same for requests that were never captured: it compares members and
// values in any order. Keys and certificates are new.
func TestAllocationRequestsAsConstructed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/constructed-*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			document := readFile(t, file)
			var want model.AllocationRequest
			if err := json.Unmarshal(document, &want); err != nil {
				t.Fatal(err)
			}
			id := want.DeviceRuntimeContext.RegistrationID
			root := (*authority)(nil).issue(t, "Contoso Root", true, nextYear())
			leaf := root.issue(t, id, false, nextYear())
			link := linking(want.LinkedHubs)
			r := newRig(t, func(c *dpssim.Config) {
				link(c)
				c.Certificates = []dpssim.CACertificate{{Name: "contoso-root-ca", Certificate: root.certificate}}
			})
			caller := groupDevice(id)
			var tpm *softtpm.TPM
			fill := func(e *model.Enrollment) {
				a := &e.Attestation
				e.CustomAllocationDefinition.WebhookURL = trueURL(e.CustomAllocationDefinition.WebhookURL)
				switch a.Type {
				case model.AttestationSymmetricKey:
					a.SymmetricKey = &model.SymmetricKey{PrimaryKey: groupKey}
				case model.AttestationTPM:
					var err error
					if tpm, err = softtpm.New(); err != nil {
						t.Fatal(err)
					}
					keys := tpm.Keys()
					a.TPM = &keys
				case model.AttestationX509:
					caller = certificateDevice(id, leaf)
					if a.X509.ClientCertificates != nil {
						a.X509.ClientCertificates.Primary.Certificate = leaf.pem()
					}
					if a.X509.SigningCertificates != nil {
						a.X509.SigningCertificates.Primary.Certificate = root.pem()
					}
				}
			}
			if e := want.IndividualEnrollment; e != nil {
				fill(&e.Enrollment)
				r.putIndividual(*e)
			} else {
				fill(&want.EnrollmentGroup.Enrollment)
				r.putGroup(*want.EnrollmentGroup)
			}
			got := comparableOf(t, r.requestOf(want, caller, tpm))
			if wanted := comparableOf(t, document); !reflect.DeepEqual(got, wanted) {
				t.Errorf("got\n%s\nwant\n%s", indented(got), indented(wanted))
			}
		})
	}
}

func indented(value any) string {
	text, _ := json.MarshalIndent(value, "", " ")
	return string(text)
}

// comparableOf decodes a request and replaces values that differ with a word for their kind: what the service stamps,
// keys, certificates and what is read from them.
func comparableOf(t *testing.T, document []byte) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatal(err)
	}
	var walk func(any) any
	walk = func(value any) any {
		object, ok := value.(map[string]any)
		if !ok {
			return value
		}
		for name, member := range object {
			switch name {
			case "etag", "endorsementKey", "storageRootKey", "clientCertificate", "subjectName", "issuerName",
				"sha1Thumbprint", "sha256Thumbprint", "serialNumber":
				if text, ok := member.(string); ok && text != "" {
					object[name] = "some text"
				}
			case "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "notBeforeUtc", "notAfterUtc":
				if text, ok := member.(string); ok {
					if _, err := time.Parse(time.RFC3339Nano, text); err == nil {
						object[name] = "a time"
					}
				}
			default:
				object[name] = walk(member)
			}
		}
		return object
	}
	return walk(value)
}

// TestClientCertificateIsTheLeaf expects base64 of DER, without PEM lines.
func TestClientCertificateIsTheLeaf(t *testing.T) {
	t.Parallel()
	root := (*authority)(nil).issue(t, "Root", true, nextYear())
	leaf := root.issue(t, "device-1", false, nextYear())
	r := newRig(t, nil)
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
		g.Attestation = model.Attestation{Type: model.AttestationX509, X509: &model.X509{
			SigningCertificates: &model.X509Certificates{Primary: &model.X509Certificate{Certificate: root.pem()}},
		}}
	}))
	state := r.register(certificateDevice("device-1", leaf), model.RegistrationRequest{}).RegistrationState
	var posted struct {
		DeviceRuntimeContext struct {
			X509 struct{ ClientCertificate string }
		}
	}
	if err := json.Unmarshal(r.hook.requests[0], &posted); err != nil {
		t.Fatal(err)
	}
	if der, err := base64.StdEncoding.DecodeString(posted.DeviceRuntimeContext.X509.ClientCertificate); err != nil || !bytes.Equal(der, leaf.certificate.Raw) {
		t.Errorf("clientCertificate %.40q: %v", posted.DeviceRuntimeContext.X509.ClientCertificate, err)
	}
	if x := state.X509; x == nil || x.EnrollmentGroupID != "toasters" || x.CertificateInfo.SubjectName != "CN=device-1, O=Contoso" ||
		x.SigningCertificateInfo.SubjectName != "CN=Root, O=Contoso" {
		t.Errorf("x509 of the result: %+v", x)
	}
}

// TestAbsentMembersStayAbsent uses an enrollment with only the required members.
func TestAbsentMembersStayAbsent(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
		g.CustomAllocationDefinition.WebhookURL = "http://localhost:7071/api/allocate"
	}))
	r.register(groupDevice("d1"), model.RegistrationRequest{})
	got := string(stamped.ReplaceAll(r.hook.requests[0], []byte(`"$1":""`)))
	want := `{"enrollmentGroup":{"enrollmentGroupId":"toasters","attestation":{"type":"symmetricKey"},"etag":"","provisioningStatus":"enabled",` +
		`"createdDateTimeUtc":"","lastUpdatedDateTimeUtc":"","allocationPolicy":"custom",` +
		`"customAllocationDefinition":{"webhookUrl":"http://localhost:7071/api/allocate","apiVersion":"2019-03-31"}},` +
		`"deviceRuntimeContext":{"registrationId":"d1","symmetricKey":{}},"linkedHubs":["` + hubA + `","` + hubB + `","` + hubC + `"]}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestUnknownMembersAreKept checks that members of a later API version are kept and posted.
func TestUnknownMembersAreKept(t *testing.T) {
	t.Parallel()
	var g model.EnrollmentGroup
	document := `{"EnrollmentGroupId":"g","ATTESTATION":{"type":"symmetricKey"},"credentialPolicyName":"p","later":{"a":[1,2.50]}}`
	if err := json.Unmarshal([]byte(document), &g); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil)
	r.putGroup(g)
	got, err := r.Groups.Get("g")
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(body); !strings.Contains(text, `"credentialPolicyName":"p"`) || !strings.Contains(text, `"later":{"a":[1,2.50]}`) {
		t.Errorf("got %s", text)
	}
}

// TestAllocationRequestsByVersion checks that a webhook sees the members of the version that it asks for.
func TestAllocationRequestsByVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{"2021-10-01": "", "2025-07-01-preview": "", "2026-11-01": "yearly", "2026-11-02-preview": "yearly"} {
		r := newRig(t, nil)
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
			g.CertificatePolicyName = "yearly"
			g.CustomAllocationDefinition.APIVersion = version
		}))
		individual := model.IndividualEnrollment{RegistrationID: "single", Enrollment: customGroup(nil).Enrollment}
		individual.CertificatePolicyName = "yearly"
		individual.CustomAllocationDefinition.APIVersion = version
		r.putIndividual(individual)
		key, err := base64.StdEncoding.DecodeString(groupKey)
		if err != nil {
			t.Fatal(err)
		}
		single := groupDevice("single")
		single.SAS = token("single", key)
		for _, caller := range []dpssim.Caller{groupDevice("d1"), single} {
			r.register(caller, model.RegistrationRequest{})
			request := r.hook.lastRequest(t)
			got := ""
			if request.EnrollmentGroup != nil {
				got = request.EnrollmentGroup.CertificatePolicyName
			} else {
				got = request.IndividualEnrollment.CertificatePolicyName
			}
			if got != want {
				t.Errorf("%s, %s: got %q, want %q", version, caller.RegistrationID, got, want)
			}
		}
		if stored, err := r.Groups.Get("toasters"); err != nil || stored.Common().CertificatePolicyName != "yearly" {
			t.Errorf("%s: the record lost the member: %+v, %v", version, stored, err)
		}
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func compact(t *testing.T, document []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, document); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
