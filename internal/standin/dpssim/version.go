package dpssim

import (
	"net/http"
	"slices"
)

// versions are the API versions of DPS's data plane, oldest first: those of the specification, and older ones that SDKs
// send. Some were only ever previews.
//
// Source: specification/deviceprovisioningservices/data-plane in Azure/azure-rest-api-specs, and the SDKs
var versions = []string{
	"2017-11-15", "2018-04-01", "2018-09-01-preview", "2018-11-01", "2019-03-31", "2019-04-15", "2021-06-01", "2021-10-01",
	"2021-11-01-preview", "2025-07-01-preview", "2026-04-01", "2026-07-01-preview", "2026-11-01", "2026-11-02-preview",
	"2026-11-15-preview",
}

// firstWebhookVersion is the oldest version of AllocationRequests.
const firstWebhookVersion = "2018-09-01-preview"

// CheckVersion refuses a call without an API version that DPS has, in the words of a captured refusal.
func CheckVersion(version string) error {
	switch {
	case version == "":
		return invalidArgument("api-version is missing")
	case !slices.Contains(versions, version):
		return &APIError{Status: http.StatusBadRequest, Code: CodeInvalidArgument, Message: "Unsupported API version " + cut(version) + "."}
	}
	return nil
}
