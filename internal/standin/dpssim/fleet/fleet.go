// Package fleet registers made-up devices with the stand-in for DPS through the
// doors that real ones use, HTTP and MQTT over TLS, and counts where they land. It
// speaks the protocol itself: it shares no code with the stand-in's own doors.
package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Transports, in [Options].
const (
	HTTP = "http"
	MQTT = "mqtt"
)

// Number stands for a device's number in [Options].
const Number = "{n}"

// DefaultHost is the host name under which devices know DPS.
const DefaultHost = "global.azure-devices-provisioning.net"

// DefaultParallel is how many devices are on line at the same time unless
// [Options] says otherwise.
const DefaultParallel = 1000

// DefaultTimeout is longer than DPS takes to give a webhook up: ten retries, 415 s.
const DefaultTimeout = 10 * time.Minute

// Options say what the devices are and where they register.
type Options struct {
	Devices   int
	ID        string // registration ID of each, with [Number] for its number
	Transport string // [HTTP] or [MQTT]
	Address   string // where the stand-in listens for that transport: host:port
	Host      string // what devices call DPS; DefaultHost if empty
	IDScope   string
	RootCAs   *x509.CertPool // what devices trust

	// Either of the two: the key of an enrollment group, or what gives a device
	// its certificate.
	GroupKey    []byte
	Certificate func(registrationID string) (tls.Certificate, error)

	Payload  json.RawMessage // what each device sends along; nil for nothing
	Parallel int             // devices on line at the same time; DefaultParallel if 0
	Timeout  time.Duration   // for one registration with all its waiting; DefaultTimeout if 0
}

// Fleet is a number of devices, which can register again and again.
type Fleet struct {
	options Options
	width   int // digits of a device's number

	mu   sync.Mutex
	hubs []string // of each device, "" before its first assignment

	round tally
}

// New checks the options. No device calls yet.
func New(options Options) (*Fleet, error) {
	switch {
	case options.Devices < 1:
		return nil, errors.New("a fleet has at least one device")
	case options.Devices > 1 && !strings.Contains(options.ID, Number):
		return nil, fmt.Errorf("the registration ID %q is the same for all devices: put %s where the number goes", options.ID, Number)
	case options.Transport != HTTP && options.Transport != MQTT:
		return nil, fmt.Errorf("transport %q: it is %s or %s", options.Transport, HTTP, MQTT)
	case (options.GroupKey == nil) == (options.Certificate == nil):
		return nil, errors.New("a fleet needs either the key of an enrollment group or certificates")
	case options.Parallel < 0:
		return nil, errors.New("at least one device has to be on line")
	}
	if options.Host == "" {
		options.Host = DefaultHost
	}
	if options.Parallel == 0 {
		options.Parallel = DefaultParallel
	}
	if options.Timeout == 0 {
		options.Timeout = DefaultTimeout
	}
	return &Fleet{
		options: options,
		width:   len(strconv.Itoa(options.Devices)),
		hubs:    make([]string, options.Devices),
	}, nil
}

// RegistrationID of device i, counted from 0.
func (f *Fleet) RegistrationID(i int) string {
	return strings.ReplaceAll(f.options.ID, Number, fmt.Sprintf("%0*d", f.width, i+1))
}

// Register has each device register once, rate of them a minute, or all at once
// with rate 0, and returns when all are through or ctx ends. Devices that have a
// hub from a round before register again.
func (f *Fleet) Register(ctx context.Context, rate float64) Summary {
	f.round.begin(f.options.Devices)
	var interval time.Duration
	if rate > 0 {
		interval = time.Duration(float64(time.Minute) / rate)
	}
	online := make(chan struct{}, f.options.Parallel)
	var running sync.WaitGroup
	start := time.Now()
	for i := range f.options.Devices {
		due := start.Add(time.Duration(i) * interval)
		if !wait(ctx, time.Until(due)) {
			break
		}
		select {
		case online <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		running.Go(func() {
			defer func() { <-online }()
			f.registerOne(ctx, i, due)
		})
	}
	running.Wait()
	return f.round.end()
}

// Snapshot is how far the current round is, without latencies.
func (f *Fleet) Snapshot() Summary { return f.round.snapshot() }

func (f *Fleet) registerOne(parent context.Context, i int, due time.Time) {
	ctx, cancel := context.WithTimeout(parent, f.options.Timeout)
	defer cancel()
	result := f.newDevice(f.RegistrationID(i)).register(ctx, f.round.throttle)
	if parent.Err() != nil && result.kind == lost {
		return // cut short, not lost
	}
	f.mu.Lock()
	before := f.hubs[i]
	if result.kind == assigned {
		f.hubs[i] = result.hub
	}
	f.mu.Unlock()
	f.round.count(result, before, time.Since(due))
}

// wait reports whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
