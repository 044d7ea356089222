package dpssim

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

func webhookClient(w Webhook) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = w.MaxConcurrent
	transport.TLSClientConfig = &tls.Config{RootCAs: w.RootCAs, MinVersion: tls.VersionTLS12}
	client := &http.Client{Transport: transport}
	if !w.FollowRedirects {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client
}

// allocationRequest is what DPS posts: the enrollment without keys, certificates and the query of the webhook's URL,
// what is known about the device, and the hubs.
func (s *Service) allocationRequest(a *attempt) model.AllocationRequest {
	request := model.AllocationRequest{
		DeviceRuntimeContext: model.DeviceRuntimeContext{
			RegistrationID:        a.State.RegistrationID,
			CurrentIotHubHostName: a.Hub,
			CurrentDeviceID:       a.DeviceID,
			Payload:               s.passedOn(a.Pending.Payload),
		},
		LinkedHubs: a.hubs,
	}
	if s.config.Behaviour.CSRInWebhook {
		request.DeviceRuntimeContext.CSR = a.Pending.CSR
	}
	switch record := a.enrollment.record.(type) {
	case *model.IndividualEnrollment:
		individual := *record
		individual.RegistrationState = nil
		individual.Enrollment = reduced(individual.Enrollment)
		model.Shape(&individual, individual.CustomAllocationDefinition.APIVersion)
		request.IndividualEnrollment = &individual
	case *model.EnrollmentGroup:
		group := *record
		group.Enrollment = reduced(group.Enrollment)
		model.Shape(&group, group.CustomAllocationDefinition.APIVersion)
		request.EnrollmentGroup = &group
	}
	device := &request.DeviceRuntimeContext
	switch a.enrollment.Attestation.Type {
	case model.AttestationSymmetricKey:
		device.SymmetricKey = &model.SymmetricKey{}
	case model.AttestationX509:
		device.X509 = &model.X509Device{ClientCertificate: a.Pending.Certificate}
	case model.AttestationTPM:
		device.TPM = a.Pending.TPM
	}
	return request
}

// passedOn is what a webhook sees of a device's payload; null is none.
func (s *Service) passedOn(payload json.RawMessage) json.RawMessage {
	var text string
	switch {
	case string(payload) == "null":
		return nil
	case s.config.Behaviour.DevicePayload != PayloadParsed || json.Unmarshal(payload, &text) != nil:
		return payload
	}
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &object) != nil || object == nil {
		return payload
	}
	return json.RawMessage(text)
}

// reduced is the part of an enrollment that a webhook sees.
func reduced(e model.Enrollment) model.Enrollment {
	e.Attestation = withoutSecrets(e.Attestation)
	if definition := e.CustomAllocationDefinition; definition != nil {
		e.CustomAllocationDefinition = &model.CustomAllocationDefinition{
			WebhookURL: MaskURL(definition.WebhookURL),
			APIVersion: definition.APIVersion,
		}
	}
	return e
}

// withoutSecrets is an attestation as DPS returns it: no keys except the public ones of a TPM, and of certificates only
// what was read from them.
func withoutSecrets(a model.Attestation) model.Attestation {
	reduced := model.Attestation{Type: a.Type, TPM: a.TPM}
	if a.X509 != nil {
		reduced.X509 = &model.X509{
			ClientCertificates:  infoOnly(a.X509.ClientCertificates),
			SigningCertificates: infoOnly(a.X509.SigningCertificates),
			CAReferences:        a.X509.CAReferences,
		}
	}
	return reduced
}

func infoOnly(pair *model.X509Certificates) *model.X509Certificates {
	if pair == nil {
		return nil
	}
	only := func(c *model.X509Certificate) *model.X509Certificate {
		if c == nil {
			return nil
		}
		return &model.X509Certificate{Info: c.Info}
	}
	return &model.X509Certificates{Primary: only(pair.Primary), Secondary: only(pair.Secondary)}
}

// webhookAnswer is one answer; if there was none, err says why.
type webhookAnswer struct {
	status int
	body   []byte
	err    error
}

// callWebhook calls the webhook until it gives an answer that counts, or for as long as DPS retries.
func (s *Service) callWebhook(a *attempt) (choice, error) {
	definition := a.enrollment.CustomAllocationDefinition
	if definition == nil {
		return choice{}, &failure{CodeInvalidArgument, "The enrollment has no customAllocationDefinition."}
	}
	if target, err := url.Parse(definition.WebhookURL); err != nil || target.Host == "" || target.Scheme != "https" && target.Scheme != "http" {
		return choice{}, &failure{CodeAllocationFailed, "Custom allocation failed: webhookUrl is not an http or https URL."}
	}
	body, err := json.Marshal(s.allocationRequest(a))
	if err != nil {
		return choice{}, err
	}
	w := s.config.Webhook
	for call := 1; ; call++ {
		entry := Entry{
			Kind: KindWebhook, RegistrationID: a.State.RegistrationID, OperationID: a.OperationID,
			Method: http.MethodPost, URL: MaskURL(definition.WebhookURL), Attempt: call, Request: body,
		}
		answer := s.troubledPost(definition.WebhookURL, body, &entry)
		if err := s.ctx.Err(); err != nil {
			return choice{}, err
		}
		chosen, retry, err := s.judge(a, answer)
		switch {
		case err == nil:
			entry.DPSEffect = "assigned to " + chosen.hub
		case !retry:
			entry.DPSEffect = "failed: " + err.Error()
		case call > w.Retries:
			entry.DPSEffect = "failed after the last retry: " + err.Error()
		default:
			interval := w.FirstInterval + time.Duration(call-1)*w.Increment
			entry.DPSEffect = fmt.Sprintf(EffectCallAgain+" in %s (call %d of %d)", interval, call+1, w.Retries+1)
			s.journal.add(entry)
			if err := s.wait(interval); err != nil {
				return choice{}, err
			}
			continue
		}
		s.journal.add(entry)
		return chosen, err
	}
}

