package ruleset

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/dps"
)

// Roots of the paths in custom.recordable: objects with contents that only operators, rule authors and devices know.
const (
	RecordablePayload      = "payload"                   // what the device sent
	RecordableTwin         = "initialTwin"               // of the enrollment
	RecordableCertificate  = "certificate"               // attributes of the device's certificate, as in dps.certificate
	RecordableInformation  = "optionalDeviceInformation" // of an individual enrollment
	RecordableAnswerTwin   = "answer.initialTwin"        // what the rule says in initial_twin
	RecordableAnswerResult = "answer.payload"            // what the rule says in payload
)

// RecordableRoots are the possible starts of the paths in custom.recordable.
func RecordableRoots() []string {
	return []string{RecordablePayload, RecordableTwin, RecordableCertificate, RecordableInformation, RecordableAnswerTwin, RecordableAnswerResult}
}

// readRecordable reads custom.recordable: a list of paths with dots, such as payload.model.
func readRecordable(value any, place string) (paths [][]string, problems []Problem) {
	fix := "paths start with " + strings.Join(RecordableRoots(), ", ") + ", and name what is below with dots, such as payload.model"
	texts, mistake := stringList(value)
	if mistake != "" {
		return nil, []Problem{{Place: place, Message: "custom." + customRecordable + " is not a list of paths: " + mistake, Fix: fix}}
	}
	for _, text := range texts {
		wrong := func(format string, args ...any) {
			problems = append(problems, Problem{Place: place, Fix: fix,
				Message: fmt.Sprintf("custom.%s: %q ", customRecordable, text) + fmt.Sprintf(format, args...)})
		}
		root, below := cutRoot(text)
		switch {
		case root == "":
			wrong("is not a path to something that can be recorded")
			continue
		case slices.Contains(below, ""):
			wrong("has two dots in a row or one at the end")
			continue
		}
		if isTwin := root == RecordableTwin || root == RecordableAnswerTwin; isTwin && len(below) > 0 {
			inTwin := below[0] == "tags" || below[0] == "properties" && (len(below) == 1 || below[1] == "desired")
			if !inTwin {
				wrong("is not in a twin, which has tags and properties.desired")
				continue
			}
		}
		if root == RecordableCertificate && !isAttribute(below) {
			wrong("is not an attribute of a certificate, such as certificate.subject.organization")
			continue
		}
		path := append([]string{root}, below...)
		if slices.ContainsFunc(paths, func(other []string) bool { return slices.Equal(other, path) }) {
			wrong("is listed twice")
			continue
		}
		paths = append(paths, path)
	}
	return paths, problems
}

// isAttribute reports whether a path leads to a member of dps.certificate.
func isAttribute(path []string) bool {
	var at types.Type = certificateType()
	for _, name := range path {
		if at = types.Select(at, name); at == nil {
			return false
		}
	}
	return true
}

// CertificateAttributes are what rules see of a certificate in dps.certificate, in the types of [Verdict].
func CertificateAttributes(c *dps.Certificate) map[string]any {
	return map[string]any{
		"subject": nameAttributes(c.Subject), "issuer": nameAttributes(c.Issuer),
		"serialNumber": c.SerialNumber, "version": json.Number(strconv.Itoa(c.Version)),
		"notBeforeUtc": c.NotBefore.Format(time.RFC3339), "notAfterUtc": c.NotAfter.Format(time.RFC3339),
		"dnsNames": list(c.DNSNames), "uris": list(c.URIs),
		"sha1Thumbprint": c.SHA1Thumbprint, "sha256Thumbprint": c.SHA256Thumbprint,
	}
}

func nameAttributes(n dps.CertificateName) map[string]any {
	return map[string]any{
		"commonName": n.CommonName, "serialNumber": n.SerialNumber, "organization": list(n.Organization),
		"organizationalUnit": list(n.OrganizationalUnit), "country": list(n.Country), "province": list(n.Province),
		"locality": list(n.Locality),
	}
}

func list(texts []string) []any {
	values := make([]any, len(texts))
	for i, text := range texts {
		values[i] = text
	}
	return values
}

// cutRoot splits a path into its root, empty if it has none, and what is below it.
func cutRoot(path string) (root string, below []string) {
	for _, root := range RecordableRoots() {
		rest, found := strings.CutPrefix(path, root)
		switch {
		case found && rest == "":
			return root, nil
		case found && rest[0] == '.':
			return root, strings.Split(rest[1:], ".")
		}
	}
	return "", nil
}
