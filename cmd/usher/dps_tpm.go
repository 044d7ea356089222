package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

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
		Args:    countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tpm, err := softtpm.New()
			if err != nil {
				return err
			}
			return writeJSON(cmd.OutOrStdout(), tpm.Keys())
		},
	}
}

// enroll gives each device of the fleet an individual enrollment with the keys of the TPM. It is allocated as the group is
// of which the devices would be without a TPM, as the stand-in has that group.
func (flags *dpsFleetFlags) enroll(ctx context.Context, at fleetPlace, devices *fleet.Fleet, keys model.TPM) error {
	file, err := flags.load()
	if err != nil {
		return err
	}
	id := flags.group
	if id == "" {
		if len(file.Groups) == 0 {
			return fmt.Errorf("%s has no enrollment group, like which to allocate devices with a TPM: name one of the stand-in's with --group", flags.config)
		}
		id = file.Groups[0].EnrollmentGroupID
	}
	api, err := newStandInAPI(flags.standInFlags, file, at)
	if errors.Is(err, errNoServiceKey) {
		return fmt.Errorf("%s has no serviceKey, with which to enroll devices with a TPM: add one, such as openssl rand -base64 32 makes, and restart the stand-in", flags.config)
	}
	if err != nil {
		return err
	}
	defer api.close()
	var group model.EnrollmentGroup
	if status, err := api.call(ctx, http.MethodGet, "/enrollmentGroups/"+url.PathEscape(id), nil, "", &group); status == http.StatusNotFound {
		return flags.noGroup(file, id)
	} else if err != nil {
		return err
	}
	put := func(id, ifMatch string) (int, error) {
		return api.call(ctx, http.MethodPut, "/enrollments/"+url.PathEscape(id), model.IndividualEnrollment{RegistrationID: id, Enrollment: model.Enrollment{
			Attestation:      model.Attestation{Type: model.AttestationTPM, TPM: &model.TPM{EndorsementKey: keys.EndorsementKey}},
			AllocationPolicy: group.AllocationPolicy, CustomAllocationDefinition: group.CustomAllocationDefinition, IotHubs: group.IotHubs,
			IotHubHostName: group.IotHubHostName, ReprovisionPolicy: group.ReprovisionPolicy, InitialTwin: group.InitialTwin,
		}}, ifMatch, nil)
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
