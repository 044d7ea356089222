package dpssim

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const maxDeviceID = 128

// ids are the registration and group IDs that DPS accepts; idRule describes them.
var ids = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9:._-]{0,126}[A-Za-z0-9-])?$`)

// namespaces and issuers are the names of Azure Device Registry's namespaces, and of its certificate authorities and
// policies.
var (
	namespaces = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,62}[a-z0-9]$`)
	issuers    = regexp.MustCompile(`^[0-9a-zA-Z][0-9a-zA-Z-]{2,62}$`)
)

const idRule = "is not up to 128 letters, digits, '-', '.', '_' and ':' that begins with a letter or digit and ends with one or '-'"

// check refuses an enrollment that DPS would not save, naming the member, and fills in what is read from certificates.
func (c *Collection) check(record model.Record) error {
	if !ids.MatchString(*record.ID()) {
		return invalidArgument("%s: %q %s", c.idField, cut(*record.ID()), idRule)
	}
	common := record.Common()
	a := &common.Attestation
	if individual, ok := record.(*model.IndividualEnrollment); ok {
		if strings.ContainsAny(individual.DeviceID, " /\\\t\r\n\"<>") || len(individual.DeviceID) > maxDeviceID {
			return invalidArgument("deviceId: %q is not a device ID of IoT Hub", cut(individual.DeviceID))
		}
		if _, err := objectOrNone("optionalDeviceInformation", individual.OptionalDeviceInformation); err != nil {
			return err
		}
		if a.Type == model.AttestationX509 && a.X509 != nil && a.X509.SigningCertificates != nil {
			return invalidArgument("attestation.x509.signingCertificates: only groups have them; an individual enrollment has clientCertificates")
		}
	} else {
		if a.Type == model.AttestationTPM {
			return invalidArgument("attestation.type: only individual enrollments have tpm")
		}
		if a.Type == model.AttestationX509 && a.X509 != nil && a.X509.ClientCertificates != nil {
			return invalidArgument("attestation.x509.clientCertificates: only individual enrollments have them; a group has signingCertificates or caReferences")
		}
	}
	if err := c.service.checkAttestation(a); err != nil {
		return err
	}
	return c.service.checkCommon(common)
}

// readNames writes the words of an enrollment in the specification's case. DPS takes them in any.
func readNames(e *model.Enrollment) {
	for word, names := range map[*string][]string{
		&e.Attestation.Type:   {model.AttestationSymmetricKey, model.AttestationX509, model.AttestationTPM, model.AttestationNone},
		&e.ProvisioningStatus: {model.ProvisioningEnabled, model.ProvisioningDisabled},
		&e.AllocationPolicy:   {model.PolicyHashed, model.PolicyGeoLatency, model.PolicyStatic, model.PolicyCustom},
	} {
		for _, name := range names {
			if strings.EqualFold(*word, name) {
				*word = name
			}
		}
	}
}

func (s *Service) checkAttestation(a *model.Attestation) error {
	switch a.Type {
	case model.AttestationSymmetricKey:
		for _, key := range []struct{ name, text string }{
			{"primaryKey", a.SymmetricKey.PrimaryKey}, {"secondaryKey", a.SymmetricKey.SecondaryKey},
		} {
			if decoded, err := attest.DecodeKey(key.text); err != nil || len(decoded) < 16 || len(decoded) > 64 {
				return invalidArgument("attestation.symmetricKey.%s: it is not base64 of 16 to 64 bytes", key.name)
			}
		}
		a.TPM, a.X509 = nil, nil
	case model.AttestationTPM:
		if a.TPM == nil || a.TPM.EndorsementKey == "" {
			return invalidArgument("attestation.tpm.endorsementKey is missing")
		}
		if err := attest.CheckEndorsementKey(a.TPM.EndorsementKey); err != nil {
			return invalidArgument("attestation.tpm: %v", err)
		}
		a.SymmetricKey, a.X509 = nil, nil
	case model.AttestationX509:
		a.SymmetricKey, a.TPM = nil, nil
		return s.checkX509(a.X509)
	case model.AttestationNone:
		*a = model.Attestation{Type: a.Type}
	case "":
		return invalidArgument("attestation.type is missing")
	default:
		return invalidArgument("attestation.type: %q is none of symmetricKey, x509, tpm, none", cut(a.Type))
	}
	return nil
}

