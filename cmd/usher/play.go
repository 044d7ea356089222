package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/pkg/browser"
	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/examples/requests"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/play"
	"github.com/usher-dps/usher/internal/play/fleet"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// playFlags are the flags of usher play.
type playFlags struct {
	rules         rulesFlags
	hubs          hubList
	enrollments   []string // files
	payloadSchema string   // file
	readOnly      bool
	noOpen        bool
	port          uint16
	logs          []string // files
	dps           string   // folder or address of a stand-in; empty for none
}

func newPlayCommand() *cobra.Command {
	var flags playFlags
	cmd := &cobra.Command{
		Use:   "play",
		Short: "See where devices go, and change it, on a page in the browser",
		Long: `Play serves a page on this machine with the rules to edit, a request to decide and the
answer, which follows each change. It shows which lines of the rules gave the answer,
and what the edited rules change for the device compared with the saved ones.

With --log it also shows where the devices of a log go, and what the edited rules change
for them. It reads what usher replay reads, and goes on when more is written to the file.
--dps does the same with a usher dps that runs.

The page decides nothing itself: usher decides, as the webhook does. Only the address
that it prints opens the page; it has a key that is another one each time. Ctrl-C ends
it.`,
		Example: `  usher play
  usher play --rules new-rules --port 8080 --no-open
  usher play --log records.ndjson --dps
  usher play --read-only               for a demonstration`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.rules.complete(cmd); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return flags.serve(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.rules.path, "rules", "rules", "folder of rules")
	flags.rules.registerCapabilities(cmd)
	addHubs(cmd, &flags.hubs, "hubs that are linked to the DPS")
	f.StringSliceVar(&flags.enrollments, "enrollments", nil, "JSON file with enrollments, as az iot dps lists them; may be repeated")
	f.StringVar(&flags.payloadSchema, "payload-schema", "", "JSON Schema of what devices send as payload")
	f.StringArrayVar(&flags.logs, "log", nil, "log, decision records or journal with registrations, in a file or below a folder; may be repeated")
	f.StringVar(&flags.dps, "dps", "", "usher dps that runs, by its --folder or as --dps=HOST:PORT")
	f.Lookup("dps").NoOptDefVal = defaultDPSFolder
	f.BoolVar(&flags.readOnly, "read-only", false, "let the page save nothing")
	f.BoolVar(&flags.noOpen, "no-open", false, "do not open a browser")
	f.Uint16Var(&flags.port, "port", 0, "port to listen on, of 127.0.0.1; 0 picks a free one")
	return cmd
}

// serve serves until ctx ends.
func (flags *playFlags) serve(ctx context.Context, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := openRules(flags.rules); err != nil {
		return err
	}
	if !flags.rules.isFolder() {
		return usageError(fmt.Errorf("%s is a bundle, and usher play edits a folder of rules: unpack it first", flags.rules.path))
	}
	files, err := workspace.Open(workspace.Options{Folder: flags.rules.path, Rules: flags.rules.options(), ReadOnly: flags.readOnly})
	if err != nil {
		return rulesError(err)
	}
	defer files.Close()
	options := play.Options{
		Workspace: files, Rules: flags.rules.options(), Version: readBuild().Usher, Token: rand.Text(),
		Examples: requests.Files(), Hubs: flags.hubs,
	}
	for _, name := range flags.enrollments {
		enrollments, err := readEnrollments(name)
		if err != nil {
			return err
		}
		options.Enrollments = append(options.Enrollments, enrollments...)
	}
	if flags.payloadSchema != "" {
		if options.PayloadSchema, err = os.ReadFile(flags.payloadSchema); err != nil {
			return err
		}
		if _, err := verify.ParsePayloadSchema(options.PayloadSchema); err != nil {
			return fmt.Errorf("%s: %w", flags.payloadSchema, err)
		}
	}
	if options.Fleet, err = flags.openFleet(); err != nil {
		return err
	}
	if options.Fleet != nil {
		defer options.Fleet.Close()
		options.Live = flags.dps != ""
		var reading sync.WaitGroup
		look := time.NewTicker(fleetInterval)
		reading.Go(func() { options.Fleet.Follow(ctx, look.C) })
		defer reading.Wait()
		defer look.Stop()
		defer cancel()
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(flags.port))))
	if err != nil {
		return portError(err, "--port")
	}
	defer listener.Close()
	options.Port = portOf(listener)
	handler, err := play.New(options)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    log.New(stderr, "play: ", 0),
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends what streams
	}
	address := fmt.Sprintf("http://127.0.0.1:%d/?token=%s", options.Port, options.Token)
	fmt.Fprintf(stdout, "%s\nThe rules in %s are on this page. Press Ctrl-C to stop.\n", address, flags.rules.path)
	if !flags.noOpen {
		browser.Stdout, browser.Stderr = io.Discard, io.Discard
		go func() { // some browsers keep their caller waiting
			if err := browser.OpenURL(address); err != nil {
				fmt.Fprintf(stderr, "usher: no browser opens (%v): open the address above\n", err)
			}
		}()
	}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(ending) != nil {
			_ = server.Close()
		}
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

// fleetInterval is the time between two looks at logs that can get more.
const fleetInterval = 500 * time.Millisecond

// openFleet opens the logs; nil if there are none. It reads nothing yet.
func (flags *playFlags) openFleet() (*fleet.Fleet, error) {
	var sources []fleet.Source
	for _, path := range flags.logs {
		logs, err := requestlog.Files(path)
		if err != nil {
			return nil, usageError(fmt.Errorf("--log: %w", err))
		}
		for _, log := range logs {
			file, err := fleet.OpenFile(log.Name)
			if err != nil {
				return nil, usageError(fmt.Errorf("--log: %w", err))
			}
			sources = append(sources, file)
		}
	}
	if flags.dps != "" {
		journal, err := openJournal(flags.dps)
		if err != nil {
			return nil, fmt.Errorf("--dps: %w", err)
		}
		sources = append(sources, journal)
	}
	if len(sources) == 0 {
		return nil, nil
	}
	return fleet.New(sources...)
}

// openJournal returns the journal of the stand-in that runs in a folder or at an address. That at an address has its
// certificates in the default folder.
func openJournal(at string) (*fleet.Journal, error) {
	folder, address := at, ""
	if _, _, err := net.SplitHostPort(at); err == nil {
		folder, address = defaultDPSFolder, at
	}
	if address == "" {
		running, err := readRunning(folder)
		if err != nil {
			return nil, err
		}
		address = running.httpsAddress()
	}
	client, err := standInClientAt(folder, address)
	if err != nil {
		return nil, err
	}
	return fleet.NewJournal("usher dps", func(ctx context.Context, path string) ([]byte, error) {
		return manageBy(ctx, client, http.MethodGet, path, "")
	}), nil
}
