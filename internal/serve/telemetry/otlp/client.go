package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// client posts to one endpoint.
type client struct {
	endpoint *Endpoint
	http     *http.Client
	failed   func(error)
	stopped  context.Context // done once the process does not wait any longer
	stop     context.CancelFunc
}

func newClient(endpoint *Endpoint, failed func(error)) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = endpoint.tls
	transport.MaxIdleConnsPerHost = 2
	c := &client{
		endpoint: endpoint,
		failed:   failed,
		http: &http.Client{
			Transport: transport,
			// To follow would hand the headers, and the keys in them, to wherever the answer points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	c.stopped, c.stop = context.WithCancel(context.Background())
	return c
}

// Bounds of waiting between attempts, and of what is read of an answer.
const (
	firstWait  = 500 * time.Millisecond
	longestRun = 5 * time.Second
	maxAnswer  = 64 << 10
)

// send posts a message and tries again while that may help, until the endpoint's
// timeout is over. What remains undelivered is reported, not returned: the SDK's
// way with an error is a global handler.
func (c *client) send(ctx context.Context, message proto.Message, items int) {
	if err := c.deliver(ctx, message); err != nil {
		c.failed(fmt.Errorf("%d %s were not delivered: %w", items, c.endpoint.signal, err))
	}
}

// encode returns the body of a request.
func (c *client) encode(message proto.Message) ([]byte, error) {
	body, err := proto.Marshal(message)
	if err != nil || !c.endpoint.gzip {
		return body, err
	}
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write(body); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

func (c *client) deliver(ctx context.Context, message proto.Message) error {
	body, err := c.encode(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.endpoint.timeout)
	defer cancel()
	defer context.AfterFunc(c.stopped, cancel)()
	wait := firstWait
	for {
		again, after, err := c.post(ctx, body)
		if err == nil || !again {
			return err
		}
		// Half fixed, half random: many instances fail at the same moment.
		pause := max(after, wait/2+rand.N(wait/2))
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		wait = min(2*wait, longestRun)
	}
}

// post tries once. again tells whether it may go better another time, and after
// how long the collector wants to be asked.
func (c *client) post(ctx context.Context, body []byte) (again bool, after time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.url.String(), bytes.NewReader(body))
	if err != nil {
		return false, 0, errors.New("the address is no longer one")
	}
	for name, values := range c.endpoint.headers {
		request.Header[name] = values
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", "usher-otlp-exporter")
	if c.endpoint.gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.http.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // the rest is the address, which can hold a key
		}
		// A certificate that is not trusted now will not be in a moment.
		_, distrusted := errors.AsType[*tls.CertificateVerificationError](err)
		return ctx.Err() == nil && !distrusted, 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case response.StatusCode/100 == 2:
		if err != nil {
			return false, 0, nil // it was taken; the rest of the answer does not matter
		}
		return false, 0, partialSuccess(answer)
	case response.StatusCode == http.StatusTooManyRequests, response.StatusCode == http.StatusBadGateway,
		response.StatusCode == http.StatusServiceUnavailable, response.StatusCode == http.StatusGatewayTimeout:
		again = true
		if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
			after = time.Duration(min(seconds, 3600)) * time.Second
		}
	}
	return again, after, &StatusError{Status: response.StatusCode, RetryAfter: after}
}

// partialSuccess reads what the collector says it did not take. The three
// signals' answers have one shape: partial_success (1), in it the count of
// rejected items (1) and a message (2).
func partialSuccess(answer []byte) error {
	rejected, message := uint64(0), ""
	for len(answer) > 0 {
		number, kind, n := protowire.ConsumeTag(answer)
		if n < 0 {
			return nil // some collectors answer in words
		}
		answer = answer[n:]
		if number == 1 && kind == protowire.BytesType {
			part, n := protowire.ConsumeBytes(answer)
			if n < 0 {
				return nil
			}
			answer = answer[n:]
			for len(part) > 0 {
				number, kind, n := protowire.ConsumeTag(part)
				if n < 0 {
					return nil
				}
				part = part[n:]
				switch {
				case number == 1 && kind == protowire.VarintType:
					rejected, n = protowire.ConsumeVarint(part)
				case number == 2 && kind == protowire.BytesType:
					message, n = protowire.ConsumeString(part)
				default:
					n = protowire.ConsumeFieldValue(number, kind, part)
				}
				if n < 0 {
					return nil
				}
				part = part[n:]
			}
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, answer); n < 0 {
			return nil
		}
		answer = answer[n:]
	}
	if rejected == 0 {
		return nil // a message alone is a hint
	}
	return &RejectedError{Rejected: int(min(rejected, 1<<30)), Message: message}
}

// close gives up what is being sent.
func (c *client) close() {
	c.stop()
	c.http.CloseIdleConnections()
}
