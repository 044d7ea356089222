package handler

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/answer"
)

// problem is an application/problem+json body (RFC 9457). DPS does not read it: it is for people who call the webhook
// themselves.
type problem struct {
	Type       string             `json:"type"`
	Title      string             `json:"title"`
	Status     int                `json:"status"`
	Detail     string             `json:"detail,omitempty"`
	Code       string             `json:"code"`
	DecisionID string             `json:"decisionId,omitempty"`
	Reasons    []string           `json:"reasons,omitempty"`
	Violations []answer.Violation `json:"violations,omitempty"`
}

func writeProblem(c echo.Context, p problem) error {
	p.Type = "urn:usher:problem:" + p.Code
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.Blob(p.Status, "application/problem+json", body)
}

// Calls that are refused because they are not allocations. The Functions host, which checks keys and routes itself,
// lets none of them through.
var (
	unauthorized     = problem{Code: "unauthorized", Status: http.StatusUnauthorized, Title: "The function key is missing or wrong"}
	notFound         = problem{Code: "not_found", Status: http.StatusNotFound, Title: "There is nothing here"}
	methodNotAllowed = problem{Code: "method_not_allowed", Status: http.StatusMethodNotAllowed, Title: "The webhook takes POST"}
)

// refuseRoute answers what echo could not route, and errors of writing a response, which no one is left to receive.
func (h *handler) refuseRoute(c echo.Context, err error) {
	if c.Response().Committed {
		return
	}
	meaning := answer.Internal.Meaning()
	refusal := problem{Code: string(answer.Internal), Status: meaning.Status, Title: meaning.Title}
	if e, ok := errors.AsType[*echo.HTTPError](err); ok {
		switch e.Code {
		case http.StatusNotFound:
			refusal = notFound
		case http.StatusMethodNotAllowed:
			refusal = methodNotAllowed
		}
	}
	_ = h.refuse(c, refusal, "the webhook is POST "+strings.Join(h.paths, ", "))
}

// refuse answers a call that is not an allocation, and logs it: a wrong URL in an enrollment fails all of its devices.
func (h *handler) refuse(c echo.Context, p problem, detail string) error {
	r := c.Request()
	h.log.Warn("refused", "result", p.Code, "status", p.Status,
		"method", bounded(r.Method), "path", bounded(r.URL.Path)) // not the query: it can contain a key
	p.Detail = detail
	return writeProblem(c, p)
}
