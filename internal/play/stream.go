package play

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/labstack/echo/v4"
)

// stream sends server-sent events. It is safe for concurrent use. Work for a stream ends with the context of its request:
// the page is gone then.
type stream struct {
	mu       sync.Mutex
	response *echo.Response
}

// newStream starts the answer. After it, only events can be sent.
func newStream(c echo.Context) *stream {
	response := c.Response()
	response.Header().Set(echo.HeaderContentType, "text/event-stream; charset=utf-8")
	response.WriteHeader(http.StatusOK)
	response.Flush()
	return &stream{response: response}
}

// send sends an event with data as JSON.
func (s *stream) send(event string, data any) error {
	text, err := json.Marshal(data) // on one line
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintf(s.response, "event: %s\ndata: %s\n\n", event, text); err != nil {
		return err
	}
	s.response.Flush()
	return nil
}
