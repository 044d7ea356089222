package dpssim

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Codes of errors as DPS gives them. Those without "assumed" were seen in
// captured answers, in SDKs or in their end-to-end tests.
const (
	CodeInvalidArgument     = 400004
	CodeAllocationFailed    = 400207 // CustomAllocationFailed
	CodeHubNotSpecified     = 400208 // CustomAllocationIotHubNotSpecified
	CodeWebhookUnauthorized = 400209 // CustomAllocationUnauthorizedAccess
	CodeUnauthorized        = 401000 // service API
	CodeInvalidCredentials  = 401002 // devices
	CodeNotFound            = 404201
	CodeOperationNotFound   = 404202 // assumed
	CodeMethodNotAllowed    = 405000 // assumed
	CodeConflict            = 409201 // assumed: the enrollment exists
	CodePrecondition        = 409203 // two registrations of one id at the same time
	CodeETagMismatch        = 412001 // 412xxx was seen
	CodeTooLarge            = 413000 // assumed
	CodeThrottled           = 429001
	CodeInternal            = 500000 // assumed
)

// APIError is a refusal as DPS words it.
type APIError struct {
	Status     int // HTTP
	Code       int // six digits
	Message    string
	Detail     string        // for the journal: what the answer does not tell
	RetryAfter time.Duration // 0 if the answer has none
	// Challenge is set in the refusal that answers a TPM's first call: it is the
	// whole body then.
	Challenge *model.TPMChallenge
}

func (e *APIError) Error() string {
	text := fmt.Sprintf("%d (HTTP %d): %s", e.Code, e.Status, e.Message)
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

// Answer returns the refusal that an error of [Service] stands for and the body
// that tells it, for any transport. An error that is no *APIError is a fault of
// the stand-in itself.
func Answer(err error) (refusal *APIError, body any) {
	if !errors.As(err, &refusal) {
		refusal = &APIError{Status: http.StatusInternalServerError, Code: CodeInternal,
			Message: "The stand-in failed: " + err.Error()}
	}
	if refusal.Challenge != nil {
		return refusal, refusal.Challenge
	}
	return refusal, model.ErrorBody{
		ErrorCode:    refusal.Code,
		TrackingID:   uuid.NewString(),
		Message:      refusal.Message,
		TimestampUTC: model.Time{Time: time.Now()},
	}
}
