package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/operate/doctor"
	"github.com/usher-dps/usher/internal/operate/enrollment"
)

func newDoctorCommand() *cobra.Command {
	var provisioning provisioningFlags
	var webhook webhookFlags
	var rules rulesFlags
	var hubs []string
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine the chain from DPS's enrollments to the webhook and its rules",
		Long: `Doctor reads the enrollments of a DPS instance, holds them against one another, against
the webhook and against the rules, and asks the webhook: without a key, with it, and
about a device that there is not. It changes nothing. Each finding says how to mend it.

The requests that it makes have the header Usher-Probe, so that the record tells them
from those of devices. Without --webhook it asks nothing and compares the enrollments
with one another.

Linked hubs are not part of DPS's service API: give them by --hub, as
'az iot dps linked-hub list' prints them, to find rules that name others.

It exits with 9 if it finds an error.`,
		Example: `  usher doctor --dps NAME.azure-devices-provisioning.net --webhook https://NAME.azurewebsites.net/api/allocate --key-file key
  usher doctor --connection-string-file dps.txt --hub contoso-eu.azure-devices.net --hub contoso-us.azure-devices.net`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return usageError(fmt.Errorf("--output is %q: use text or json", format))
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			loaded, files, err := loadRules(ctx, rules, rules.options())
			if err != nil {
				return err
			}
			options := doctor.Options{Rules: loaded, Files: files, Hubs: hubs, Now: time.Now}
			if webhook.url != "" {
				if options.Webhook, err = webhook.webhook(cmd); err != nil {
					return err
				}
			}
			client, err := provisioning.client(cmd)
			if err != nil {
				return err
			}
			for _, kind := range []enrollment.Kind{enrollment.Group, enrollment.Individual} {
				all, err := client.All(ctx, kind)
				if err != nil {
					return err
				}
				options.Enrollments = append(options.Enrollments, all...)
			}
			return examine(ctx, cmd, options, format)
		},
	}
	provisioning.register(cmd)
	webhook.register(cmd)
	rules.register(cmd)
	cmd.Flags().StringSliceVar(&hubs, "hub", nil, "host name of a hub that is linked to the DPS instance; may be repeated")
	cmd.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	completeWith(cmd, "output", "text", "json")
	return cmd
}

func examine(ctx context.Context, cmd *cobra.Command, options doctor.Options, format string) error {
	report, err := doctor.Examine(ctx, options)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if format == "json" {
		if err := writeJSON(out, report); err != nil {
			return err
		}
	} else {
		for _, f := range report.Findings {
			fmt.Fprintf(out, "%s: %s: %s [%s]\n  mend: %s\n", f.Where, f.Level, f.Message, f.ID, f.Mend)
		}
		if p := report.Probe; p != nil {
			fmt.Fprintf(out, "probe of %s: %d; first answer %.0f ms, then %.1f ms (median of %d)\n", p.Enrollment, p.Status, p.ColdMs, p.WarmMs, p.Warm)
		}
		fmt.Fprintf(out, "%d enrollments, %d with custom allocation, %d rules: %d findings\n",
			report.Enrollments, report.Custom, report.Rules, len(report.Findings))
	}
	for _, f := range report.Findings {
		if f.Level == doctor.Error {
			return &exitError{code: exitDoctor, err: errors.New("devices fail, or will: see the errors above")}
		}
	}
	return nil
}
