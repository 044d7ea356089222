package fault_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
)

func TestTransport(t *testing.T) {
	t.Parallel()
	within := func(err error) error { return &url.Error{Op: "Get", URL: "https://h/SECRET?code=SECRET", Err: err} }
	for text, test := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"no answer in time": {within(context.DeadlineExceeded), fault.Timeout},
		"the host name devices.example.com cannot be resolved":  {within(&net.OpError{Op: "dial", Err: &net.DNSError{Name: "devices.example.com", Err: "no such host"}}), fault.Unreachable},
		"no connection: dial tcp: connection refused":           {within(&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}), fault.Unreachable},
		"the connection broke before the answer was complete":   {within(errors.New("malformed HTTP status code SECRET")), fault.Unreachable},
		"no token for api://devices: none of them works":        {within(fault.Token("api://devices", errors.New("none of them\n works"))), fault.Denied},
		"no token for api://devices: context deadline exceeded": {fmt.Errorf("%w", fault.Token("api://devices", context.DeadlineExceeded)), fault.Timeout},
	} {
		if got := fault.Transport(test.err); got.Kind != test.kind || got.Error() != text {
			t.Errorf("got  %s: %s\nwant %s: %s", got.Kind, got, test.kind, text)
		}
	}
}

// A text is one line of bounded length, in UTF-8.
func TestPlain(t *testing.T) {
	t.Parallel()
	if got := fault.Plain(" a\r\n\tb\xff "); got != "a b" {
		t.Errorf("got %q", got)
	}
	if got := fault.Plain(strings.Repeat("é", 1000)); got != strings.Repeat("é", 250)+"…" {
		t.Errorf("got %q", got)
	}
}
