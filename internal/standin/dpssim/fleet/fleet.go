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
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
)

// Transports, in [Options].
const (
	HTTP = "http"
	MQTT = "mqtt"
)

// Number stands for a device's number in [Options], with as many digits as the largest number. {n:5} has at least five
// digits, {n:1} no leading zeros.
const Number = "{n}"

// maxWidth is how many digits a number may have.
const maxWidth = 20

var numbers = regexp.MustCompile(`\{n(?::([0-9]+))?\}`)

// IsNumbered reports whether a text is different for each device.
func IsNumbered(text string) bool { return numbers.MatchString(text) }

// WithNumber puts the number of a device, counted from 1, into a text.
func WithNumber(text string, number, devices int) string {
	return numbers.ReplaceAllStringFunc(text, func(place string) string {
		width := len(strconv.Itoa(devices))
		if digits := numbers.FindStringSubmatch(place)[1]; digits != "" {
			given, err := strconv.Atoi(digits)
			if err != nil {
				given = maxWidth
			}
			width = min(given, maxWidth)
		}
		return fmt.Sprintf("%0*d", width, number)
	})
}

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

	// One of the three: the key of an enrollment group, a function that issues the certificate of a device, whose number
	// counts from 1, or the TPM that all devices have. TPMs register only over HTTP.
	GroupKey    []byte
	Certificate func(number int, registrationID string) (tls.Certificate, error)
	TPM         *softtpm.TPM

	Payloads []string      // JSON with [Number], for one device after the other in turn; none for devices without
	Parallel int           // devices online at the same time; DefaultParallel if 0
	Timeout  time.Duration // for one registration including waits; DefaultTimeout if 0
}

// proofs is how many ways devices have to prove who they are.
func (o Options) proofs() int {
	n := 0
	for _, has := range []bool{o.GroupKey != nil, o.Certificate != nil, o.TPM != nil} {
		if has {
			n++
		}
	}
	return n
}

// DeviceID is the registration ID of a device, whose number counts from 1.
func (f *Fleet) DeviceID(number int) string { return f.device(number - 1).id }

// Fleet is a set of devices, which can register repeatedly.
type Fleet struct {
	options Options
	hubs    []string // of each device, "" before its first assignment
	round   atomic.Pointer[round]
}

// New checks the options. No device connects yet.
func New(options Options) (*Fleet, error) {
	switch {
	case options.Devices < 1:
		return nil, errors.New("a fleet has at least one device")
	case options.Devices > 1 && !IsNumbered(options.ID):
		return nil, fmt.Errorf("the registration ID %q is the same for all devices: put %s in place of the number", options.ID, Number)
	case options.Transport != HTTP && options.Transport != MQTT:
		return nil, fmt.Errorf("transport %q: it is %s or %s", options.Transport, HTTP, MQTT)
	case options.TPM != nil && options.Transport != HTTP:
		return nil, errors.New("devices with a TPM register only over " + HTTP)
	case options.proofs() != 1:
		return nil, errors.New("a fleet needs either the key of an enrollment group, or certificates, or a TPM")
	case options.Parallel < 0:
		return nil, errors.New("at least one device must be online")
	}
	options.Host = cmp.Or(options.Host, DefaultHost)
	options.Parallel = cmp.Or(options.Parallel, DefaultParallel)
	options.Timeout = cmp.Or(options.Timeout, DefaultTimeout)
	f := &Fleet{options: options, hubs: make([]string, options.Devices)}
	f.round.Store(newRound(options.Devices))
	return f, nil
}

// device is device i, counted from 0.
func (f *Fleet) device(i int) device {
	d := device{number: i + 1, id: WithNumber(f.options.ID, i+1, f.options.Devices), options: &f.options}
	if n := len(f.options.Payloads); n > 0 {
		d.payload = json.RawMessage(WithNumber(f.options.Payloads[i%n], i+1, f.options.Devices))
	}
	return d
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
	result := f.device(i).register(ctx, round.throttled)
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
