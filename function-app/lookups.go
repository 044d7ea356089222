package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/azureauth"
	"github.com/usher-dps/usher/internal/serve/lookupsource"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// liveLookups are the sources of what rules look up.
type liveLookups struct{ *lookupsource.Sources }

func openLookups(settings settings, getenv func(string) string, log *slog.Logger, signals *telemetry.Telemetry) (liveLookups, error) {
	sources, err := lookupsource.New(lookupsource.Options{
		Settings: settings.lookups, Root: getenv(settingAppRoot), Folder: settings.lookupsFolder, Fixtures: settings.development,
		Credential: func() (azcore.TokenCredential, error) { return azureauth.Credential(getenv) },
		Observe: func(name string, outcome lookupsource.Outcome, took time.Duration) {
			signals.LookedUp(name, string(outcome), took)
		},
		Log: log,
	})
	return liveLookups{sources}, err
}

// prepare gets the sources ready for rules that are about to be used.
func (l liveLookups) prepare(ctx context.Context, rules *decider.Rules) error {
	return l.Prepare(ctx, rules.Lookups())
}

// lookupDetails is what GET /readyz shows of a source. It needs no key, so it shows neither places nor why a source
// fails; the log does.
type lookupDetails struct {
	Name    string    `json:"name"`
	Source  string    `json:"source"`
	Failing bool      `json:"failing"`
	Version string    `json:"version,omitempty"`
	AsOf    time.Time `json:"asOf,omitzero"`
}

func (l liveLookups) details() []lookupDetails {
	var details []lookupDetails
	for _, s := range l.States() {
		details = append(details, lookupDetails{Name: s.Name, Source: s.Source, Failing: s.Fault != "", Version: s.Version, AsOf: s.AsOf.UTC()})
	}
	return details
}

// states and hubStates are for the metrics.
func (l liveLookups) states() []telemetry.Lookup {
	var states []telemetry.Lookup
	for _, s := range l.States() {
		state := telemetry.Lookup{Name: s.Name, Polled: !s.AsOf.IsZero(), Failing: s.Fault != ""}
		if state.Polled {
			state.Age = time.Since(s.AsOf)
		}
		states = append(states, state)
	}
	return states
}

func (l liveLookups) hubStates() []telemetry.Hub {
	var states []telemetry.Hub
	for _, h := range l.Hubs() {
		states = append(states, telemetry.Hub{Name: h.Name, Devices: h.Devices, Full: h.Full})
	}
	return states
}
