package fleet

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const (
	apiVersion = "2021-06-01"
	userAgent  = "usher-dps-fleet"
	// defaultPoll is how long SDKs wait if DPS does not say.
	defaultPoll = 2 * time.Second
	tokenLife   = time.Hour
	// maxAnswer is far above DPS's limit for a message, 96 KB.
	maxAnswer = 1 << 20
)

// session is a device's connection to DPS.
type session interface {
	register(ctx context.Context, body []byte) (answer, error)
	operation(ctx context.Context, id string) (answer, error)
	close()
}

// answer is DPS's answer to a call.
type answer struct {
	status     int // as in HTTP
	retryAfter time.Duration
	body       []byte
}

// retry reports whether the device must repeat the call. SDKs do so for 429 and above.
func (a answer) retry() bool { return a.status >= 429 }

type kind int

const (
	assigned kind = iota
	failed        // the registration: the webhook rejected it or did not answer
	refused       // the call: bad credentials, no enrollment
	disabled
	lost // no usable answer
)

// result is how a registration ended.
type result struct {
	kind    kind
	hub     string
	code    int // of DPS, where failed or refused
	message string
}

// Error implements error: a result can end a registration before it begins.
func (r result) Error() string { return r.message }

// resultOf is how a registration ends with an error.
func resultOf(err error) result {
	if r, ok := errors.AsType[result](err); ok {
		return r
	}
	return result{kind: lost, message: err.Error()}
}

type device struct {
	number  int
	id      string
	payload json.RawMessage // nil for none
	options *Options
}

// register runs a registration to its end. It calls throttled each time DPS tells the device to retry later.
func (d device) register(ctx context.Context, throttled func()) result {
	request := struct {
		RegistrationID string          `json:"registrationId"`
		TPM            *model.TPM      `json:"tpm,omitempty"`
		Payload        json.RawMessage `json:"payload,omitempty"`
	}{d.id, nil, d.payload}
	if tpm := d.options.TPM; tpm != nil {
		keys := tpm.Keys()
		request.TPM = &keys
	}
	body, err := json.Marshal(request)
	if err != nil {
		return resultOf(err)
	}
	s, err := d.connect(ctx)
	if err != nil {
		return resultOf(err)
	}
	defer s.close()
	challenged := false
	reply, err := s.register(ctx, body)
	for operation := ""; ; {
		if err != nil {
			return resultOf(err)
		}
		var status operationStatus
		switch {
		case reply.retry():
			throttled()
		case reply.status == http.StatusUnauthorized && d.options.TPM != nil && !challenged:
			challenged = true
			if err = d.answerChallenge(s, reply.body); err == nil {
				reply, err = s.register(ctx, body)
			}
			continue
		case reply.status >= 300:
			return refusalOf(reply)
		default:
			if err := json.Unmarshal(reply.body, &status); err != nil {
				return result{kind: lost, message: fmt.Sprintf("status %d with a body that is not JSON: %v", reply.status, err)}
			}
			if status.Status != "assigning" {
				return status.result()
			}
			operation = status.OperationID
		}
		if !wait(ctx, reply.retryAfter) {
			return result{kind: lost, message: "gave up waiting: " + context.Cause(ctx).Error()}
		}
		if operation == "" {
			reply, err = s.register(ctx, body)
		} else {
			reply, err = s.operation(ctx, operation)
		}
	}
}

// answerChallenge signs the session with the key that the TPM takes out of DPS's challenge.
func (d device) answerChallenge(s session, body []byte) error {
	var challenge model.TPMChallenge
	if err := json.Unmarshal(body, &challenge); err != nil || challenge.AuthenticationKey == "" {
		return refusalOf(answer{status: http.StatusUnauthorized, body: body})
	}
	blob, err := base64.StdEncoding.DecodeString(challenge.AuthenticationKey)
	if err != nil {
		return fmt.Errorf("the key of the challenge: %w", err)
	}
	key, err := d.options.TPM.Import(blob)
	if err != nil {
		return fmt.Errorf("the key of the challenge: %w", err)
	}
	s.(*httpSession).token = d.token(key) // New admits no other transport
	return nil
}

func (d device) token(key []byte) string {
	return attest.NewToken(attest.DeviceResource(d.options.IDScope, d.id), key, time.Now().Add(tokenLife), attest.KeyNameRegistration)
}

// connect opens a session.
func (d device) connect(ctx context.Context) (session, error) {
	config := &tls.Config{ServerName: d.options.Host, RootCAs: d.options.RootCAs, MinVersion: tls.VersionTLS12}
	token := ""
	if d.options.Certificate != nil {
		certificate, err := d.options.Certificate(d.number, d.id)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{certificate}
	} else if d.options.TPM == nil {
		token = d.token(attest.DeriveKey(d.options.GroupKey, d.id))
	}
	if d.options.Transport == HTTP {
		return newHTTPSession(d, config, token), nil
	}
	return dialMQTT(ctx, d, config, token)
}

func (d device) dial(ctx context.Context, config *tls.Config) (net.Conn, error) {
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", d.options.Address)
}

// operationStatus is the part of DPS's answers that a device reads.
type operationStatus struct {
	OperationID       string `json:"operationId"`
	Status            string `json:"status"`
	RegistrationState struct {
		AssignedHub  string `json:"assignedHub"`
		ErrorCode    int    `json:"errorCode"`
		ErrorMessage string `json:"errorMessage"`
	} `json:"registrationState"`
}

func (s operationStatus) result() result {
	state := s.RegistrationState
	switch s.Status {
	case "assigned":
		if state.AssignedHub == "" {
			return result{kind: lost, message: "assigned, but no hub is named"}
		}
		return result{kind: assigned, hub: state.AssignedHub}
	case "failed":
		return result{kind: failed, code: state.ErrorCode, message: state.ErrorMessage}
	case "disabled":
		return result{kind: disabled}
	}
	return result{kind: lost, message: "status " + strconv.Quote(s.Status)}
}

func refusalOf(a answer) result {
	var body struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.ErrorCode == 0 {
		return result{kind: lost, message: fmt.Sprintf("status %d without an error of DPS", a.status)}
	}
	return result{kind: refused, code: body.ErrorCode, message: body.Message}
}

// retryAfter reads a number of seconds.
func retryAfter(text string) time.Duration {
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 0 || seconds > int(time.Hour/time.Second) {
		return defaultPoll
	}
	return time.Duration(seconds) * time.Second
}
