package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/fleet"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
)

// dpsFleetFlags are the flags of usher dps fleet.
type dpsFleetFlags struct {
	standInFlags
	devices, parallel, storm int
	rate                     float64
	transport, group, id     string
	groupKey, payload        string
	payloadFile              string
	payloads                 []string // of either
	organizations            []string
	x509, tpm, start         bool
	output                   string
}

func newDPSFleetCommand(places *standInFlags) *cobra.Command {
	var flags dpsFleetFlags
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Register made-up devices, and show how they spread over the hubs",
		Long: `Fleet registers made-up devices of an enrollment group with the stand-in that runs
in --folder, over the protocols of real devices, each on a connection of its own. With
--start it starts its own stand-in, which ends with the command.

Devices arrive at --rate per minute, or all at once without it; at most --parallel are
online at the same time. --storm makes all of them register again at once, this many
times. {n} in --id and in payloads is a device's number, with as many digits as
--devices; {n:5} has five digits, {n:1} no leading zeros. A device that is told to retry later (429) does so. 429 is caused by --quota of
usher dps, and by trouble.

The key of a group is in --config. That of one which only the stand-in has, such as one by
usher enroll, comes from the stand-in's service API, with serviceKey of --config.

With --tpm each device gets an individual enrollment at the stand-in first, with the
endorsement key of one TPM in software, which all of them have.

It counts devices by hub, failed registrations and refused calls by DPS's code, how
many devices changed hubs since the round before, and how long each took from when it
was due until it was done.

It exits with 1 if a device got no usable answer.`,
		Example: `  usher dps fleet --devices 200 --id '{n}-contoso-tstrsd-007'
  usher dps fleet --id 'press-{n:6}' --payload '{"serial": "{n:6}"}'
  usher dps fleet --x509 --group tenant-devices --organization contoso --organization fabrikam
  usher dps fleet --tpm --devices 20 --id 'gateway-{n}'
  usher dps fleet --devices 10000 --rate 1000 --group eu-factory --storm 1
  usher dps fleet --start --devices 10000 --quota --time-scale 60 --transport mqtt -o json`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags.config, flags.folder = places.config, places.folder
			if err := flags.check(cmd); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return flags.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.IntVar(&flags.devices, "devices", 100, "how many devices")
	f.Float64Var(&flags.rate, "rate", 0, "registrations per minute; 0 for all at once")
	f.IntVar(&flags.storm, "storm", 0, "how many times all register again at once, afterwards")
	f.StringVar(&flags.transport, "transport", fleet.HTTP, "http or mqtt")
	f.StringVar(&flags.group, "group", "", "enrollment group of the devices (default: the first of the configuration)")
	f.StringVar(&flags.groupKey, "group-key", "", "the group's key, if it is not in the configuration; without it, the stand-in is asked for the key of such a group")
	f.BoolVar(&flags.x509, "x509", false, "give devices certificates of the development device CA in place of keys")
	f.BoolVar(&flags.tpm, "tpm", false, "give devices a TPM in place of keys, and individual enrollments that are allocated as --group is")
	f.StringVar(&flags.id, "id", "fleet-"+fleet.Number, "registration ID of a device, with "+fleet.Number+" for its number")
	f.StringSliceVar(&flags.organizations, "organization", nil, "with --x509: organization in the subject of a certificate; if repeated, devices take one after the other in turn")
	f.StringVar(&flags.payload, "payload", "", "JSON object that each device sends as its payload, with "+fleet.Number+" for its number")
	f.StringVar(&flags.payloadFile, "payload-file", "", "file with such an object in each line; devices take one after the other in turn")
	f.IntVar(&flags.parallel, "parallel", fleet.DefaultParallel, "maximum of devices online at the same time")
	f.BoolVar(&flags.start, "start", false, "start a stand-in for this run, with the options of usher dps")
	addOutputFlag(cmd, &flags.output, "text", "json")
	completeWith(cmd, "transport", fleet.HTTP, fleet.MQTT)
	return cmd
}

