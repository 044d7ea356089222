package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/configfile"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

const (
	defaultDPSConfig  = "dps.yaml"
	defaultDPSFolder  = ".usher-dps"
	defaultDPSWebhook = "http://localhost:7071/api/allocate"
	defaultHTTPS      = 443 // fixed in most device SDKs
	defaultMQTT       = 8883
	fallbackHTTPS     = 8443
)

// dpsFlags are the flags of usher dps.
type dpsFlags struct {
	standInFlags
	init, quiet bool
	https, mqtt uint16
	address     string
	hosts       []string
}

// standInFlags are the flags of every command that starts a stand-in.
type standInFlags struct {
	config, folder string
	webhook        string
	webhookSet     bool
	timeScale      float64
	state, journal string
	calm, quota    bool
}

func (f *standInFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.webhook, "webhook", defaultDPSWebhook, "URL of the webhook, for enrollments that name none; takes precedence over webhook.url in the configuration")
	flags.Float64Var(&f.timeScale, "time-scale", 0, "how much faster than at DPS time passes: 60 makes a minute last a second (default: as configured, or 1)")
	flags.StringVar(&f.state, "state", "", "file that keeps enrollments, registrations and twins; without it they are lost when the process ends")
	flags.StringVar(&f.journal, "journal", "", "file to append the journal to, a line of JSON for each call")
	flags.BoolVar(&f.calm, "calm", false, "no trouble, whatever the configuration says")
	flags.BoolVar(&f.quota, "quota", false, "enforce DPS's quotas: 1,000 registrations and 1,000 operations a minute")
}

// registerPlaces adds the flags of all commands below usher dps.
func (f *standInFlags) registerPlaces(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.config, "config", defaultDPSConfig, "configuration: hubs, enrollments, settings; --init writes one")
	flags.StringVar(&f.folder, "folder", defaultDPSFolder, "folder of the development certificates, and of the file in which other commands find the stand-in")
}

func (f *standInFlags) check(cmd *cobra.Command) error {
	f.webhookSet = cmd.Flags().Changed("webhook")
	if cmd.Flags().Changed("time-scale") && !(f.timeScale > 0) {
		return usageError(fmt.Errorf("--time-scale is %v: it must be above 0", f.timeScale))
	}
	return nil
}

func newDPSCommand() *cobra.Command {
	var flags dpsFlags
	cmd := &cobra.Command{
		Use:   "dps",
		Short: "Run a stand-in for Azure DPS, for real device SDKs",
		Long: `Dps starts a stand-in for Azure IoT Hub Device Provisioning Service and the small
part of IoT Hub that shows the outcome. Unmodified Azure device SDKs register with it
over HTTPS, MQTT and MQTT over WebSocket; it calls the webhook and applies the answer
as DPS does, and the official service SDKs manage it and read the twins.

It is for development, and it is not DPS: docs/differs-from-dps.md lists differences.
It makes its own certificate authority in --folder, and prints for each SDK how to
make it trust and find the stand-in.

Most SDKs cannot use other ports: HTTPS is on 443 and MQTT on 8883. Where 443 cannot
be used, HTTPS is on 8443, and a message says which SDK needs what.

Each call is shown in one line. The journal has the complete calls, with keys masked;
usher replay and usher explain read it.`,
		Example: `  usher dps --init && usher dps
  usher dps --webhook http://localhost:8000/hook --journal calls.ndjson --time-scale 20
  usher dps key contoso-custom-allocated-devices toaster-1-contoso-tstrsd-007
  usher dps fleet --devices 10000 --rate 1000 --storm 1`,
		Args: usageArgs(knownCommand),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			if flags.init {
				var hubs hubList
				from, err := projectValues("hubs", &hubs)
				if err != nil {
					return err
				}
				return initDPS(flags.standInFlags, hubs, from, cmd.OutOrStdout())
			}
			options := listenOptions{address: flags.address, https: flags.https, mqtt: flags.mqtt, fallback: !cmd.Flags().Changed("https")}
			return runDPS(cmd.Context(), flags, options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.registerPlaces(cmd)
	flags.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&flags.init, "init", false, "write a commented configuration with new keys, and the hubs of usher.yaml if there is one, and stop")
	f.Uint16Var(&flags.https, "https", defaultHTTPS, "port for HTTPS and WebSocket; 0 picks a free one")
	f.Uint16Var(&flags.mqtt, "mqtt", defaultMQTT, "port for MQTT over TLS; 0 picks a free one")
	f.StringVar(&flags.address, "address", "127.0.0.1", "address to listen on; 0.0.0.0 for all")
	f.StringSliceVar(&flags.hosts, "host", nil, "further names or addresses that devices use, for the server's certificate")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "do not show calls")
	cmd.AddCommand(newDPSFleetCommand(&flags.standInFlags), newDPSKeyCommand(&flags.standInFlags), newDPSCertificateCommand(&flags.standInFlags),
		newDPSConnectionStringCommand(&flags.standInFlags), newDPSTPMCommand(), newDPSTroubleCommand(&flags.standInFlags))
	return cmd
}

