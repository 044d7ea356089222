package dpssim

import (
	"encoding/json"
	"strings"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const maxDeviceID = 128

// checkIndividual refuses what DPS does not save, naming the member, and fills
// in what is read from certificates.
func (s *Service) checkIndividual(e *model.IndividualEnrollment) error {
	if !ids.MatchString(e.RegistrationID) {
		return invalidArgument("registrationId: %q %s", cut(e.RegistrationID), idRule)
	}
	if strings.ContainsAny(e.DeviceID, " /\\\t\r\n\"<>") || len(e.DeviceID) > maxDeviceID {
		return invalidArgument("deviceId: %q is no device id of IoT Hub", cut(e.DeviceID))
	}
	if err := optionalObject("optionalDeviceInformation", e.OptionalDeviceInformation); err != nil {
		return err
	}
	a := &e.Attestation
	switch a.Type {
	case model.AttestationTPM:
		if a.TPM == nil || a.TPM.EndorsementKey == "" {
			return invalidArgument("attestation.tpm.endorsementKey: it is missing")
		}
	case model.AttestationX509:
		if a.X509 != nil && a.X509.SigningCertificates != nil {
			return invalidArgument("attestation.x509.signingCertificates: they are for groups; an individual enrollment has clientCertificates")
		}
	}
	if err := s.checkAttestation(a); err != nil {
		return err
	}
	return s.checkCommon(&e.Enrollment)
}

func (s *Service) checkGroup(g *model.EnrollmentGroup) error {
	if !ids.MatchString(g.EnrollmentGroupID) {
		return invalidArgument("enrollmentGroupId: %q %s", cut(g.EnrollmentGroupID), idRule)
	}
	a := &g.Attestation
	switch a.Type {
	case model.AttestationTPM:
		return invalidArgument("attestation.type: tpm is for individual enrollments")
	case model.AttestationX509:
		if a.X509 != nil && a.X509.ClientCertificates != nil {
			return invalidArgument("attestation.x509.clientCertificates: they are for individual enrollments; a group has signingCertificates or caReferences")
		}
	}
	if err := s.checkAttestation(a); err != nil {
		return err
	}
	return s.checkCommon(&g.Enrollment)
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
		if err := attest.CheckEndorsementKey(a.TPM.EndorsementKey); err != nil {
			return invalidArgument("attestation.tpm: %v", err)
		}
		a.SymmetricKey, a.X509 = nil, nil
	case model.AttestationX509:
		a.SymmetricKey, a.TPM = nil, nil
		return s.checkX509(a.X509)
	case "":
		return invalidArgument("attestation.type: it is missing")
	default:
		return invalidArgument("attestation.type: %q is none of symmetricKey, x509, tpm", cut(a.Type))
	}
	return nil
}

func (s *Service) checkX509(x *model.X509) error {
	if x == nil || x.ClientCertificates == nil && x.SigningCertificates == nil && x.CAReferences == nil {
		return invalidArgument("attestation.x509: it names no certificate")
	}
	for _, pair := range []struct {
		name         string
		certificates *model.X509Certificates
	}{{"clientCertificates", x.ClientCertificates}, {"signingCertificates", x.SigningCertificates}} {
		if pair.certificates == nil {
			continue
		}
		if pair.certificates.Primary == nil {
			return invalidArgument("attestation.x509.%s.primary: it is missing", pair.name)
		}
		for _, one := range []struct {
			name        string
			certificate *model.X509Certificate
		}{{"primary", pair.certificates.Primary}, {"secondary", pair.certificates.Secondary}} {
			if one.certificate == nil {
				continue
			}
			certificate, err := attest.ParseCertificate(one.certificate.Certificate)
			if err != nil {
				return invalidArgument("attestation.x509.%s.%s.certificate: %v", pair.name, one.name, err)
			}
			if pair.name == "signingCertificates" && !certificate.IsCA {
				return invalidArgument("attestation.x509.signingCertificates.%s.certificate: it is not a CA certificate", one.name)
			}
			one.certificate.Info = attest.CertificateInfo(certificate)
		}
	}
	if x.CAReferences == nil {
		return nil
	}
	for _, reference := range []struct{ name, value string }{{"primary", x.CAReferences.Primary}, {"secondary", x.CAReferences.Secondary}} {
		if reference.value == "" && reference.name == "secondary" {
			continue
		}
		if !s.uploaded(reference.value) {
			return invalidArgument("attestation.x509.caReferences.%s: no CA certificate %q is uploaded", reference.name, cut(reference.value))
		}
	}
	return nil
}

func (s *Service) uploaded(name string) bool {
	for _, certificate := range s.config.Certificates {
		if certificate.Name == name {
			return true
		}
	}
	return false
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
			return invalidArgument("allocationPolicy: it is missing, and iotHubs needs it")
		}
	case model.PolicyHashed, model.PolicyGeoLatency:
	case model.PolicyStatic:
		if e.IotHubHostName == "" && len(e.IotHubs) != 1 {
			return invalidArgument("iotHubHostName: allocationPolicy static needs it, or exactly one of iotHubs")
		}
	case model.PolicyCustom:
		switch definition := e.CustomAllocationDefinition; {
		case definition == nil:
			return invalidArgument("customAllocationDefinition: it is missing, and allocationPolicy custom needs it")
		case definition.WebhookURL == "":
			return invalidArgument("customAllocationDefinition.webhookUrl: it is missing")
		case definition.APIVersion == "":
			return invalidArgument("customAllocationDefinition.apiVersion: it is missing")
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
	if twin := e.InitialTwin; twin != nil {
		if err := optionalObject("initialTwin.tags", twin.Tags); err != nil {
			return err
		}
		if twin.Properties != nil {
			return optionalObject("initialTwin.properties.desired", twin.Properties.Desired)
		}
	}
	return nil
}

func optionalObject(name string, value json.RawMessage) error {
	_, err := objectOrNone(name, value)
	return err
}
