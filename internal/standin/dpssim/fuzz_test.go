package dpssim_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

func fuzzService(f *testing.F) *dpssim.Service {
	f.Helper()
	state := store.Memory()
	service, err := dpssim.New(dpssim.Config{
		IDScope: idScope, Hubs: []dpssim.LinkedHub{{HostName: hubA}}, JournalSize: 10,
	}, state, hub.New(state, time.Now))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(service.Close)
	return service
}

// FuzzEnrollment checks that what is accepted reads back the same.
func FuzzEnrollment(f *testing.F) {
	service := fuzzService(f)
	f.Add([]byte(`{"registrationId":"d","attestation":{"type":"symmetricKey"},"allocationPolicy":"hashed","iotHubs":["` + hubA + `"]}`))
	f.Add([]byte(`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"AAAA"}}}}}`))
	f.Add([]byte(`{"attestation":{"type":"tpm","tpm":{"endorsementKey":"AAAA"}},"initialTwin":{"tags":{},"properties":{"desired":null}}}`))
	f.Add([]byte(`{"attestation":{"type":"symmetricKey","symmetricKey":{}},"later":1,"iotHubHostName":"` + hubA + `"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var e model.IndividualEnrollment
		if json.Unmarshal(body, &e) != nil {
			return
		}
		_ = service.Enrollments.Delete("d", "") // of the input before; else Put would refuse to replace it
		if err := service.Enrollments.Put("d", &e, ""); err != nil {
			_, _ = dpssim.Answer(err)
			return
		}
		first, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("saved and cannot be written: %v", err)
		}
		got, err := service.Enrollments.Get("D")
		if err != nil {
			t.Fatal(err)
		}
		second, err := json.Marshal(got)
		if err != nil || string(first) != string(second) {
			t.Errorf("saved %s, got %s, %v", first, second, err)
		}
		// A client that read it may put it back.
		if err := service.Enrollments.Put("d", got, got.Common().ETag); err != nil {
			t.Errorf("read and put back: %v", err)
		}
	})
}

func FuzzBulk(f *testing.F) {
	service := fuzzService(f)
	f.Add([]byte(`{"mode":"create","enrollmentGroups":[{"enrollmentGroupId":"g","attestation":{"type":"symmetricKey"}}]}`))
	f.Add([]byte(`{"mode":"delete","enrollmentGroups":[{"enrollmentGroupId":""}]}`))
	f.Add([]byte(`{"mode":"updateIfMatchETag","enrollments":[{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var operation model.BulkOperation
		if json.Unmarshal(body, &operation) != nil {
			return
		}
		for _, apply := range []func(model.BulkOperation) (model.BulkResult, error){service.Enrollments.Bulk, service.Groups.Bulk} {
			if result, err := apply(operation); err == nil && result.IsSuccessful != (len(result.Errors) == 0) {
				t.Errorf("got %+v", result)
			}
		}
	})
}

func FuzzRegistration(f *testing.F) {
	service := fuzzService(f)
	group := customGroup(func(g *model.EnrollmentGroup) { g.AllocationPolicy = "hashed" })
	if err := service.Groups.Put("toasters", &group, ""); err != nil {
		f.Fatal(err)
	}
	f.Add("d1", []byte(`{"registrationId":"d1","payload":{"a":1}}`))
	f.Add("D-1:_.x", []byte(`{"RegistrationId":"d1","payload":null,"tpm":{"endorsementKey":"AAAA"}}`))
	f.Add("", []byte(`{}`))
	f.Fuzz(func(t *testing.T, id string, body []byte) {
		var request model.RegistrationRequest
		if json.Unmarshal(body, &request) != nil {
			return
		}
		status, err := service.Register(groupDevice(id), request)
		if err != nil {
			refusal, _ := dpssim.Answer(err)
			if refusal.Status >= 500 {
				t.Errorf("got %v", err)
			}
			return
		}
		if status.Status != model.StatusAssigning || status.OperationID == "" {
			t.Errorf("got %+v", status)
		}
	})
}

func FuzzMask(f *testing.F) {
	f.Add([]byte(`{"primaryKey":"a","b":[{"certificate":"c"}]}`))
	f.Add([]byte(`{"a":1e400}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if masked := dpssim.Mask(body); masked != nil && !json.Valid(masked) {
			t.Errorf("%q became %q", body, masked)
		}
	})
}