// judge applies DPS's rules to an answer. If retry is true, err is how the registration ends when no retry is left.
func (s *Service) judge(a *attempt, answer webhookAnswer) (chosen choice, retry bool, err error) {
	b := s.config.Behaviour
	failed := func(code int) error {
		return &failure{code, fmt.Sprintf("Custom allocation failed with status code: %d", answer.status)}
	}
	switch {
	case answer.err != nil:
		return chosen, b.NoAnswer == NoAnswerRetries,
			&failure{b.RetriesExhaustedCode, "Custom allocation failed: the webhook did not answer."}
	case answer.status == http.StatusUnauthorized:
		return chosen, false, failed(CodeWebhookUnauthorized)
	case answer.status >= http.StatusTooManyRequests:
		return chosen, true, failed(b.RetriesExhaustedCode)
	case answer.status != http.StatusOK && !(s.config.Webhook.AcceptAny2xx && answer.status/100 == 2):
		return chosen, false, failed(CodeAllocationFailed)
	}
	chosen, err = s.readAnswer(a, answer.body)
	return chosen, false, err
}

// readAnswer reads the body of a successful answer.
func (s *Service) readAnswer(a *attempt, body []byte) (chosen choice, err error) {
	b := s.config.Behaviour
	if len(body) > s.config.Webhook.MaxAnswer {
		return chosen, &failure{b.BadAnswerCode, "Custom allocation failed: the webhook's answer is too long."}
	}
	var response *model.AllocationResponse
	if err := json.Unmarshal(body, &response); err != nil || response == nil {
		return chosen, &failure{b.BadAnswerCode, "Custom allocation failed: the webhook's answer is not an AllocationResponse in JSON."}
	}
	if len(response.Payload) > MaxMessage {
		return chosen, &failure{b.BadAnswerCode, fmt.Sprintf("Custom allocation failed: the payload is longer than %d bytes.", MaxMessage)}
	}
	if response.IotHubHostName == "" {
		return chosen, &failure{CodeHubNotSpecified, "Custom allocation failed: the webhook's answer names no IoT hub."}
	}
	chosen.twin = response.InitialTwin
	if payload, err := objectOrNone("payload", response.Payload); err == nil {
		chosen.payload = payload // a device never gets another kind of value
	}
	if a.stays() {
		chosen.hub = a.Hub // the webhook was called only for the payload
		return chosen, nil
	}
	i := slices.IndexFunc(a.hubs, func(hub string) bool { return strings.EqualFold(hub, response.IotHubHostName) })
	if i < 0 {
		return choice{}, &failure{b.UnknownHubCode,
			fmt.Sprintf("Custom allocation failed: the IoT hub %q is not one of linkedHubs.", cut(response.IotHubHostName))}
	}
	chosen.hub = a.hubs[i]
	return chosen, nil
}

var errCut = errors.New("trouble: the answer was lost")

// troubledPost makes one call, with the trouble in force, and fills in the entry of the answer that counts.
func (s *Service) troubledPost(target string, body []byte, entry *Entry) webhookAnswer {
	if s.trouble.hit(func(t *Trouble) float64 { return t.Webhook.Delay }) {
		_ = s.wait(cmp.Or(time.Duration(s.trouble.get().Webhook.DelayFor), time.Second)) // if the service closes, so does the call
	}
	answer := s.post(target, body, entry)
	if s.trouble.hit(func(t *Trouble) float64 { return t.Webhook.Repeat }) {
		first := *entry
		first.DPSEffect = "trouble: called again, the second answer counts"
		s.journal.add(first)
		entry.Repeated = true
		answer = s.post(target, body, entry)
	}
	if s.trouble.hit(func(t *Trouble) float64 { return t.Webhook.Cut }) {
		answer.err = errCut
		entry.Error = errCut.Error()
	}
	return answer
}

// post makes one call and fills in its entry.
func (s *Service) post(target string, body []byte, entry *Entry) (answer webhookAnswer) {
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	case <-s.ctx.Done():
		return webhookAnswer{err: s.ctx.Err()}
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, s.config.Webhook.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return webhookAnswer{err: err}
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("Accept", "application/json")
	response, err := s.client.Do(request)
	if err == nil {
		defer response.Body.Close()
		answer.status = response.StatusCode
		answer.body, err = io.ReadAll(io.LimitReader(response.Body, int64(s.config.Webhook.MaxAnswer)+1))
	}
	answer.err = err
	entry.Time, entry.DurationMS = model.Time{Time: start}, Milliseconds(time.Since(start))
	entry.Status, entry.Response, entry.Error = answer.status, nil, ""
	switch {
	case err != nil:
		entry.Status, entry.Error = 0, s.describeNoAnswer(err)
	case json.Valid(answer.body):
		entry.Response = answer.body
	case len(answer.body) > 0:
		entry.Response = text(answer.body)
	}
	return answer
}

// describeNoAnswer leaves the URL out of an error, because its query holds the webhook's code.
func (s *Service) describeNoAnswer(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", s.config.Webhook.Timeout)
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return "no answer: " + err.Error()
}
