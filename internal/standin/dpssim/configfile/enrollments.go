package configfile

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Enrollments are written as the service API takes them, but for some short forms:
//
//   - hubs by their first label
//   - reprovisionPolicy: migrate, reset or never
//   - certificateFile: PATH, where the API takes a certificate's text
//   - allocationPolicy: custom without a customAllocationDefinition

// words of reprovisionPolicy.
var reprovisionPolicies = map[string]model.ReprovisionPolicy{
	"migrate": {UpdateHubAssignment: true, MigrateDeviceData: true},
	"reset":   {UpdateHubAssignment: true},
	"never":   {},
}

func (r *fileReader) group(node *yaml.Node, path string) {
	var group model.EnrollmentGroup
	if !r.enrollment(node, path, "enrollmentGroupId", &group, &group.Enrollment, &group.Attestation) {
		return
	}
	if slices.ContainsFunc(r.file.Groups, func(other model.EnrollmentGroup) bool {
		return strings.EqualFold(other.EnrollmentGroupID, group.EnrollmentGroupID)
	}) {
		r.wrong(node, path, "there is another group of that enrollmentGroupId")
		return
	}
	r.file.Groups = append(r.file.Groups, group)
	r.file.GroupPlaces = append(r.file.GroupPlaces, r.place(node, path))
}

func (r *fileReader) individual(node *yaml.Node, path string) {
	var enrollment model.IndividualEnrollment
	if !r.enrollment(node, path, "registrationId", &enrollment, &enrollment.Enrollment, &enrollment.Attestation) {
		return
	}
	if slices.ContainsFunc(r.file.Enrollments, func(other model.IndividualEnrollment) bool {
		return strings.EqualFold(other.RegistrationID, enrollment.RegistrationID)
	}) {
		r.wrong(node, path, "there is another enrollment of that registrationId")
		return
	}
	r.file.Enrollments = append(r.file.Enrollments, enrollment)
	r.file.EnrollmentPlaces = append(r.file.EnrollmentPlaces, r.place(node, path))
}

// enrollment reads an enrollment into record, of which common and attestation are parts.
func (r *fileReader) enrollment(node *yaml.Node, path, id string, record any, common *model.Enrollment, attestation *model.Attestation) bool {
	if node.Kind != yaml.MappingNode {
		r.wrong(node, path, "want a mapping (name: value), got %s", kindOf(node))
		return false
	}
	before := len(r.problems)
	r.completeMembers(node, path)
	text, ok := r.json(node, path, 0)
	if !ok {
		return false
	}
	if err := json.Unmarshal(text, record); err != nil {
		r.wrong(r.nodeOf(node, err), path, "it is not as DPS's service API takes it: %s", plain(err))
		return false
	}
	r.checkKnown(node, path, marshal(record), common.Unknown)
	if member(node, id) == nil || member(node, id).Value == "" {
		r.wrong(node, path, "%s is missing", id)
	}
	if attestation.Type == "" {
		r.wrong(node, path, "attestation is missing, as in attestation: {type: symmetricKey}")
	}
	for i, name := range common.IotHubs {
		common.IotHubs[i] = HubHostName(name)
	}
	if common.IotHubHostName != "" {
		common.IotHubHostName = HubHostName(common.IotHubHostName)
	}
	if common.AllocationPolicy == model.PolicyCustom && common.CustomAllocationDefinition == nil {
		if r.webhook == "" {
			r.wrong(node, path, "it is allocated by a webhook, and none is named: set webhook.url")
		}
		common.CustomAllocationDefinition = &model.CustomAllocationDefinition{WebhookURL: r.webhook, APIVersion: apiVersion}
	}
	return len(r.problems) == before
}

// completeMembers writes short forms out in the tree.
func (r *fileReader) completeMembers(node *yaml.Node, path string) {
	if policy := member(node, "reprovisionPolicy"); policy != nil && policy.Kind == yaml.ScalarNode && !isNull(policy) {
		word, ok := reprovisionPolicies[policy.Value]
		if !ok {
			r.wrong(policy, below(path, "reprovisionPolicy"), "want migrate, reset or never, or the object of the service API")
		} else if err := policy.Encode(map[string]bool{
			"updateHubAssignment": word.UpdateHubAssignment, "migrateDeviceData": word.MigrateDeviceData,
		}); err != nil {
			r.wrong(policy, below(path, "reprovisionPolicy"), "%v", err)
		}
	}
	r.certificateFiles(member(member(node, "attestation"), "x509"), below(path, "attestation.x509"))
}

// certificateFiles replaces certificateFile members by what the files hold.
func (r *fileReader) certificateFiles(node *yaml.Node, path string) {
	if node == nil || node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value != "certificateFile" {
			r.certificateFiles(value, below(path, key.Value))
			continue
		}
		place := below(path, key.Value)
		text, ok := r.read(value, place, value.Value)
		if !ok {
			continue
		}
		if _, err := attest.ParseCertificate(string(text)); err != nil {
			r.wrong(value, place, "%s: %v", value.Value, err)
			continue
		}
		key.Value = "certificate"
		value.SetString(string(text))
	}
}

// checkKnown finds members that got lost on the way through the model: DPS does
// not know them. Empty ones may.
func (r *reader) checkKnown(node *yaml.Node, path string, kept json.RawMessage, unknown map[string]json.RawMessage) {
	var members map[string]json.RawMessage
	if node.Kind == yaml.SequenceNode {
		var items []json.RawMessage
		if json.Unmarshal(kept, &items) == nil {
			for i, item := range node.Content {
				if i < len(items) {
					r.checkKnown(item, path, items[i], nil)
				}
			}
		}
		return
	}
	if node.Kind != yaml.MappingNode || json.Unmarshal(kept, &members) != nil {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		child, found := members[key.Value]
		_, kept := unknown[key.Value]
		switch empty := isNull(value) || value.Kind == yaml.ScalarNode && value.Value == ""; {
		case kept, !found && !empty:
			r.wrong(key, below(path, key.Value), "DPS has no such member, or spells it in another way")
		case found:
			r.checkKnown(value, below(path, key.Value), child, nil)
		}
	}
}

// nodeOf finds the line of what JSON could not read, as far as the error tells.
func (r *reader) nodeOf(node *yaml.Node, err error) *yaml.Node {
	text := err.Error()
	_, pointer, ok := strings.Cut(text, `within "`)
	if !ok {
		return node
	}
	pointer, _, _ = strings.Cut(pointer, `"`)
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		next := member(node, name)
		if next == nil {
			break
		}
		node = next
	}
	return node
}

// plain leaves out of an error what is about Go.
func plain(err error) string {
	text := strings.TrimPrefix(err.Error(), "json: ")
	if i := strings.Index(text, " into Go "); i >= 0 {
		rest := text[i:]
		text = text[:i]
		if _, place, ok := strings.Cut(rest, ` within "`); ok {
			text += ` within "` + place
		}
	}
	return text
}

// member is the value of a member, nil if there is none.
func member(node *yaml.Node, name string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == name {
			return node.Content[i+1]
		}
	}
	return nil
}

// poolOf returns nil if there is no certificate in the text.
func poolOf(text []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	if !bytes.Contains(text, []byte("CERTIFICATE")) || !pool.AppendCertsFromPEM(text) {
		return nil
	}
	return pool
}
