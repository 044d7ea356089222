package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

// managementTimeout is how long a stand-in may take to answer on its management endpoints.
const managementTimeout = 10 * time.Second

func newDPSTroubleCommand(flags *standInFlags) *cobra.Command {
	var calm bool
	cmd := &cobra.Command{
		Use:   "trouble [JSON]",
		Short: "Show or set what goes wrong on purpose, while the stand-in runs",
		Long: `Trouble shows what goes wrong on purpose in the stand-in that runs in --folder, or
replaces all of it with JSON as under trouble in the configuration. --calm ends it.`,
		Example: `  usher dps trouble
  usher dps trouble '{"throttle": 0.1, "webhook": {"cut": 0.05}}'
  usher dps trouble '{"hubs": {"contoso-eu-hub.azure-devices.net": "drained"}}'
  usher dps trouble --calm`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if calm && len(args) > 0 {
				return usageError(errors.New("--calm ends all trouble, but the argument sets some: choose one"))
			}
			method, body := http.MethodGet, ""
			switch {
			case calm:
				method, body = http.MethodPut, "{}"
			case len(args) == 1:
				method, body = http.MethodPut, args[0]
			}
			text, err := manage(cmd.Context(), flags.folder, method, "/_/trouble", body)
			if err != nil {
				return err
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, text, "", "  "); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), indented.String())
			return nil
		},
	}
	cmd.Flags().BoolVar(&calm, "calm", false, "end all trouble")
	return cmd
}

// manage calls a management endpoint of the stand-in that runs in a folder.
func manage(ctx context.Context, folder, method, path, body string) ([]byte, error) {
	client, err := standInClient(folder)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	return manageBy(ctx, client, method, path, body)
}

// manageBy calls a management endpoint of the stand-in that a client calls.
func manageBy(ctx context.Context, client *http.Client, method, path, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, managementTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "https://localhost"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		var refusal struct{ Message string }
		if json.Unmarshal(text, &refusal) != nil || refusal.Message == "" {
			refusal.Message = response.Status
		}
		return nil, errors.New(refusal.Message)
	}
	return text, nil
}

// standInClient returns a client that trusts the stand-in that runs in a folder, and that calls it whatever host a URL
// names.
func standInClient(folder string) (*http.Client, error) {
	at, err := readRunning(folder)
	if err != nil {
		return nil, err
	}
	return standInClientAt(folder, at.httpsAddress())
}

// standInClientAt is standInClient for one at an address, with its certificates in the folder.
func standInClientAt(folder, address string) (*http.Client, error) {
	authority, err := pki.Load(folder)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: authority.Pool()},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}, nil
}
