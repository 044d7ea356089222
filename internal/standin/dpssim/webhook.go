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

// allocationRequest is what DPS posts: the enrollment without keys, certificates
// and the query of the webhook, what is known of the device, and the hubs.
func allocationRequest(e *enrollment, r registration, hubs []string) model.AllocationRequest {
	request := model.AllocationRequest{
		DeviceRuntimeContext: model.DeviceRuntimeContext{
			RegistrationID:        r.State.RegistrationID,
			CurrentIotHubHostName: r.Hub,
			CurrentDeviceID:       r.DeviceID,
			Payload:               r.Pending.Payload,
		},
		LinkedHubs: hubs,
	}
	if e.individual != nil {
		record := *e.individual
		record.RegistrationState = nil
		reduce(&record.Attestation, &record.Enrollment)
		request.IndividualEnrollment = &record
	} else {
		record := *e.group
		reduce(&record.Attestation, &record.Enrollment)
		request.EnrollmentGroup = &record
	}
	device := &request.DeviceRuntimeContext
	switch e.attestation().Type {
	case model.AttestationSymmetricKey:
		device.SymmetricKey = &model.SymmetricKey{}
	case model.AttestationX509:
		device.X509 = &model.X509Device{ClientCertificate: r.Pending.Certificate}
	case model.AttestationTPM:
		device.TPM = r.Pending.TPM
	}
	return request
}

// reduce leaves of an enrollment what a webhook gets to see. It replaces what it
// changes, for the enrollment goes on to be used.
func reduce(attestation *model.Attestation, common *model.Enrollment) {
	*attestation = withoutSecrets(*attestation)
	if definition := common.CustomAllocationDefinition; definition != nil {
		common.CustomAllocationDefinition = &model.CustomAllocationDefinition{
			WebhookURL: MaskURL(definition.WebhookURL),
			APIVersion: definition.APIVersion,
		}
	}
}

// withoutSecrets is an attestation as DPS gives it back: no keys but the public
// ones of a TPM, of certificates what was read from them.
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

// webhookAnswer is one answer; status 0 if there was none.
type webhookAnswer struct {
	status int
	body   []byte
	err    error
}

// askWebhook calls the webhook until it answers something that counts, or for as
// long as DPS tries.
func (s *Service) askWebhook(e *enrollment, r registration, hubs []string, policy reprovisioning) (allocation, error) {
	definition := e.common().CustomAllocationDefinition
	if definition == nil {
		return allocation{}, &failure{CodeInvalidArgument, "The enrollment has no customAllocationDefinition."}
	}
	if target, err := url.Parse(definition.WebhookURL); err != nil || target.Host == "" || target.Scheme != "https" && target.Scheme != "http" {
		return allocation{}, &failure{CodeAllocationFailed, "Custom allocation failed: webhookUrl is not an http or https URL."}
	}
	body, err := json.Marshal(allocationRequest(e, r, hubs))
	if err != nil {
		return allocation{}, err
	}
	w := s.config.Webhook
	for attempt := 1; ; attempt++ {
		entry := Entry{
			Kind: KindWebhook, RegistrationID: r.State.RegistrationID, OperationID: r.OperationID,
			Method: http.MethodPost, URL: MaskURL(definition.WebhookURL), Attempt: attempt, Request: body,
		}
		answer := s.callWebhook(definition.WebhookURL, body, &entry)
		if err := s.ctx.Err(); err != nil {
			return allocation{}, err
		}
		chosen, retry, err := s.judge(answer, r, hubs, policy)
		switch {
		case !retry && err != nil:
			entry.DPSEffect = "failed: " + err.Error()
		case !retry:
			entry.DPSEffect = "assigned to " + chosen.hub
		case attempt <= w.Retries:
			interval := w.FirstInterval + time.Duration(attempt-1)*w.Increment
			entry.DPSEffect = fmt.Sprintf("call again in %s (call %d of %d)", interval, attempt+1, w.Retries+1)
			s.journal.add(entry)
			if err := s.wait(s.ctx, interval); err != nil {
				return allocation{}, err
			}
			continue
		default:
			entry.DPSEffect = "failed after the last retry: " + err.Error()
		}
		s.journal.add(entry)
		return chosen, err
	}
}