// startOnly are the flags for a stand-in that this command starts.
var startOnly = []string{"webhook", "time-scale", "state", "journal", "calm", "quota"}

func (flags *dpsFleetFlags) check(cmd *cobra.Command) error {
	if err := flags.standInFlags.check(cmd); err != nil {
		return err
	}
	switch {
	case flags.devices < 1 || flags.devices > 10_000_000:
		return usageError(fmt.Errorf("--devices is %d: want 1 to 10000000", flags.devices))
	case flags.rate < 0:
		return usageError(fmt.Errorf("--rate is %v: want registrations per minute", flags.rate))
	case flags.storm < 0:
		return usageError(fmt.Errorf("--storm is %d: want a number of rounds", flags.storm))
	case flags.parallel < 1:
		return usageError(fmt.Errorf("--parallel is %d: at least one device must be online", flags.parallel))
	case flags.transport != fleet.HTTP && flags.transport != fleet.MQTT:
		return usageError(fmt.Errorf("--transport is %s: want http or mqtt", flags.transport))
	case flags.tpm && (flags.x509 || flags.groupKey != ""):
		return usageError(errors.New("--tpm: devices have either a TPM, or keys, or certificates: leave out --x509 and --group-key"))
	case flags.tpm && flags.transport != fleet.HTTP:
		return usageError(errors.New("--tpm: TPMs register only over HTTP: leave out --transport"))
	case flags.x509 && flags.groupKey != "":
		return usageError(errors.New("--group-key and --x509: devices have either keys or certificates"))
	case len(flags.organizations) > 0 && !flags.x509:
		return usageError(errors.New("--organization is for certificates: add --x509"))
	case flags.payload != "" && flags.payloadFile != "":
		return usageError(errors.New("use either --payload or --payload-file, not both"))
	case flags.devices > 1 && !fleet.IsNumbered(flags.id):
		return usageError(fmt.Errorf("--id %s is the same for all devices: put %s in place of the number", flags.id, fleet.Number))
	}
	if err := flags.readPayloads(); err != nil {
		return usageError(err)
	}
	for _, name := range startOnly {
		if !flags.start && cmd.Flags().Changed(name) {
			return usageError(fmt.Errorf("--%s is for a stand-in that this command starts: give it to usher dps, or add --start", name))
		}
	}
	return nil
}

// readPayloads reads the payloads and checks them with the numbers that devices have.
func (flags *dpsFleetFlags) readPayloads() error {
	if flags.payload != "" {
		flags.payloads = []string{flags.payload}
		return flags.checkPayload(flags.payload, "--payload")
	}
	if flags.payloadFile == "" {
		return nil
	}
	text, err := os.ReadFile(flags.payloadFile)
	if err != nil {
		return err
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := flags.checkPayload(line, fmt.Sprintf("%s:%d", flags.payloadFile, number)); err != nil {
			return err
		}
		flags.payloads = append(flags.payloads, line)
	}
	if len(flags.payloads) == 0 {
		return fmt.Errorf("%s has no payload: write a JSON object in each line", flags.payloadFile)
	}
	return nil
}

func (flags *dpsFleetFlags) checkPayload(template, place string) error {
	for _, number := range []int{1, flags.devices} {
		text := fleet.WithNumber(template, number, flags.devices)
		var object map[string]any
		if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
			return fmt.Errorf("%s is not a JSON object for device %d: %s", place, number, text)
		}
	}
	return nil
}

