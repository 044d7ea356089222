package web_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestRecordsByVersion writes a record with everything in each version, and expects that each version gets the members
// that both have.
func TestRecordsByVersion(t *testing.T) {
	t.Parallel()
	const (
		issuers = "namespaceName certificateAuthorityName certificatePolicyName"
		first   = "reprovisionPolicy allocationPolicy iotHubs customAllocationDefinition"
	)
	members := map[string]string{
		"2017-11-15":         "",
		"2018-04-01":         "",
		"2018-09-01-preview": first,
		"2018-11-01":         first,
		"2019-03-31":         first,
		"2019-04-15":         first,
		"2021-06-01":         first,
		"2021-10-01":         first,
		"2021-11-01-preview": first + " trustBundleId clientCertificateIssuancePolicy serverCertificateIssuancePolicy",
		"2025-07-01-preview": first + " credentialPolicyName",
		"2026-04-01":         first + " credentialPolicyName",
		"2026-07-01-preview": first + " certificatePolicyResourceId",
		"2026-11-01":         first + " " + issuers,
		"2026-11-02-preview": first + " " + issuers + " deviceTypeRefs",
		"2026-11-15-preview": first + " " + issuers + " deviceTypeRefs",
	}
	const everything = `"attestation":{"type":"symmetricKey"},"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true},
		"allocationPolicy":"custom","iotHubs":["` + hubA + `"],"customAllocationDefinition":{"webhookUrl":"https://x.example","apiVersion":"2026-11-01"},
		"namespaceName":"plant","certificateAuthorityName":"Plant-CA","certificatePolicyName":"yearly","credentialPolicyName":"weekly",
		"certificatePolicyResourceId":"/subscriptions/s","trustBundleId":"roots","deviceTypeRefs":["press"],
		"clientCertificateIssuancePolicy":{"certificateAuthorityName":"c"},"serverCertificateIssuancePolicy":{"certificateAuthorityName":"s"},
		"later":1`
	always := []string{"attestation", "createdDateTimeUtc", "etag", "lastUpdatedDateTimeUtc", "provisioningStatus"}
	s := newStand(t, nil)
	for written, has := range members {
		for collection, idField := range map[string]string{"/enrollments": "registrationId", "/enrollmentGroups": "enrollmentGroupId"} {
			path, document := collection+"/r", `{"`+idField+`":"r",`+everything+`}`
			// What was there before, in a version that has the most, does not survive.
			s.manageIn("2026-11-02-preview", "PUT", path, document).want(200)
			put := s.manageIn(written, "PUT", path, document, "If-Match", "*").want(200)
			check := func(what string, got json.RawMessage, read string) {
				t.Helper()
				var record map[string]any
				if err := json.Unmarshal(got, &record); err != nil {
					t.Fatal(err)
				}
				want := append([]string{idField}, always...)
				for _, member := range strings.Fields(has) {
					if slices.Contains(strings.Fields(members[read]), member) {
						want = append(want, member)
					}
				}
				slices.Sort(want)
				if names := slices.Sorted(maps.Keys(record)); !slices.Equal(names, want) {
					t.Errorf("%s %s written in %s, read in %s: got %v, want %v", what, path, written, read, names, want)
				}
			}
			check("PUT", put.body, written)
			for read := range members {
				check("GET", s.manageIn(read, "GET", path, "").want(200).body, read)
				var page []json.RawMessage
				if err := json.Unmarshal(s.manageIn(read, "POST", collection+"/query", `{"query":"*"}`).want(200).body, &page); err != nil || len(page) != 1 {
					t.Fatal(len(page), err)
				}
				check("query", page[0], read)
			}
			s.manage("DELETE", path, "").want(204)
			list := strings.TrimPrefix(collection, "/")
			s.manageIn(written, "POST", collection, fmt.Sprintf(`{"mode":"create","%s":[%s]}`, list, document)).want(200)
			check("bulk", s.manageIn("2026-11-02-preview", "GET", path, "").want(200).body, "2026-11-02-preview")
			s.manage("DELETE", path, "").want(204)
		}
	}
}

// TestMembersOf2026 checks the rules of the newest members.
func TestMembersOf2026(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	for member, want := range map[string]int{
		`"namespaceName":"plant-7"`:                 200,
		`"namespaceName":"p7"`:                      400,
		`"namespaceName":"Plant"`:                   400,
		`"namespaceName":"plant-"`:                  400,
		`"certificateAuthorityName":"Plant-"`:       200,
		`"certificateAuthorityName":"-plant"`:       400,
		`"certificatePolicyName":"a_b"`:             400,
		`"certificatePolicyName":"yearly"`:          200,
		`"deviceTypeRefs":["press"]`:                200,
		`"deviceTypeRefs":["press","lathe"]`:        400,
		`"NAMESPACENAME":"plant"`:                   200, // names are read in any case
		`"allocationPolicy":"Hashed"`:               200, // and words
		`"provisioningStatus":"Disabled"`:           200,
		`"allocationPolicy":"evenlyDistributed"`:    400,
		`"attestation":{"type":"SYMMETRICKEY"}`:     200,
		`"attestation":{"type":"none"}`:             200,
		`"attestation":{"type":"None","tpm":{}}`:    200,
		`"provisioningStatus":"paused"`:             400,
		`"deviceTypeRefs":[]`:                       200,
		`"certificateAuthorityName":"` + hubA + `"`: 400,
	} {
		document := `{"attestation":{"type":"symmetricKey"},` + member + `}`
		if strings.Contains(member, "attestation") {
			document = `{` + member + `}`
		}
		for _, path := range []string{"/enrollments/e", "/enrollmentGroups/e"} {
			got := s.manageIn("2026-11-02-preview", "PUT", path, document)
			if got.want(want); want != 200 {
				continue
			}
			for _, word := range []string{"Hashed", "Disabled", "SYMMETRICKEY", "None", "NAMESPACENAME", "tpm"} {
				if strings.Contains(string(got.body), word) {
					t.Errorf("%s: got %s", document, got.body)
				}
			}
			s.manage("DELETE", path, "").want(204)
		}
	}
}
