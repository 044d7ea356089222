package main

import (
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/configfile"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

func newDPSKeyCommand(flags *standInFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "key GROUP REGISTRATION_ID",
		Short: "Print the key of a device, made from its group's key",
		Long: `Key prints the symmetric key of a device of an enrollment group of --config: the
HMAC-SHA256 of its registration ID under the group's key, as for Azure DPS.`,
		Example: `  usher dps key contoso-custom-allocated-devices lobby-contoso-tstrsd-007`,
		Args:    countArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flags.groupKey(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), base64.StdEncoding.EncodeToString(attest.DeriveKey(key, args[1])))
			return nil
		},
	}
}

// groupKey is the primary key of an enrollment group in the configuration.
func (f *standInFlags) groupKey(name string) ([]byte, error) {
	file, err := f.load()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, group := range file.Groups {
		symmetric := group.Attestation.SymmetricKey
		if !strings.EqualFold(group.EnrollmentGroupID, name) {
			names = append(names, group.EnrollmentGroupID)
			continue
		}
		switch {
		case group.Attestation.Type == model.AttestationX509:
			return nil, fmt.Errorf("%s: the group %s takes certificates, not keys: see usher dps certificate, and usher dps fleet --x509", f.config, group.EnrollmentGroupID)
		case symmetric == nil || symmetric.PrimaryKey == "":
			return nil, fmt.Errorf("%s: the group %s has no primaryKey: the stand-in makes one, which only it knows; add one, such as openssl rand -base64 32 makes", f.config, group.EnrollmentGroupID)
		}
		return attest.DecodeKey(symmetric.PrimaryKey)
	}
	return nil, fmt.Errorf("%s has no enrollment group %s; it has %s (usher dps fleet also takes one that only the stand-in has)", f.config, name, strings.Join(names, ", "))
}

func newDPSConnectionStringCommand(flags *standInFlags) *cobra.Command {
	gateway := false
	cmd := &cobra.Command{
		Use:   "connection-string [HUB]",
		Short: "Print the connection string of the stand-in, or of one of its hubs",
		Long: `Connection-string prints what service SDKs need: for the enrollments of the
stand-in, or with the name of a hub for its devices and twins. Both contain a key of
--config. With --gateway it also contains the address at which the stand-in runs, for
the setting USHER_LOOKUP_HUB of the webhook.`,
		Example: `  usher dps connection-string
  usher dps connection-string contoso-eu-hub`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := flags.load()
			if err != nil {
				return err
			}
			host, policy, key, field := file.Config.HostName(), configfile.ServicePolicy, "", "serviceKey"
			if len(file.Config.Policies) > 0 {
				key = file.Config.Policies[0].PrimaryKey
			}
			if len(args) == 1 {
				host, policy, key, field = configfile.HubHostName(args[0]), configfile.HubPolicy, file.HubPolicy.PrimaryKey, "hubKey"
				var names []string
				known := false
				for _, linked := range file.Config.Hubs {
					known = known || strings.EqualFold(linked.HostName, host)
					names = append(names, linked.HostName)
				}
				if !known {
					return fmt.Errorf("%s links no hub %s; it links %s", flags.config, host, strings.Join(names, ", "))
				}
			}
			if key == "" {
				return fmt.Errorf("%s has no %s: add one, such as openssl rand -base64 32 makes, and restart the stand-in", flags.config, field)
			}
			at := ""
			if gateway {
				running, err := readRunning(flags.folder)
				if err != nil {
					return err
				}
				at = ";GatewayHostName=" + running.httpsAddress()
			}
			fmt.Fprintf(cmd.OutOrStdout(), "HostName=%s;SharedAccessKeyName=%s;SharedAccessKey=%s%s\n", host, policy, key, at)
			return nil
		},
	}
	cmd.Flags().BoolVar(&gateway, "gateway", false, "add the address at which the stand-in of --folder runs")
	return cmd
}

func newDPSCertificateCommand(flags *standInFlags) *cobra.Command {
	var organizations []string
	var intermediate, output string
	var days int
	cmd := &cobra.Command{
		Use:   "certificate REGISTRATION_ID",
		Short: "Make a device certificate, signed by the development device CA",
		Long: `Certificate writes REGISTRATION_ID.pem, the certificate with its chain, and
REGISTRATION_ID.key into --output. An enrollment group trusts it if device-ca.pem in
--folder is its signing certificate.`,
		Example: `  usher dps certificate press-1 --organization contoso
  usher dps certificate press-2 --intermediate "Plant 7" --days 30`,
		Args: countArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[0]
			if id == "" || strings.ContainsAny(id, `/\`) {
				return usageError(errors.New("a registration ID has only letters, digits and : . _ -"))
			}
			authority, err := pki.Load(flags.folder)
			if err != nil {
				return err
			}
			issuer := authority.Devices()
			if intermediate != "" {
				if issuer, err = issuer.Intermediate(intermediate); err != nil {
					return err
				}
			}
			ends := time.Now().AddDate(0, 0, days)
			begins := time.Now().Add(-time.Hour)
			if ends.Before(begins) {
				begins = ends.AddDate(0, 0, -1)
			}
			certificate, err := issuer.IssueFor(pkix.Name{CommonName: id, Organization: organizations}, begins, ends)
			if err != nil {
				return err
			}
			chain, key, err := pki.Encode(certificate)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(output, 0o755); err != nil {
				return err
			}
			certificateFile, keyFile := filepath.Join(output, id+".pem"), filepath.Join(output, id+".key")
			if err := writeFile(certificateFile, chain); err != nil {
				return err
			}
			if err := os.WriteFile(keyFile, key, 0o600); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: the certificate of %s, until %s\n%s: its key\n",
				certificateFile, id, ends.UTC().Format(time.DateOnly), keyFile)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&organizations, "organization", nil, "organization in the subject")
	f.StringVar(&intermediate, "intermediate", "", "name of an intermediate authority, made for this certificate")
	f.IntVar(&days, "days", 365, "days until it expires; below 0 for an expired certificate")
	f.StringVar(&output, "output", ".", "folder to write to")
	return cmd
}