func (flags *dpsFleetFlags) run(ctx context.Context, stdout, stderr io.Writer) error {
	at, err := flags.place(stderr)
	if err != nil {
		return err
	}
	defer at.close()
	options := fleet.Options{
		Devices: flags.devices, ID: flags.id, Transport: flags.transport, Parallel: flags.parallel,
		Address: at.httpsAddress(), IDScope: at.IDScope, RootCAs: at.authority.Pool(), Payloads: flags.payloads,
	}
	if flags.transport == fleet.MQTT {
		options.Address = at.mqttAddress()
	}
	if flags.tpm {
		if options.TPM, err = softtpm.New(); err != nil {
			return err
		}
	} else if flags.x509 {
		if err := flags.checkCertificates(); err != nil {
			return err
		}
		options.Certificate = flags.certificates(at.authority.Devices())
	} else if options.GroupKey, err = flags.key(ctx, at); err != nil {
		return err
	}
	devices, err := fleet.New(options)
	if err != nil {
		return err
	}
	if flags.tpm {
		if err := flags.enroll(ctx, at, devices, options.TPM.Keys()); err != nil {
			return err
		}
	}
	var rounds []fleet.Summary
	for i := range 1 + flags.storm {
		rate := flags.rate
		if i > 0 {
			rate = 0
		}
		stop := showFleet(ctx, stderr, devices, rate, flags.folder)
		round := devices.Register(ctx, rate)
		stop()
		rounds = append(rounds, round)
		if flags.output == "text" {
			writeRound(stdout, i, round, painterFor(stdout))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if flags.output == "json" {
		if err := writeJSON(stdout, map[string]any{"rounds": rounds}); err != nil {
			return err
		}
	}
	return fleetError(ctx, rounds)
}

func fleetError(ctx context.Context, rounds []fleet.Summary) error {
	if last := rounds[len(rounds)-1]; ctx.Err() != nil {
		return fmt.Errorf("interrupted in round %d, after %d of %d devices", len(rounds), last.Done(), last.Devices)
	}
	for i, round := range rounds {
		if round.Lost > 0 {
			return fmt.Errorf("round %d: %d devices got no usable answer, for example: %s", i+1, round.Lost, round.Examples["lost"])
		}
	}
	return nil
}

// fleetPlace is the stand-in that a fleet registers with.
type fleetPlace struct {
	running
	authority *pki.Authority
	close     func() error
}

func (flags *dpsFleetFlags) place(stderr io.Writer) (fleetPlace, error) {
	if flags.start {
		s, err := startStandIn(flags.standInFlags, listenOptions{address: "127.0.0.1"}, nil, nil, stderr)
		if err != nil {
			return fleetPlace{}, err
		}
		return fleetPlace{s.running, s.authority, s.close}, nil
	}
	at, err := readRunning(flags.folder)
	if err != nil {
		return fleetPlace{}, err
	}
	authority, err := pki.Load(flags.folder)
	return fleetPlace{at, authority, func() error { return nil }}, err
}

// certificates issues those of devices, for the organizations in turn.
func (flags *dpsFleetFlags) certificates(issuer *pki.Issuer) func(int, string) (tls.Certificate, error) {
	return func(number int, registrationID string) (tls.Certificate, error) {
		if n := len(flags.organizations); n > 0 {
			return issuer.Issue(registrationID, flags.organizations[(number-1)%n])
		}
		return issuer.Issue(registrationID)
	}
}

// checkCertificates finds groups that take no certificates before their devices fail. A group that is not in the
// configuration can be one that was made over the service API.
func (flags *dpsFleetFlags) checkCertificates() error {
	file, err := flags.load()
	if err != nil {
		return err
	}
	takes := 0
	for _, group := range file.Groups {
		isX509 := group.Attestation.Type == model.AttestationX509
		if isX509 {
			takes++
		}
		if strings.EqualFold(group.EnrollmentGroupID, flags.group) && !isX509 {
			return fmt.Errorf("%s: the group %s takes keys, not certificates: leave out --x509", flags.config, group.EnrollmentGroupID)
		}
	}
	if flags.group == "" && takes == 0 {
		return fmt.Errorf("%s has no enrollment group whose attestation is x509: add one with %s as its signing certificate, or leave out --x509", flags.config, "device-ca.pem of "+flags.folder)
	}
	return nil
}

func (flags *dpsFleetFlags) key(ctx context.Context, at fleetPlace) ([]byte, error) {
	if flags.groupKey != "" {
		key, err := attest.DecodeKey(flags.groupKey)
		if err != nil {
			return nil, usageError(fmt.Errorf("--group-key: %w", err))
		}
		return key, nil
	}
	file, err := flags.load()
	if err != nil {
		return nil, err
	}
	name := flags.group
	if name == "" {
		if len(file.Groups) == 0 {
			return nil, fmt.Errorf("%s has no enrollment group: name one of the stand-in's with --group and --group-key", flags.config)
		}
		name = file.Groups[0].EnrollmentGroupID
	}
	if !slices.ContainsFunc(file.Groups, func(g model.EnrollmentGroup) bool { return strings.EqualFold(g.EnrollmentGroupID, name) }) {
		return flags.keyOfStandIn(ctx, file, at, name)
	}
	return flags.standInFlags.groupKey(name)
}

// liveInterval is how often the display on a terminal changes.
const liveInterval = 500 * time.Millisecond

// showFleet displays the progress on a terminal until stop is called.
func showFleet(ctx context.Context, w io.Writer, devices *fleet.Fleet, rate float64, folder string) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	left := make(chan struct{})
	go func() {
		defer close(left)
		ticker := time.NewTicker(liveInterval)
		defer ticker.Stop()
		drawn := 0
		erase := func() {
			if drawn > 0 {
				fmt.Fprintf(w, "\x1b[%dA\x1b[J", drawn)
			}
		}
		calls := &webhookCalls{folder: folder}
		calls.read(ctx) // those of earlier rounds
		*calls = webhookCalls{folder: folder, after: calls.after}
		for {
			select {
			case <-ctx.Done():
				erase()
				return
			case <-ticker.C:
				calls.read(ctx)
				picture := fleetPicture(devices.Snapshot(), rate, calls, columnsOf(w))
				erase()
				io.WriteString(w, picture)
				drawn = strings.Count(picture, "\n")
			}
		}
	}()
	return func() {
		cancel()
		<-left
	}
}

// webhookCalls is what the stand-in's journal says about webhooks that do not let devices through. The devices see only
// that they must wait.
type webhookCalls struct {
	folder  string
	after   uint64 // the last entry that was read
	repeats int    // answers after which DPS calls again
	last    dpssim.Entry
}

// read reads new entries. The display does without those that it cannot read in time.
func (c *webhookCalls) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 4*liveInterval)
	defer cancel()
	for {
		text, err := manage(ctx, c.folder, http.MethodGet, fmt.Sprintf("/_/journal?kind=%s&limit=1000&after=%d", dpssim.KindWebhook, c.after), "")
		var page dpssim.JournalPage
		if err != nil || json.Unmarshal(text, &page) != nil {
			return
		}
		for _, entry := range page.Entries {
			if strings.HasPrefix(entry.DPSEffect, dpssim.EffectCallAgain) {
				c.repeats++
				c.last = entry
			}
		}
		if c.after = page.Next; page.Next >= page.Last || len(page.Entries) == 0 {
			return
		}
	}
}

