// Package fleet registers made-up devices with the stand-in for DPS over the protocols of real ones, HTTP and MQTT over
// TLS, and counts their hubs. It shares no protocol code with the stand-in's servers.
package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Transports, in [Options].
const (
	HTTP = "http"
	MQTT = "mqtt"
)

// Number stands for a device's number in [Options].
const Number = "{n}"

// DefaultHost is the host name of DPS for devices.
const DefaultHost = "global.azure-devices-provisioning.net"

// DefaultParallel is how many devices are online at the same time by default.
const DefaultParallel = 1000

// DefaultTimeout is longer than DPS retries a webhook: ten times, 415 s.
const DefaultTimeout = 10 * time.Minute

// Options describe the devices and where they register.
type Options struct {
	Devices   int
	ID        string // registration ID of each, with [Number] for its number
	Transport string // [HTTP] or [MQTT]
	Address   string // where the stand-in listens for that transport: host:port
	Host      string // DPS's host name for the devices; DefaultHost if empty
	IDScope   string
	RootCAs   *x509.CertPool // what devices trust

	// One of the two: the key of an enrollment group, or a function that issues a device's certificate.
	GroupKey    []byte
	Certificate func(registrationID string) (tls.Certificate, error)

	Payload  json.RawMessage // of each device; nil for none
	Parallel int             // devices online at the same time; DefaultParallel if 0
	Timeout  time.Duration   // for one registration including waits; DefaultTimeout if 0
}

// Fleet is a set of devices, which can register repeatedly.
type Fleet struct {
	options Options
	width   int      // digits of a device's number
	hubs    []string // of each device, "" before its first assignment
	round   atomic.Pointer[round]
}

// New checks the options. No device connects yet.
func New(options Options) (*Fleet, error) {
	switch {
	case options.Devices < 1:
		return nil, errors.New("a fleet has at least one device")
	case options.Devices > 1 && !strings.Contains(options.ID, Number):
		return nil, fmt.Errorf("the registration ID %q is the same for all devices: put %s in place of the number", options.ID, Number)
	case options.Transport != HTTP && options.Transport != MQTT:
		return nil, fmt.Errorf("transport %q: it is %s or %s", options.Transport, HTTP, MQTT)
	case (options.GroupKey == nil) == (options.Certificate == nil):
		return nil, errors.New("a fleet needs either the key of an enrollment group or certificates")
	case options.Parallel < 0:
		return nil, errors.New("at least one device must be online")
	}
	options.Host = cmp.Or(options.Host, DefaultHost)
	options.Parallel = cmp.Or(options.Parallel, DefaultParallel)
	options.Timeout = cmp.Or(options.Timeout, DefaultTimeout)
	f := &Fleet{options: options, width: len(strconv.Itoa(options.Devices)), hubs: make([]string, options.Devices)}
	f.round.Store(newRound(options.Devices))
	return f, nil
}

// RegistrationID of device i, counted from 0.
func (f *Fleet) RegistrationID(i int) string {
	return strings.ReplaceAll(f.options.ID, Number, fmt.Sprintf("%0*d", f.width, i+1))
}

// Register registers each device once, at a rate per minute, or all at once with rate 0. It returns when all are done
// or ctx ends. Devices that got a hub in an earlier round register again.
func (f *Fleet) Register(ctx context.Context, rate float64) Summary {
	round := newRound(f.options.Devices)
	f.round.Store(round)
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
			continue // wait ends the loop
		}
		running.Go(func() {
			defer func() { <-online }()
			f.registerOne(ctx, round, i, due)
		})
	}
	running.Wait()
	return round.snapshot(true)
}

// Snapshot is the progress of the current round, without latencies.
func (f *Fleet) Snapshot() Summary { return f.round.Load().snapshot(false) }

func (f *Fleet) registerOne(parent context.Context, round *round, i int, due time.Time) {
	ctx, cancel := context.WithTimeout(parent, f.options.Timeout)
	defer cancel()
	round.began()
	result := device{f.RegistrationID(i), &f.options}.register(ctx, round.throttled)
	if parent.Err() != nil && result.kind == lost {
		return // it was interrupted, not lost
	}
	round.count(result, &f.hubs[i], time.Since(due))
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
