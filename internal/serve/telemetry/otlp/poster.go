package otlp

import (
	"context"
	"fmt"
	"time"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
)

// Poster sends log records of one's own making, and tells what came of each
// request: whoever keeps them until they are taken must know.
type Poster struct{ client *client }

// NewPoster returns a Poster for the endpoint of logs.
func NewPoster(endpoint *Endpoint) *Poster {
	return &Poster{newClient(endpoint, func(error) {})}
}

// Post sends records once. The error is a [StatusError] if the collector answered with another
// status than 2xx, and a [RejectedError] if it took the others.
func (p *Poster) Post(ctx context.Context, records *logspb.LogsData) error {
	body, err := p.client.encode(records)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.client.endpoint.timeout)
	defer cancel()
	_, _, err = p.client.post(ctx, body)
	return err
}

// StatusError is an answer with another status than 2xx.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // 0 if the collector says nothing of it
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the collector answered with status %d", e.Status)
}

// RejectedError is an answer of 200 that says that not everything was taken.
type RejectedError struct {
	Rejected int
	Message  string // the collector's
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the collector rejected %d of them: %.200q", e.Rejected, e.Message)
}
