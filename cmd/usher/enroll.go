package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/operate/enrollment"
)

// enrollFlags are the flags of usher enroll.
type enrollFlags struct {
	provisioning        provisioningFlags
	webhook             webhookFlags
	groups, individuals []string
	all                 bool
	rotate              bool
	hubs                hubList
	reprovision         string
	create              bool
	label               string
	certificate         string
	caReference         string
	dryRun              bool
	format              string
}

func newEnrollCommand() *cobra.Command {
	var flags enrollFlags
	cmd := &cobra.Command{
		Use:   "enroll",
		Short: "Point enrollments of DPS at the webhook",
		Long: `Enroll changes enrollments over DPS's service API, so that DPS calls the webhook about
their devices: it sets the allocation policy to custom, the webhook's URL with its
function key and, if you ask for it, the selected hubs and the reprovision policy.
Everything else in an enrollment stays as it is; if an enrollment has members that
only a preview of the service API shows, enroll refuses to write it without
--service-version, because they would be lost. --dry-run shows the difference and
changes nothing; keys are never printed.

With --create, an enrollment that does not exist is created: with symmetric keys, which
DPS generates, or for devices with a certificate.

With --rotate-key, every enrollment that calls the webhook gets the given key, after the
webhook has accepted it. Both keys must be valid until the command ends.

It signs in with Microsoft Entra, as 'az login' left it, and needs the role Device
Provisioning Service Data Contributor. Or you give it a connection string. With
--stand-in, it changes the enrollments of the usher dps that runs in a folder.`,
		Example: `  usher enroll --group breakroom --webhook https://NAME.azurewebsites.net/api/allocate --key-file key --dry-run
  usher enroll --group line-a --create --hubs contoso-eu,contoso-us --reprovision migrate --webhook ... --key-file key
  usher enroll --rotate-key --webhook https://NAME.azurewebsites.net/api/allocate --key-file new-key`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			return flags.provisioning.explain(flags.run(ctx, cmd))
		},
	}
	flags.provisioning.register(cmd)
	flags.webhook.register(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.webhook.apiVersion, "api-version", "", "version of the AllocationRequests that DPS sends; default: unchanged, and "+enrollment.DefaultAPIVersion+" for a new enrollment")
	f.StringVar(&flags.provisioning.version, "service-version", "", "version of DPS's service API; default: the newest stable version that the service takes")
	f.StringArrayVar(&flags.groups, "group", nil, "enrollment group; may be repeated")
	f.StringArrayVar(&flags.individuals, "individual", nil, "registration ID of an individual enrollment; may be repeated")
	f.BoolVar(&flags.all, "all", false, "all enrollments whose allocation policy is already custom")
	f.BoolVar(&flags.rotate, "rotate-key", false, "give a new key to all enrollments that call the webhook")
	f.StringVar(&flags.label, "label", "", "name for this DPS instance, which rules see as dps.service; default: unchanged")
	addHubs(cmd, &flags.hubs, "hubs to select; default: unchanged, and all linked hubs for a new enrollment")
	f.StringVar(&flags.reprovision, "reprovision", "", "migrate, reset or never; default: unchanged")
	f.BoolVar(&flags.create, "create", false, "create enrollments that do not exist")
	f.StringVar(&flags.certificate, "certificate", "", "with --create: PEM file of a group's signing certificate, or of an individual enrollment's own certificate")
	f.StringVar(&flags.caReference, "ca", "", "with --create: name of a CA certificate that is registered with DPS")
	f.BoolVar(&flags.dryRun, "dry-run", false, "show what would change")
	addOutputFlag(cmd, &flags.format, "text", "json")
	completeWith(cmd, "reprovision", "migrate", "reset", "never")
	return cmd
}

// enrolled is the result for one enrollment.
type enrolled struct {
	Kind    enrollment.Kind     `json:"kind"`
	ID      string              `json:"id"`
	Created bool                `json:"created"`
	Changes []enrollment.Change `json:"changes"`
	// Written is false for a dry run, and if nothing changes.
	Written bool   `json:"written"`
	Error   string `json:"error,omitempty"`
}

func (f *enrollFlags) check() error {
	switch {
	case f.rotate && (f.all || f.create || len(f.groups)+len(f.individuals)+len(f.hubs) > 0 || f.reprovision+f.label != ""):
		return errors.New("--rotate-key changes only the key, in all enrollments that call the webhook: use it only with --webhook and --key-file")
	case f.all && (f.create || len(f.groups)+len(f.individuals) > 0):
		return errors.New("--all selects existing enrollments: do not combine it with --group, --individual or --create")
	case !f.rotate && !f.all && len(f.groups)+len(f.individuals) == 0:
		return errors.New("which enrollments? Give --group, --individual, --all or --rotate-key")
	case (f.certificate != "" || f.caReference != "") && !f.create:
		return errors.New("--certificate and --ca need --create")
	case f.certificate != "" && f.caReference != "":
		return errors.New("use either --certificate or --ca, not both")
	}
	return nil
}

