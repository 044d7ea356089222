package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/operate/azureauth"
	"github.com/usher-dps/usher/internal/operate/enrollment"
	"github.com/usher-dps/usher/internal/sharedaccess"
)

// provisioningFlags say which DPS instance a command uses, and how it signs in.
type provisioningFlags struct {
	host           string
	connectionFile string
	standIn        string // folder of the usher dps to use; empty for Azure
	version        string // of the service API; empty for the newest stable one
}

// Environment variables in place of flags.
const (
	envProvisioningHost = "USHER_DPS"
	envConnectionString = "USHER_DPS_CONNECTION_STRING"
	envFunctionKey      = "USHER_FUNCTION_KEY"
)

func (f *provisioningFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.host, "dps", "", "host name of the DPS instance's service API; default from "+envProvisioningHost+", else the one in the connection string")
	flags.StringVar(&f.standIn, "stand-in", "", "--folder of the usher dps that takes the place of the DPS instance, such as "+defaultDPSFolder)
	flags.StringVar(&f.connectionFile, "connection-string-file", "",
		"file with a connection string of the DPS instance, - for standard input; default from "+envConnectionString+", else Microsoft Entra is used (az login)")
}

func (f *provisioningFlags) client(cmd *cobra.Command) (*enrollment.Client, error) {
	options := enrollment.Options{Host: f.host, Version: f.version}
	if f.standIn != "" {
		var err error
		if options.Transport, err = standInClient(f.standIn); err != nil {
			return nil, err
		}
	}
	if options.Host == "" {
		options.Host = os.Getenv(envProvisioningHost)
	}
	text := os.Getenv(envConnectionString)
	if f.connectionFile != "" {
		var err error
		if text, err = secretFrom(cmd, f.connectionFile); err != nil {
			return nil, err
		}
	}
	if text != "" {
		connection, err := sharedaccess.Parse(text)
		if err != nil {
			return nil, usageError(err)
		}
		options.Key = connection.Key
		if options.Host == "" {
			options.Host = connection.Host
		}
	}
	if options.Host == "" {
		return nil, usageError(fmt.Errorf("which DPS instance? Give --dps, set %s, or give a connection string (usher dps connection-string prints that of usher dps)", envProvisioningHost))
	}
	if text == "" {
		var err error
		if options.Credential, err = azureauth.Credential(os.Getenv); err != nil {
			return nil, err
		}
	}
	options.Retry = func(reason string) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s; trying again\n", options.Host, reason)
	}
	client, err := enrollment.NewClient(options)
	if err != nil {
		return nil, usageError(err)
	}
	return client, nil
}

// explain adds to an error what to do if the instance is the stand-in.
func (f *provisioningFlags) explain(err error) error {
	if f.standIn == "" && errors.Is(err, enrollment.ErrUnreachable) {
		return fmt.Errorf("%w\nIf it is usher dps, add --stand-in FOLDER (its --folder, or %s)", err, defaultDPSFolder)
	}
	return err
}

// webhookFlags say which webhook a command uses. The key is never a flag, because flags are in the shell's history and
// in the list of processes.
type webhookFlags struct {
	url, keyFile, apiVersion string
}

func (f *webhookFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.url, "webhook", "", "URL of the webhook without its key, such as https://NAME.azurewebsites.net/api/allocate")
	flags.StringVar(&f.keyFile, "key-file", "", "file with the function key, - for standard input; default from "+envFunctionKey)
}

// webhook is the URL with its key.
func (f *webhookFlags) webhook(cmd *cobra.Command) (enrollment.Webhook, error) {
	webhook := enrollment.Webhook{URL: f.url, APIVersion: f.apiVersion}
	if f.url == "" {
		return webhook, usageError(errors.New("--webhook is missing"))
	}
	if webhook.Key() != "" {
		return webhook, usageError(errors.New("--webhook contains a key, which is now in this shell's history: change the key, and give the new one with --key-file or " + envFunctionKey))
	}
	key := strings.TrimSpace(os.Getenv(envFunctionKey))
	if f.keyFile != "" {
		var err error
		if key, err = secretFrom(cmd, f.keyFile); err != nil {
			return webhook, err
		}
	}
	if key == "" {
		return webhook, nil
	}
	webhook, err := webhook.WithKey(key)
	if err != nil {
		return webhook, usageError(err)
	}
	return webhook, nil
}

// secretFrom reads one line. Its errors do not quote it.
func secretFrom(cmd *cobra.Command, name string) (string, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, 16<<10))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s does not hold one line", name)
	}
	return secret, nil
}
