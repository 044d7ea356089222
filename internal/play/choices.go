package play

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/play/workspace"
)

var errNoRequest = errors.New("there is no such request any more: list them again")

// enrollment is one that a rule names.
type enrollment struct {
	Kind dps.EnrollmentKind `json:"kind"`
	// ID is a name that Pattern matches.
	ID      string `json:"id"`
	Pattern string `json:"pattern"`
	Rule    string `json:"rule"`
	Title   string `json:"title"`
	// Hubs are the host names of those that the rule names; none if it names none.
	Hubs []string `json:"hubs"`
}

// maxAnalyzed bounds for how many rules it is found out which hubs they name, which compiles each.
const maxAnalyzed = 100

// known are the enrollments of rules that were loaded: to analyze all rules takes longer than a decision.
type known struct {
	mu   sync.Mutex
	of   *workspace.Loaded
	list []enrollment
}

// enrollments lists those that rules name, and one that only the default rule serves.
func (s *server) enrollments(loaded *workspace.Loaded) []enrollment {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if s.known.of != loaded {
		s.known.of, s.known.list = loaded, enrollmentsOf(loaded)
	}
	return s.known.list
}

func enrollmentsOf(loaded *workspace.Loaded) []enrollment {
	list := []enrollment{}
	for i, rule := range loaded.Rules.All() {
		hubs := []string{}
		if i < maxAnalyzed {
			hubs = hubsOf(rule)
		}
		add := func(kind dps.EnrollmentKind, patterns ...string) {
			for _, pattern := range patterns {
				id := strings.NewReplacer("*", "1", "?", "1").Replace(pattern)
				list = append(list, enrollment{kind, id, pattern, rule.Package, rule.Title, hubs})
			}
		}
		if rule.IsDefault() {
			add(dps.EnrollmentGroup, "another-group")
		}
		add(dps.EnrollmentGroup, rule.Groups...)
		add(dps.IndividualEnrollment, rule.Individuals...)
	}
	return list
}

// hubsOf are the host names of the hubs that a rule names; none if it does not compile.
func hubsOf(rule *ruleset.Rule) []string {
	hubs := []string{}
	analysis, err := dataflow.Analyze(rule, "hub", "reject", "hold")
	if err != nil {
		return hubs
	}
	for _, named := range analysis.HubNames {
		hubs = appendHub(hubs, strings.NewReplacer("*", "1", "?", "1").Replace(named.Name))
	}
	return hubs
}

// appendHub appends the host name of a hub that is given by its host name or first label, unless it is there.
func appendHub(hubs []string, name string) []string {
	if !strings.Contains(name, ".") {
		name += ".azure-devices.net"
	}
	if slices.ContainsFunc(hubs, func(other string) bool { return dps.SameHub(other, name) }) {
		return hubs
	}
	return append(hubs, name)
}

// linkedHubs are the hubs that a request can link: those that are known to be linked, and those that rules name.
func (s *server) linkedHubs(named []enrollment) []string {
	hubs := []string{}
	for _, name := range s.Hubs {
		hubs = appendHub(hubs, name)
	}
	for _, e := range named {
		for _, name := range e.Hubs {
			hubs = appendHub(hubs, name)
		}
	}
	if len(hubs) == 0 {
		hubs = []string{"contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"}
	}
	return hubs
}

// attestation is a way in which devices prove who they are.
type attestation struct {
	Name string `json:"name"`
	// Context are the members of deviceRuntimeContext that go with it, and Enrollment is the attestation of the enrollment.
	Context    map[string]any `json:"context"`
	Enrollment map[string]any `json:"enrollment"`
}

// attestations shows each kind as the first example with it does.
func (s *server) attestations() []attestation {
	list := []attestation{{"symmetricKey", map[string]any{"symmetricKey": map[string]any{}}, map[string]any{"type": "symmetricKey"}}}
	names, _ := s.exampleNames() // the pattern is well formed
	for _, name := range names {
		text, err := fs.ReadFile(s.Examples, name)
		if err != nil {
			continue
		}
		request, err := dps.ParseAllocationRequest(text)
		if err != nil {
			continue
		}
		described, _ := request.Body().Get(string(request.Enrollment.Kind)).Get("attestation").Interface().(map[string]any)
		kind, _ := described["type"].(string)
		shown := request.Body().Get("deviceRuntimeContext").Get(kind)
		if shown == nil || slices.ContainsFunc(list, func(a attestation) bool { return a.Name == kind }) {
			continue
		}
		list = append(list, attestation{kind, map[string]any{kind: shown.Interface()}, described})
	}
	return list
}

// reprovision is a policy for devices that register again.
type reprovision struct {
	Name   dps.ReprovisionPolicy `json:"name"`
	Policy map[string]bool       `json:"policy"`
}

// table is a look-up with what is in its fixture.
type table struct {
	Name   string         `json:"name"`
	Schema map[string]any `json:"schema"`
	Keys   []string       `json:"keys"`
}

// maxKeys bounds how many keys of a fixture are listed.
const maxKeys = 200

// listChoices lists what the switches of a request offer. Rules that do not load offer nothing.
func (s *server) listChoices(c echo.Context) error {
	policy := func(name dps.ReprovisionPolicy, update, migrate bool) reprovision {
		return reprovision{name, map[string]bool{"updateHubAssignment": update, "migrateDeviceData": migrate}}
	}
	choices := struct {
		Enrollments   []enrollment    `json:"enrollments"`
		Hubs          []string        `json:"hubs"`
		Attestations  []attestation   `json:"attestations"`
		Reprovision   []reprovision   `json:"reprovision"`
		PayloadSchema json.RawMessage `json:"payloadSchema"`
		Lookups       []table         `json:"lookups"`
	}{
		Enrollments: []enrollment{}, Attestations: s.attestations(), Lookups: []table{}, PayloadSchema: s.PayloadSchema,
		Reprovision: []reprovision{policy(dps.ReprovisionMigrate, true, true), policy(dps.ReprovisionReset, true, false), policy(dps.ReprovisionNever, false, false)},
	}
	if loaded, err := s.Workspace.Load(nil); err == nil {
		choices.Enrollments = s.enrollments(loaded)
		fixtures := loaded.Rules.Set().Fixtures()
		for _, d := range loaded.Rules.Set().Lookups() {
			one := table{d.Name, d.RowSchema, []string{}}
			if fixture := fixtures[d.Name]; fixture != nil {
				keys := fixture.Keys()
				one.Keys = keys[:min(len(keys), maxKeys)]
			}
			choices.Lookups = append(choices.Lookups, one)
		}
	}
	choices.Hubs = s.linkedHubs(choices.Enrollments)
	return c.JSON(http.StatusOK, choices)
}