// fleetPicture is the display: lines that fit the columns of the terminal.
func fleetPicture(now fleet.Summary, rate float64, calls *webhookCalls, columns int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d devices are done, %s", now.Done(), now.Devices, perMinute(now))
	if rate > 0 {
		fmt.Fprintf(&b, " (%.0f wanted)", rate)
	}
	b.WriteString("\n")
	if now.Waiting > 0 {
		fmt.Fprintf(&b, "  %-16s %7d\n", "waiting", now.Waiting)
	}
	writeProblems(&b, now, false)
	if calls.repeats > 0 && now.Waiting > 0 {
		why := calls.last.Error
		if why == "" {
			why = fmt.Sprintf("it answers %d", calls.last.Status)
		}
		fmt.Fprintf(&b, "  %-16s %7d  times DPS must call the webhook again\n    %s\n    %s; DPS gives up after 415 s\n",
			"no assignment", calls.repeats, dpssim.Printable(why), dpssim.Printable(calls.last.DPSEffect))
	}
	writeHubs(&b, now, columns)
	var picture strings.Builder
	for line := range strings.Lines(b.String()) {
		text := []rune(strings.TrimSuffix(line, "\n"))
		if len(text) >= columns { // a full line would wrap, and could not be erased
			text = append(text[:columns-4], []rune("...")...)
		}
		picture.WriteString(string(text) + "\n")
	}
	return picture.String()
}