// judge makes of an answer what DPS makes of it. With retry, err is what the
// registration ends with if there is no retry left.
func (s *Service) judge(answer webhookAnswer, r registration, hubs []string, policy reprovisioning) (chosen allocation, retry bool, err error) {
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
	chosen, err = s.read(answer.body, r, hubs, policy)
	return chosen, false, err
}

// read takes the answer of a successful call.
func (s *Service) read(body []byte, r registration, hubs []string, policy reprovisioning) (allocation, error) {
	b := s.config.Behaviour
	var response *model.AllocationResponse
	if int64(len(body)) > s.config.Webhook.MaxAnswer {
		return allocation{}, &failure{b.BadAnswerCode, "Custom allocation failed: the webhook's answer is too long."}
	}
	if err := json.Unmarshal(body, &response); err != nil || response == nil {
		return allocation{}, &failure{b.BadAnswerCode, "Custom allocation failed: the webhook's answer is not an AllocationResponse in JSON."}
	}
	if response.IotHubHostName == "" {
		return allocation{}, &failure{CodeHubNotSpecified, "Custom allocation failed: the webhook's answer names no IoT hub."}
	}
	chosen := allocation{twin: response.InitialTwin}
	if payload, err := objectOrNone("payload", response.Payload); err == nil {
		chosen.payload = payload // a device never gets another kind
	}
	if r.Hub != "" && !policy.updateHub {
		chosen.hub = r.Hub // asked for the payload's sake
		return chosen, nil
	}
	for _, hub := range hubs {
		if strings.EqualFold(hub, response.IotHubHostName) {
			chosen.hub = hub
			return chosen, nil
		}
	}
	return allocation{}, &failure{b.UnknownHubCode,
		fmt.Sprintf("Custom allocation failed: the IoT hub %q is not one of linkedHubs.", cut(response.IotHubHostName))}
}

var errCut = errors.New("trouble: the answer was lost")

// callWebhook makes one call, or two where trouble repeats it, and fills in the
// entry of the one that counts.
func (s *Service) callWebhook(target string, body []byte, entry *Entry) webhookAnswer {
	if s.trouble.hit(func(t *Trouble) float64 { return t.Webhook.Delay }) {
		late := cmp.Or(time.Duration(s.trouble.get().Webhook.DelayFor), time.Second)
		_ = s.wait(s.ctx, late) // the call itself fails if the service closes
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

func (s *Service) post(target string, body []byte, entry *Entry) (answer webhookAnswer) {
	entry.Status, entry.Response, entry.Error = 0, nil, ""
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	case <-s.ctx.Done():
		return webhookAnswer{err: s.ctx.Err()}
	}
	start := time.Now()
	entry.Time = model.Time{Time: start}
	ctx, cancel := context.WithTimeout(s.ctx, s.config.Webhook.Timeout)
	defer cancel()
	answer.status, answer.body, answer.err = s.exchange(ctx, target, body)
	entry.DurationMS = milliseconds(time.Since(start))
	if answer.err != nil {
		entry.Error = noAnswer(answer.err, s.config.Webhook.Timeout)
		return answer
	}
	entry.Status = answer.status
	if len(answer.body) > 0 {
		entry.Response = text(answer.body)
		if json.Valid(answer.body) {
			entry.Response = answer.body
		}
	}
	return answer
}

func (s *Service) exchange(ctx context.Context, target string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("Accept", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, s.config.Webhook.MaxAnswer+1))
	return response.StatusCode, answer, err
}

// noAnswer words an error without the URL, whose query holds the webhook's code.
func noAnswer(err error, timeout time.Duration) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", timeout)
	}
	return "no answer: " + innermost(err).Error()
}

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