func (s *Service) checkX509(x *model.X509) error {
	if x == nil || x.ClientCertificates == nil && x.SigningCertificates == nil && x.CAReferences == nil {
		return invalidArgument("attestation.x509: it names no certificate")
	}
	if err := checkCertificates("attestation.x509.clientCertificates", x.ClientCertificates, false); err != nil {
		return err
	}
	if err := checkCertificates("attestation.x509.signingCertificates", x.SigningCertificates, true); err != nil {
		return err
	}
	if x.CAReferences == nil {
		return nil
	}
	for _, reference := range []struct{ name, value string }{{"primary", x.CAReferences.Primary}, {"secondary", x.CAReferences.Secondary}} {
		uploaded := func(ca CACertificate) bool { return ca.Name == reference.value }
		if (reference.value != "" || reference.name == "primary") && !slices.ContainsFunc(s.config.Certificates, uploaded) {
			return invalidArgument("attestation.x509.caReferences.%s: no CA certificate %q was uploaded", reference.name, cut(reference.value))
		}
	}
	return nil
}

func checkCertificates(path string, pair *model.X509Certificates, signing bool) error {
	if pair == nil {
		return nil
	}
	if pair.Primary == nil {
		return invalidArgument("%s.primary is missing", path)
	}
	for _, one := range []struct {
		path        string
		certificate *model.X509Certificate
	}{{path + ".primary", pair.Primary}, {path + ".secondary", pair.Secondary}} {
		if one.certificate == nil {
			continue
		}
		certificate, err := attest.ParseCertificate(one.certificate.Certificate)
		if err != nil {
			return invalidArgument("%s.certificate: %v", one.path, err)
		}
		if signing && !certificate.IsCA {
			return invalidArgument("%s.certificate: it is not a CA certificate", one.path)
		}
		one.certificate.Info = attest.CertificateInfo(certificate)
	}
	return nil
}

func (s *Service) checkCommon(e *model.Enrollment) error {
	switch e.ProvisioningStatus {
	case "", model.ProvisioningEnabled, model.ProvisioningDisabled:
	default:
		return invalidArgument("provisioningStatus: %q is neither enabled nor disabled", cut(e.ProvisioningStatus))
	}
	switch e.AllocationPolicy {
	case "":
		if len(e.IotHubs) > 0 {
			return invalidArgument("allocationPolicy is missing, and iotHubs needs it")
		}
	case model.PolicyHashed, model.PolicyGeoLatency:
	case model.PolicyStatic:
		if e.IotHubHostName == "" && len(e.IotHubs) != 1 {
			return invalidArgument("iotHubHostName: allocationPolicy static needs it, or exactly one of iotHubs")
		}
	case model.PolicyCustom:
		switch definition := e.CustomAllocationDefinition; {
		case definition == nil:
			return invalidArgument("customAllocationDefinition is missing, and allocationPolicy custom needs it")
		case definition.WebhookURL == "":
			return invalidArgument("customAllocationDefinition.webhookUrl is missing")
		case definition.APIVersion == "":
			return invalidArgument("customAllocationDefinition.apiVersion is missing")
		case definition.APIVersion < firstWebhookVersion:
			return invalidArgument("customAllocationDefinition.apiVersion: %q is before %s, the first", cut(definition.APIVersion), firstWebhookVersion)
		}
	default:
		return invalidArgument("allocationPolicy: %q is none of hashed, geoLatency, static, custom", cut(e.AllocationPolicy))
	}
	if name := e.IotHubHostName; name != "" && s.linkedHub(name) == nil {
		return invalidArgument("iotHubHostName: %q is not linked to the service", cut(name))
	}
	for i, name := range e.IotHubs {
		if s.linkedHub(name) == nil {
			return invalidArgument("iotHubs[%d]: %q is not linked to the service", i, cut(name))
		}
	}
	for _, resource := range []struct {
		name, value string
		rule        *regexp.Regexp
	}{
		{"namespaceName", e.NamespaceName, namespaces},
		{"certificateAuthorityName", e.CertificateAuthorityName, issuers},
		{"certificatePolicyName", e.CertificatePolicyName, issuers},
	} {
		if resource.value != "" && !resource.rule.MatchString(resource.value) {
			return invalidArgument("%s: %q does not match %s", resource.name, cut(resource.value), resource.rule)
		}
	}
	if len(e.DeviceTypeRefs) > 1 {
		return invalidArgument("deviceTypeRefs: it has at most one item, not %d", len(e.DeviceTypeRefs))
	}
	if twin := e.InitialTwin; twin != nil {
		if _, err := objectOrNone("initialTwin.tags", twin.Tags); err != nil {
			return err
		}
		if twin.Properties != nil {
			_, err := objectOrNone("initialTwin.properties.desired", twin.Properties.Desired)
			return err
		}
	}
	return nil
}

// objectOrNone refuses a value that is not a JSON object, as DPS does; null is no value.
func objectOrNone(name string, value json.RawMessage) (json.RawMessage, error) {
	switch {
	case len(value) == 0 || string(value) == "null":
		return nil, nil
	case value[0] != '{':
		return nil, invalidArgument("%s: it is not a JSON object", name)
	}
	return value, nil
}