func perMinute(s fleet.Summary) string {
	return fmt.Sprintf("%.0f per minute", float64(s.Done())/max(float64(s.DurationMS), 1)*60_000)
}

// writeRound prints the outcome of a round.
func writeRound(w io.Writer, i int, s fleet.Summary, paint painter) {
	what := "registered"
	if i > 0 {
		what = "registered again, all at once"
	}
	fmt.Fprintf(w, "Round %d: %d devices %s in %.1f s, %s\n", i+1, s.Devices, what, float64(s.DurationMS)/1000, perMinute(s))
	line := lineWriter(w, paint)
	line(green, "assigned", s.Assigned, "")
	line("", "moved", s.Moved, " of these, to another hub")
	writeProblems(w, s, paint)
	if l := s.LatencyMS; l != nil {
		fmt.Fprintf(w, "  %-16s %7d ms for half of them, %d for 95 %%, %d for 99 %%, %d at most\n", "it took", l.P50, l.P95, l.P99, l.Max)
	}
	writeHubs(w, s, 120)
	fmt.Fprintln(w)
}

// lineWriter returns a function that writes a count, unless it is 0.
func lineWriter(w io.Writer, paint painter) func(c colour, name string, n int, note string) {
	return func(c colour, name string, n int, note string) {
		if n > 0 {
			fmt.Fprintf(w, "  %s %7d%s\n", paint.paint(c, fmt.Sprintf("%-16s", name)), n, note)
		}
	}
}

// writeProblems prints what did not lead to an assignment.
func writeProblems(w io.Writer, s fleet.Summary, paint painter) {
	line := lineWriter(w, paint)
	for _, code := range slices.Sorted(maps.Keys(s.Failed)) {
		line(red, "failed "+code, s.Failed[code], "  "+dpssim.Printable(s.Examples[code]))
	}
	for _, code := range slices.Sorted(maps.Keys(s.Refused)) {
		line(red, "refused "+code, s.Refused[code], "  "+dpssim.Printable(s.Examples[code]))
	}
	line(red, "disabled", s.Disabled, "")
	line(red, "lost", s.Lost, "  "+dpssim.Printable(s.Examples["lost"]))
	line(faint, "retry later", s.Throttled, " answers, after which devices retried")
}

// barWidth is the width of a bar for all devices, where there is space.
const barWidth = 40

func writeHubs(w io.Writer, s fleet.Summary, columns int) {
	hubs := slices.SortedFunc(maps.Keys(s.Hubs), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.Hubs[b], s.Hubs[a]), cmp.Compare(a, b))
	})
	width := 0
	for _, hub := range hubs {
		width = max(width, len(hub))
	}
	width = min(width, columns/2)
	bar := min(barWidth, max(columns-width-22, 0)) // 22 for the figures
	for _, hub := range hubs {
		share := float64(s.Hubs[hub]) / float64(max(s.Assigned, 1))
		name := dpssim.Printable(hub)
		if len(name) > width {
			name = name[:width-3] + "..."
		}
		fmt.Fprintf(w, "  %-*s %7d  %5.1f %%  %s\n", width, name, s.Hubs[hub], 100*share, strings.Repeat("#", int(share*float64(bar)+0.5)))
	}
}
