package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/doctor"
	"github.com/usher-dps/usher/internal/operate/enrollment"
)

func newDoctorCommand() *cobra.Command {
	var provisioning provisioningFlags
	var webhook webhookFlags
	var rules rulesFlags
	var hubs hubList
	var sources sourcesFlags
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examine the chain from DPS's enrollments to the webhook and its rules",
		Long: `Doctor reads the enrollments of a DPS instance, compares them with one another, with
the webhook and with the rules, and calls the webhook: with its key, without it, and
about a made-up device. It changes nothing. Each finding says how to fix it.

Its requests have the header Usher-Probe, so that records tell them from those of
devices. Without --webhook it calls nothing and compares the enrollments only with one
another. With --stand-in, it examines the usher dps that runs in a folder.

If there are settings of look-ups, in the environment or in local.settings.json, it asks
each source of the rules' look-ups.

The service API of DPS does not list linked hubs: give them with --hubs, as
'az iot dps linked-hub list' prints them, to find rules that name other hubs.

It exits with 9 if it finds an error.`,
		Example: `  usher doctor --dps NAME.azure-devices-provisioning.net --webhook https://NAME.azurewebsites.net/api/allocate --key-file key
  usher doctor --connection-string-file dps.txt --hubs contoso-eu,contoso-us`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			loaded, files, err := loadRules(ctx, rules, rules.options())
			if err != nil {
				return err
			}
			options := doctor.Options{Rules: loaded, Now: time.Now}
			if webhook.url != "" {
				if options.Webhook, err = webhook.webhook(cmd); err != nil {
					return err
				}
			}
			client, err := provisioning.client(cmd)
			if err != nil {
				return err
			}
			if options.Enrollments, err = client.All(ctx); err != nil {
				return provisioning.explain(err)
			}
			for _, name := range hubs {
				options.Hubs = append(options.Hubs, client.HubHost(name))
			}
			if options.Lints, err = lintForDoctor(ctx, files, options); err != nil {
				return err
			}
			asked, err := sources.findings(ctx, loaded)
			if err != nil {
				return err
			}
			options.Lints = append(options.Lints, asked...)
			return examine(ctx, cmd, options, format)
		},
	}
	provisioning.register(cmd)
	webhook.register(cmd)
	rules.register(cmd)
	sources.register(cmd)
	addHubs(cmd, &hubs, "hubs that are linked to the DPS instance")
	addOutputFlag(cmd, &format, "text", "json")
	return cmd
}

// lintForDoctor checks the rules against the enrollments of the DPS instance.
func lintForDoctor(ctx context.Context, files fs.FS, options doctor.Options) ([]doctor.Finding, error) {
	lintOptions := lint.Options{Hubs: options.Hubs}
	for _, e := range options.Enrollments {
		kind := dps.EnrollmentGroup
		if e.Kind == enrollment.Individual {
			kind = dps.IndividualEnrollment
		}
		lintOptions.Enrollments = append(lintOptions.Enrollments, lint.Enrollment{
			Enrollment: dps.Enrollment{Kind: kind, ID: e.ID()}, Hubs: e.Hubs(), Attestation: e.Attestation(),
		})
	}
	checked, err := lint.Run(ctx, files, options.Rules, lintOptions)
	if err != nil {
		return nil, err
	}
	var findings []doctor.Finding
	for _, f := range checked.Findings {
		switch f.Lint {
		case "unlinked-hub", "attestation-blind", "no-such-enrollment": // those that are about enrollments
			findings = append(findings, doctor.Finding{ID: f.Lint, Where: fmt.Sprintf("%s:%d", f.File, f.Line), Message: f.Message, Fix: f.Fix})
		}
	}
	return findings, nil
}

// findings asks the sources of look-ups, unless the settings name none.
func (f *sourcesFlags) findings(ctx context.Context, rules *decider.Rules) ([]doctor.Finding, error) {
	opened, err := f.open()
	if err != nil || len(opened.States()) == 0 {
		return nil, err
	}
	var findings []doctor.Finding
	for _, one := range askAll(ctx, rules, opened) {
		if one.Fault != "" {
			findings = append(findings, doctor.Finding{ID: "lookup-failed", Where: "look-up " + one.Lookup, Message: one.Fault, Fix: one.Fix})
		}
		for _, note := range one.notes {
			if note.Harmful {
				findings = append(findings, doctor.Finding{ID: "lookup-doubtful", Where: "look-up " + one.Lookup, Message: note.Text, Fix: note.Fix})
			}
		}
	}
	return findings, nil
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
			fmt.Fprintf(out, "%s: %s: %s [%s]\n  fix: %s\n", f.Where, f.Level, f.Message, f.ID, f.Fix)
		}
		if p := report.Probe; p != nil {
			fmt.Fprintf(out, "probe of %s: %d; first answer %.0f ms, then %.1f ms (median of %d)\n", p.Enrollment, p.Status, p.ColdMs, p.WarmMs, p.Warm)
		}
		fmt.Fprintf(out, "%d enrollments, %d with custom allocation, %d rules: %d findings\n",
			report.Enrollments, report.Custom, report.Rules, len(report.Findings))
	}
	for _, f := range report.Findings {
		if f.Level == doctor.Error {
			return &exitError{code: exitDoctor, err: errors.New("devices fail or will fail: see the errors above")}
		}
	}
	return nil
}