// initDPS writes the example configuration, with the hubs of the file that from names. It never overwrites a file.
func initDPS(flags standInFlags, hubs []string, from string, stdout io.Writer) error {
	authority, err := pki.Load(flags.folder)
	if err != nil {
		return err
	}
	deviceCA, err := filepath.Rel(absolute(filepath.Dir(flags.config)), absolute(authority.DeviceCAFile()))
	if err != nil {
		return err
	}
	file, err := os.OpenFile(flags.config, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s already exists: remove it first, or name another file with --config", flags.config)
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, configfile.Example(deviceCA, hubs...))
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	with := "new keys"
	if from != "" {
		with += " and the hubs of " + from
	}
	fmt.Fprintf(stdout, "%s: a commented configuration, with %s\n%s: the certificate that SDKs must trust\n\nStart it: usher dps%s\n",
		flags.config, with, authority.CAFile(), flags.suffix())
	return nil
}

// suffix repeats the places that are not the default, for another command line.
func (f *standInFlags) suffix() string {
	text := ""
	if f.config != defaultDPSConfig {
		text += " --config " + f.config
	}
	if f.folder != defaultDPSFolder {
		text += " --folder " + f.folder
	}
	return text
}

// load reads the configuration and applies the flags to it.
func (f *standInFlags) load() (configfile.File, error) {
	file, err := configfile.Load(f.config, configfile.Options{Webhook: f.webhook, WebhookWins: f.webhookSet})
	if errors.Is(err, fs.ErrNotExist) {
		return file, fmt.Errorf("there is no %s: `usher dps%s --init` writes one", f.config, f.suffix())
	}
	if err != nil {
		return file, err
	}
	if f.timeScale > 0 {
		file.Config.TimeScale = f.timeScale
	}
	if f.calm {
		file.Config.Trouble = dpssim.Trouble{}
	}
	if f.quota {
		file.Config.Quota = dpssim.DefaultQuota
	}
	return file, nil
}

// runDPS serves until ctx ends or a signal arrives.
func runDPS(ctx context.Context, flags dpsFlags, listen listenOptions, stdout, stderr io.Writer) error {
	fmt.Fprintln(stdout, "This is a development stand-in for Azure DPS and IoT Hub, not Azure itself.")
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	console := stdout
	if flags.quiet {
		console = nil
	}
	s, err := startStandIn(flags.standInFlags, listen, flags.hosts, console, stderr)
	if err != nil {
		return err
	}
	s.describe(stdout)
	ended := make(chan error, 1)
	go func() { ended <- s.wait() }()
	select {
	case err = <-ended:
		s.close()
		return err
	case <-ctx.Done():
	case <-signals:
		fmt.Fprintln(stderr, "stopping: calls in flight finish first; press Ctrl-C again to stop at once")
	}
	closed := make(chan error, 1)
	go func() { closed <- s.close() }()
	select {
	case err = <-closed:
		return err
	case <-signals:
		return errors.New("stopped at once")
	}
}
