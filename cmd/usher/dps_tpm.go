package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/fleet"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
)

func newDPSTPMCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tpm",
		Short: "Make the keys of a TPM, for requests and enrollments",
		Long: `Tpm prints the public keys of a new TPM in software, as JSON: as they are in attestation.tpm
of an individual enrollment, and in deviceRuntimeContext.tpm and
individualEnrollment.attestation.tpm of an AllocationRequest. Nobody keeps the private
keys, so no device can register with them; usher dps fleet --tpm registers devices.`,
		Example: `  usher dps tpm`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tpm, err := softtpm.New()
			if err != nil {
				return err
			}
			return writeJSON(cmd.OutOrStdout(), tpm.Keys())
		},
	}
}

// enrollmentVersion is the version of the service API with which the fleet enrolls devices.
const enrollmentVersion = "2021-10-01"

// enroll gives each device of the fleet an individual enrollment with the keys of the TPM. It is allocated as the group is
// of which the devices would be without a TPM.
func (flags *dpsFleetFlags) enroll(ctx context.Context, at fleetPlace, devices *fleet.Fleet, keys model.TPM) error {
	file, err := flags.load()
	if err != nil {
		return err
	}
	i := 0
	if flags.group != "" {
		i = slices.IndexFunc(file.Groups, func(g model.EnrollmentGroup) bool { return strings.EqualFold(g.EnrollmentGroupID, flags.group) })
	}
	if i < 0 || i >= len(file.Groups) {
		return fmt.Errorf("%s has no enrollment group %s, like which to allocate devices with a TPM", flags.config, flags.group)
	}
	if len(file.Config.Policies) == 0 || file.Config.Policies[0].PrimaryKey == "" {
		return fmt.Errorf("%s has no serviceKey, with which to enroll devices with a TPM: add one, such as openssl rand -base64 32 makes, and restart the stand-in", flags.config)
	}
	key, err := base64.StdEncoding.DecodeString(file.Config.Policies[0].PrimaryKey)
	if err != nil {
		return fmt.Errorf("%s: serviceKey is not base64", flags.config)
	}
	host := file.Config.HostName()
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: at.authority.Pool()},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, at.httpsAddress())
		},
	}}
	defer client.CloseIdleConnections()
	group := file.Groups[i]
	put := func(id, ifMatch string) (int, error) {
		body, err := json.Marshal(model.IndividualEnrollment{RegistrationID: id, Enrollment: model.Enrollment{
			Attestation:      model.Attestation{Type: model.AttestationTPM, TPM: &model.TPM{EndorsementKey: keys.EndorsementKey}},
			AllocationPolicy: group.AllocationPolicy, CustomAllocationDefinition: group.CustomAllocationDefinition, IotHubs: group.IotHubs,
			IotHubHostName: group.IotHubHostName, ReprovisionPolicy: group.ReprovisionPolicy, InitialTwin: group.InitialTwin,
		}})
		if err != nil {
			return 0, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPut,
			"https://"+host+"/enrollments/"+url.PathEscape(id)+"?api-version="+enrollmentVersion, bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", attest.NewToken(host, key, time.Now().Add(time.Hour), file.Config.Policies[0].Name))
		if ifMatch != "" {
			request.Header.Set("If-Match", ifMatch)
		}
		response, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		if err == nil && response.StatusCode != http.StatusOK {
			var refusal struct{ Message string }
			_ = json.Unmarshal(text, &refusal)
			err = fmt.Errorf("the stand-in refuses the enrollment of %s: %s %s", id, response.Status, refusal.Message)
		}
		return response.StatusCode, err
	}
	for number := 1; number <= flags.devices; number++ {
		id := devices.DeviceID(number)
		status, err := put(id, "")
		if status == http.StatusConflict { // of an earlier run, with the keys of another TPM
			_, err = put(id, "*")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
