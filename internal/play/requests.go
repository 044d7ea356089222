package play

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/play/workspace"
)

func (s *server) requestRoutes(api *echo.Group) {
	api.GET("/requests", s.listRequests)
	api.GET("/requests/:id", s.readRequest)
	api.GET("/choices", s.listChoices)
}

// Where a request is from.
const (
	fromExample  = "example"
	fromExchange = "exchange"
)

// example is a request to start from.
type example struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	From string `json:"from"`
	// Result is what an exchange says is decided.
	Result string `json:"result,omitempty"`

	text string
	then json.RawMessage // the decision of an exchange; may be nil
}

// requests are all requests to start from: the exchanges next to the rules, a first registration for each enrollment that
// a rule names, and the examples that come with usher.
func (s *server) requests() ([]example, error) {
	files, _, err := s.Workspace.Overlay(nil)
	if err != nil {
		return nil, err
	}
	list := exchangesIn(files)
	if loaded, err := s.Workspace.Load(nil); err == nil {
		list = append(list, s.firstRegistrations(loaded)...)
	}
	names, err := s.exampleNames()
	for _, name := range names {
		if text, err := fs.ReadFile(s.Examples, name); err == nil {
			list = append(list, newExample(fromExample, strings.TrimSuffix(name, ".json"), string(text)))
		}
	}
	return list, err
}

func newExample(from, name, text string) example {
	sum := sha256.Sum256([]byte(from + "\n" + name))
	return example{ID: hex.EncodeToString(sum[:8]), Name: name, From: from, text: text}
}

func exchangesIn(files fs.FS) []example {
	var list []example
	_ = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error { // of files in memory
		base, ok := strings.CutSuffix(name, exchange.RequestSuffix)
		if err != nil || !ok || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		one := newExample(fromExchange, base, string(text))
		if then, err := fs.ReadFile(files, base+exchange.DecisionSuffix); err == nil && json.Valid(then) {
			one.then = then
			var decided struct{ Outcome, Fault string }
			if json.Unmarshal(then, &decided) == nil {
				one.Result = decided.Outcome + decided.Fault
			}
		}
		list = append(list, one)
		return nil
	})
	return list
}

func (s *server) exampleNames() ([]string, error) {
	if s.Examples == nil {
		return nil, nil
	}
	return fs.Glob(s.Examples, "*.json")
}

// firstRegistrations are requests of new devices, one for each enrollment that a rule names.
func (s *server) firstRegistrations(loaded *workspace.Loaded) []example {
	var list []example
	for _, e := range s.enrollments(loaded) {
		hubs := e.Hubs
		if len(hubs) == 0 {
			hubs = s.linkedHubs(nil)
		}
		record := map[string]any{"attestation": map[string]any{"type": "symmetricKey"},
			"reprovisionPolicy": map[string]any{"updateHubAssignment": true, "migrateDeviceData": true}}
		device := "device-0001"
		if e.Kind == dps.IndividualEnrollment {
			record["registrationId"], device = e.ID, e.ID
		} else {
			record["enrollmentGroupId"] = e.ID
		}
		text, err := json.MarshalIndent(map[string]any{string(e.Kind): record, "linkedHubs": hubs,
			"deviceRuntimeContext": map[string]any{"registrationId": device, "symmetricKey": map[string]any{}}}, "", "  ")
		if err == nil {
			list = append(list, newExample(fromExample, "a new device of "+e.Pattern, string(text)+"\n"))
		}
	}
	return list
}

func (s *server) listRequests(c echo.Context) error {
	list, err := s.requests()
	if err != nil {
		return err
	}
	if list == nil {
		list = []example{}
	}
	return c.JSON(http.StatusOK, list)
}

func (s *server) readRequest(c echo.Context) error {
	list, err := s.requests()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(e example) bool { return e.ID == c.Param("id") })
	if i < 0 {
		return fail(http.StatusNotFound, errNoRequest)
	}
	return c.JSON(http.StatusOK, struct {
		Name string          `json:"name"`
		Text string          `json:"text"`
		Rows rows            `json:"rows"`
		Then json.RawMessage `json:"then,omitempty"`
	}{path.Base(list[i].Name), list[i].text, rows{}, list[i].then})
}
