package hubs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/usher-dps/usher/internal/serve/remotefile"
)

// statistics counts the devices of a hub. It needs the permission Microsoft.Devices/IotHubs/statistics/read, which the
// role IoT Hub Data Reader contains, or the right RegistryRead of a shared access policy. Sources:
// https://learn.microsoft.com/rest/api/iothub/service/statistics/get-device-statistics and
// https://learn.microsoft.com/azure/iot-hub/authenticate-authorize-azure-ad
const statistics = "/statistics/devices?api-version=2021-04-12"

// scope is that of tokens for IoT Hub's service API in all clouds.
const scope = "https://iothubs.azure.net/.default"

const (
	countTimeout  = 10 * time.Second
	firstRetry    = time.Second // after a failure; each further one doubles it, up to the poll interval
	maxRetryAfter = 10 * time.Minute
	maxAnswer     = 64 << 10 // bytes
	maxDevices    = 1 << 40  // more is nonsense
	jitter        = 0.1      // spreads instances that started together, either way
)

type pipeline = runtime.Pipeline

// counter makes the pipelines through which devices are counted. All hubs share one token.
type counter struct {
	options Options
	bearer  policy.Policy
}

func newCounter(options Options) counter {
	return counter{options, runtime.NewBearerTokenPolicy(&lateCredential{get: options.Credential}, []string{scope}, nil)}
}

func (c counter) pipeline(h Hub) pipeline {
	authenticate := c.bearer
	if h.Key.Check() == nil {
		authenticate = h.Key
	}
	transport := c.options.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.TLSClientConfig = &tls.Config{RootCAs: c.options.Roots, MinVersion: tls.VersionTLS12}
		if h.Gateway != "" {
			gateway := h.Gateway
			if _, _, err := net.SplitHostPort(gateway); err != nil {
				gateway = net.JoinHostPort(gateway, "443")
			}
			own.Proxy = nil
			own.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, gateway)
			}
		}
		transport = own
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return runtime.NewPipeline("usher", "", runtime.PipelineOptions{PerRetry: []policy.Policy{authenticate}},
		&policy.ClientOptions{Transport: client, Retry: policy.RetryOptions{MaxRetries: -1}, Telemetry: policy.TelemetryOptions{Disabled: true}})
}

// lateCredential gets the identity when a token is first needed.
type lateCredential struct {
	get func() (azcore.TokenCredential, error)

	mu  sync.Mutex
	got azcore.TokenCredential
}

func (l *lateCredential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	credential, err := l.credential()
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return credential.GetToken(ctx, options)
}

func (l *lateCredential) credential() (azcore.TokenCredential, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.got != nil {
		return l.got, nil
	}
	if l.get == nil {
		return nil, errors.New("there is neither an Azure identity nor a connection string")
	}
	var err error
	l.got, err = l.get()
	return l.got, err
}

// count counts the devices of the hub.
func (h *hub) count(ctx context.Context) {
	begun := time.Now()
	within, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	devices, err := h.request(within)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // we are stopping
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.fail(ctx, err)
		return
	}
	if h.failure != "" {
		h.log.InfoContext(ctx, "hub counted again", "devices", devices)
	}
	h.devices, h.counted, h.failure, h.retry, h.asked = devices, begun, "", firstRetry, 0
	h.settle(ctx)
}

func (h *hub) fail(ctx context.Context, err error) {
	h.asked = 0
	if status, ok := errors.AsType[*statusError](err); ok {
		h.asked = status.retryAfter
	}
	text := remotefile.Presentable(err).Error()
	level := slog.LevelWarn
	if text == h.failure || h.entry.State == Down {
		level = slog.LevelDebug // it is known, or expected
	}
	h.log.Log(ctx, level, "hub not counted", "error", text)
	h.failures++
	h.failure = text
}

// wait is how long to wait until devices are counted again.
func (h *hub) wait() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failure == "" {
		return spread(h.poll)
	}
	wait := max(h.retry, firstRetry)
	h.retry = min(2*wait, max(h.poll, firstRetry))
	return max(spread(wait), h.asked)
}

func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}

// statusError is an answer without a count.
type statusError struct {
	status     int
	code       string // IoT Hub's own, such as IotHubUnauthorizedAccess
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	text := "it answers " + strconv.Itoa(e.status) + " " + http.StatusText(e.status)
	if e.code != "" {
		text += " (" + e.code + ")"
	}
	if e.status == http.StatusUnauthorized || e.status == http.StatusForbidden {
		text += ": the identity needs the role IoT Hub Data Reader, or the policy of the connection string the right RegistryRead"
	}
	return text
}

func (h *hub) request(ctx context.Context) (int64, error) {
	request, err := runtime.NewRequest(ctx, http.MethodGet, "https://"+h.name+statistics)
	if err != nil {
		return 0, err
	}
	request.Raw().Header.Set("Accept", "application/json")
	response, err := h.pipeline.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, &statusError{response.StatusCode, remotefile.PlainCode(response.Header.Get("Iothub-Errorcode")),
			remotefile.RetryAfter(response.Header.Get("Retry-After"), time.Now())}
	}
	var answer struct {
		Total *int64 `json:"totalDeviceCount"`
	}
	err = json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&answer)
	if err != nil || answer.Total == nil || *answer.Total < 0 || *answer.Total > maxDevices {
		return 0, errors.New("it answers without a usable totalDeviceCount")
	}
	return *answer.Total, nil
}