func (f *enrollFlags) run(ctx context.Context, cmd *cobra.Command) error {
	if err := f.check(); err != nil {
		return usageError(err)
	}
	webhook, err := f.webhook.webhook(cmd)
	if err != nil {
		return err
	}
	client, err := f.provisioning.client(cmd)
	if err != nil {
		return err
	}
	target := enrollment.Target{Webhook: webhook.WithLabel(f.label), Reprovision: enrollment.Reprovision(f.reprovision)}
	for _, name := range f.hubs {
		target.Hubs = append(target.Hubs, client.HubHost(name))
	}
	if err := target.Check(); err != nil {
		return usageError(err)
	}
	if f.rotate {
		if webhook.Key() == "" {
			return usageError(fmt.Errorf("--rotate-key needs the new key: --key-file or %s", envFunctionKey))
		}
		if err := enrollment.TryKey(ctx, nil, webhook); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
	}
	states, err := f.states(ctx, client, webhook)
	if err != nil {
		return err
	}
	results := make([]enrolled, 0, len(states))
	failed := 0
	for _, before := range states {
		result := f.enroll(ctx, client, before, target)
		if result.Error != "" {
			failed++
		}
		results = append(results, result)
		if f.format == "text" {
			f.print(cmd, result)
		}
	}
	if f.format == "json" {
		if err := writeJSON(cmd.OutOrStdout(), results); err != nil {
			return err
		}
	}
	switch {
	case failed > 0:
		return fmt.Errorf("%d of %d enrollments were not written; the others are, and you can run the command again", failed, len(results))
	case len(results) == 0 && f.rotate:
		return fmt.Errorf("no enrollment calls %s", webhook.Address())
	case len(results) == 0:
		return errors.New("no enrollment has the allocation policy custom")
	}
	return nil
}

// states returns the enrollments as they are, and new ones for those that do not exist.
func (f *enrollFlags) states(ctx context.Context, client *enrollment.Client, webhook enrollment.Webhook) ([]enrollment.Enrollment, error) {
	var states []enrollment.Enrollment
	if f.rotate || f.all {
		all, err := client.All(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if e.AllocationPolicy() == "custom" && (f.all || e.Webhook().SameAddress(webhook)) {
				states = append(states, e)
			}
		}
		return states, nil
	}
	named := map[enrollment.Kind][]string{enrollment.Group: f.groups, enrollment.Individual: f.individuals}
	for _, kind := range []enrollment.Kind{enrollment.Group, enrollment.Individual} {
		for _, id := range named[kind] {
			e, err := client.Get(ctx, kind, id)
			if errors.Is(err, enrollment.ErrNotFound) && f.create {
				if e, err = f.newEnrollment(kind, id); err != nil {
					return nil, usageError(err)
				}
			} else if errors.Is(err, enrollment.ErrNotFound) {
				return nil, fmt.Errorf("%w; --create creates it", err)
			}
			if err != nil {
				return nil, err
			}
			states = append(states, e)
		}
	}
	return states, nil
}

func (f *enrollFlags) newEnrollment(kind enrollment.Kind, id string) (enrollment.Enrollment, error) {
	attestation := enrollment.SymmetricKey()
	switch {
	case f.caReference != "":
		attestation = enrollment.CAReference(f.caReference)
	case f.certificate != "":
		text, err := os.ReadFile(f.certificate)
		if err != nil {
			return enrollment.Enrollment{}, err
		}
		if attestation, err = enrollment.Certificate(kind, text); err != nil {
			return enrollment.Enrollment{}, fmt.Errorf("%s: %w", f.certificate, err)
		}
	}
	return enrollment.New(kind, id, attestation), nil
}

func (f *enrollFlags) enroll(ctx context.Context, client *enrollment.Client, before enrollment.Enrollment, target enrollment.Target) enrolled {
	after := target.Apply(before)
	if f.rotate {
		after = target.ApplyKey(before)
	}
	result := enrolled{Kind: before.Kind, ID: before.ID(), Created: before.ETag() == ""}
	result.Changes = enrollment.Changes(before, after)
	if f.dryRun || len(result.Changes) == 0 && !result.Created {
		return result
	}
	if err := client.Put(ctx, after); err != nil {
		result.Error = err.Error()
		return result
	}
	result.Written = true
	return result
}

func (f *enrollFlags) print(cmd *cobra.Command, r enrolled) {
	out := cmd.OutOrStdout()
	state := "changed"
	switch {
	case r.Error != "":
		state = "failed: " + r.Error
	case r.Created && f.dryRun:
		state = "would be created"
	case r.Created:
		state = "created"
	case len(r.Changes) == 0:
		state = "as it should be"
	case f.dryRun:
		state = "would change"
	}
	fmt.Fprintf(out, "%s %s: %s\n", r.Kind, r.ID, state)
	for _, change := range r.Changes {
		if change.Old != "" {
			fmt.Fprintf(out, "  - %s %s\n", change.Pointer, change.Old)
		}
		if change.New != "" {
			fmt.Fprintf(out, "  + %s %s\n", change.Pointer, change.New)
		}
		if words := keyWords[change.Key]; words != "" {
			fmt.Fprintf(out, "    %s\n", words)
		}
	}
}

// keyWords say what happens to a function key, which is not shown.
var keyWords = map[enrollment.KeyChange]string{
	enrollment.KeyAdded:   "with a key",
	enrollment.KeyChanged: "with another key",
	enrollment.KeyRemoved: "without the key that it had",
}
