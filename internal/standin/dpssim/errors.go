package dpssim

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Codes of errors as DPS gives them. Those without "assumed" were seen in captured answers, in SDKs or in the SDKs'
// end-to-end tests.
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
	CodeConflict            = 409201 // the enrollment exists
	CodePrecondition        = 409203 // two registrations of one ID at the same time
	CodeETagMismatch        = 412001 // 412xxx was seen
	CodeTooLarge            = 413000 // assumed
	CodeThrottled           = 429001
	CodeInternal            = 500000 // assumed
)

// APIError is a refusal in DPS's words.
type APIError struct {
	Status     int // HTTP
	Code       int // six digits
	Message    string
	Detail     string        // for the journal: what the answer does not say
	RetryAfter time.Duration // 0 if the answer has none
	// Challenge is set in the refusal that answers a TPM's first call; it is then the whole body.
	Challenge *model.TPMChallenge
}

func (e *APIError) Error() string {
	text := fmt.Sprintf("%d (HTTP %d): %s", e.Code, e.Status, e.Message)
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

// Answer returns the refusal for an error of [Service], and its body for any transport. An error that is not an
// *[APIError] is a failure of the stand-in itself.
func Answer(err error) (refusal *APIError, body any) {
	if !errors.As(err, &refusal) {
		refusal = &APIError{Status: http.StatusInternalServerError, Code: CodeInternal, Message: "The stand-in failed: " + err.Error()}
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

// TooLarge refuses a body of more than limit bytes.
func TooLarge(limit int) *APIError {
	return &APIError{Status: http.StatusRequestEntityTooLarge, Code: CodeTooLarge,
		Message: fmt.Sprintf("The body is longer than %d bytes.", limit)}
}

// maxQuoted is how much of a caller's text a message repeats, in bytes.
const maxQuoted = 200

func cut(text string) string {
	if len(text) > maxQuoted {
		return text[:maxQuoted] + "..."
	}
	return text
}

func invalidArgument(format string, args ...any) *APIError {
	return &APIError{Status: http.StatusBadRequest, Code: CodeInvalidArgument, Message: fmt.Sprintf(format, args...)}
}

// unauthorized refuses a device; the detail is for the journal.
func unauthorized(detail string) *APIError {
	return &APIError{Status: http.StatusUnauthorized, Code: CodeInvalidCredentials, Message: "Unauthorized", Detail: detail}
}

func badCertificate(detail string) *APIError {
	return &APIError{Status: http.StatusUnauthorized, Code: CodeInvalidCredentials, Message: "Invalid certificate.", Detail: detail}
}

func notEnrolled(registrationID string) *APIError {
	return &APIError{Status: http.StatusNotFound, Code: CodeNotFound, Message: "Registration not found.",
		Detail: fmt.Sprintf("there is no enrollment for %q", registrationID)}
}

func notFound(what, id string) *APIError {
	return &APIError{Status: http.StatusNotFound, Code: CodeNotFound, Message: what + " not found.", Detail: cut(id)}
}

func staleETag(what string) *APIError {
	return &APIError{Status: http.StatusPreconditionFailed, Code: CodeETagMismatch,
		Message: "Precondition failed: the " + what + " is not the one that If-Match names."}
}

func throttled(wait time.Duration, detail string) *APIError {
	return &APIError{Status: http.StatusTooManyRequests, Code: CodeThrottled,
		Message: "Operations are being throttled for this tenant.", Detail: detail, RetryAfter: wholeSeconds(wait)}
}
