package dps_test

import (
	"strings"
	"testing"

	"github.com/usher-dps/usher/dps"
)

// DPS's table, by ranges of status.
func TestEffectOf(t *testing.T) {
	t.Parallel()
	ranges := []struct {
		from, to int
		result   dps.Result
		code     int
	}{
		{100, 199, dps.Failed, 400207},
		{200, 200, dps.Assigned, 0},
		{201, 299, dps.Failed, 400207},
		{300, 399, dps.Failed, 400207},
		{400, 400, dps.Failed, 400207},
		{401, 401, dps.Failed, 400209},
		{402, 428, dps.Failed, 400207},
		{429, 429, dps.Assigning, 0},
		{430, 599, dps.Assigning, 0},
	}
	next := 100
	for _, r := range ranges {
		if r.from != next {
			t.Fatalf("the table leaves out %d to %d", next, r.from-1)
		}
		for status := r.from; status <= r.to; status++ {
			effect := dps.EffectOf(status, "h")
			if effect.Result != r.result || effect.ErrorCode != r.code {
				t.Errorf("EffectOf(%d) = %s, %d; want %s, %d", status, effect.Result, effect.ErrorCode, r.result, r.code)
			}
			if effect.Message == "" {
				t.Errorf("EffectOf(%d) says nothing", status)
			}
		}
		next = r.to + 1
	}
	if next != 600 {
		t.Errorf("the table ends at %d", next-1)
	}
}

func TestEffectOfNoHub(t *testing.T) {
	t.Parallel()
	for status := 100; status < 600; status++ {
		got, withHub := dps.EffectOf(status, ""), dps.EffectOf(status, "h")
		if status == 200 {
			if got.Result != dps.Failed || got.ErrorCode != dps.CustomAllocationIotHubNotSpecified {
				t.Errorf("200 without a hub: %+v", got)
			}
			if !strings.Contains(withHub.Message, "h") {
				t.Errorf("the message does not name the hub: %s", withHub.Message)
			}
			continue
		}
		if got != withHub {
			t.Errorf("%d: %+v without a hub, %+v with one", status, got, withHub)
		}
	}
}

func TestUseOfInitialTwin(t *testing.T) {
	t.Parallel()
	const here, there = "contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"
	twin := map[string]any{"tags": map[string]any{}}
	tests := []struct {
		policy       dps.ReprovisionPolicy
		current, hub string
		want         dps.InitialTwinUse
	}{
		{dps.ReprovisionMigrate, "", here, dps.InitialTwinApplied},
		{dps.ReprovisionReset, "", here, dps.InitialTwinApplied},
		{dps.ReprovisionNever, "", here, dps.InitialTwinApplied},
		{dps.ReprovisionMigrate, here, here, dps.InitialTwinIgnoredSameHub},
		{dps.ReprovisionReset, here, here, dps.InitialTwinIgnoredSameHub},
		{dps.ReprovisionNever, here, here, dps.InitialTwinIgnoredSameHub},
		{dps.ReprovisionMigrate, here, there, dps.InitialTwinIgnoredMigrated},
		{dps.ReprovisionReset, here, there, dps.InitialTwinApplied},
		{dps.ReprovisionReset, strings.ToUpper(here), here, dps.InitialTwinIgnoredSameHub},
	}
	for _, test := range tests {
		request := &dps.AllocationRequest{
			Enrollment: dps.Enrollment{Reprovision: test.policy},
			Device:     dps.DeviceRuntimeContext{CurrentIotHubHostName: test.current},
		}
		response := &dps.AllocationResponse{IotHubHostName: test.hub, InitialTwin: dps.ValueOf(twin)}
		if got := dps.UseOfInitialTwin(request, response); got != test.want {
			t.Errorf("%s, from %q to %q: %q, want %q", test.policy, test.current, test.hub, got, test.want)
		}
		response.InitialTwin = nil
		if got := dps.UseOfInitialTwin(request, response); got != dps.InitialTwinNone {
			t.Errorf("%s, from %q to %q without a twin: %q, want %q", test.policy, test.current, test.hub, got, dps.InitialTwinNone)
		}
		response.InitialTwin = dps.ValueOf(map[string]any{})
		if got := dps.UseOfInitialTwin(request, response); got != test.want {
			t.Errorf("%s, from %q to %q with an empty twin: %q, want %q", test.policy, test.current, test.hub, got, test.want)
		}
	}
}
