package enrollment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Versions of DPS's data plane, newest first. DPS omits from a record the members that the version of the call does not
// know, and resets them when the record is written with that version.
//
// Source: specification/deviceprovisioningservices/data-plane in Azure/azure-rest-api-specs
var (
	stableVersions  = []string{"2026-11-01", "2021-10-01"}
	previewVersions = []string{"2026-11-15-preview", "2026-11-02-preview", "2026-07-01-preview", "2026-04-01", "2025-07-01-preview", "2021-11-01-preview"}
)

// WebhookVersions returns the versions of AllocationRequests that an enrollment may ask for, oldest first. DPS takes none
// before 2018-09-01-preview.
func WebhookVersions() []string {
	return []string{"2018-09-01-preview", "2018-11-01", "2019-03-31", "2019-04-15", "2021-06-01", "2021-10-01", "2021-11-01-preview",
		"2025-07-01-preview", "2026-04-01", "2026-07-01-preview", "2026-11-01", "2026-11-02-preview", "2026-11-15-preview"}
}

// errVersion means that DPS does not know the API version of a call.
var errVersion = errors.New("DPS does not take this API version")

// isUnsupportedVersion recognizes DPS's answer to a version that it does not know: "Unsupported API version X."
func isUnsupportedVersion(status int, body []byte) bool {
	return status == http.StatusBadRequest && strings.Contains(strings.ToLower(string(body)), "api version")
}

// call sends a request with the newest stable version that DPS takes, which it finds out with the first call.
func (c *Client) call(ctx context.Context, method string, header map[string]string, body, into any, path ...string) (http.Header, error) {
	for {
		answered, err := c.callWith(ctx, c.versions[0], method, header, body, into, path...)
		if !errors.Is(err, errVersion) || len(c.versions) == 1 {
			return answered, err
		}
		c.versions = c.versions[1:]
	}
}

// checkHidden reads the record with all preview versions, because some have members that no later version has. It fails if
// one shows members that the version of the client hides: writing the record would reset them.
func (c *Client) checkHidden(ctx context.Context, e Enrollment) error {
	for _, version := range previewVersions {
		var document map[string]any
		_, err := c.callWith(ctx, version, http.MethodGet, nil, nil, &document, e.Kind.path(), e.ID())
		if errors.Is(err, errVersion) {
			continue
		}
		if err != nil {
			return err
		}
		hidden := slices.DeleteFunc(slices.Sorted(maps.Keys(document)), func(name string) bool {
			_, known := e.Document[name]
			return known || slices.Contains(readOnly, name) || document[name] == nil
		})
		if len(hidden) > 0 {
			return fmt.Errorf("it has %s, which API version %s would reset: use --service-version %s", strings.Join(hidden, ", "), c.versions[0], version)
		}
	}
	return nil
}
