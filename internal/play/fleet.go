package play

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/replay/view"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/play/fleet"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// fleetRoutes are those about the registrations of a log.
func (s *server) fleetRoutes(api *echo.Group) {
	group := api.Group("/fleet", func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if s.Fleet == nil {
				return fail(http.StatusNotFound, errors.New("there is no log: start usher play with --log FILE, or with --dps while usher dps runs"))
			}
			return next(c)
		}
	})
	group.GET("", s.summarize)
	group.GET("/devices", s.listDevices)
	group.GET("/requests/:id", s.readRegistration)
	group.POST("/replay", s.replay)
}

// hasLog and hasDPS report whether there are registrations to show, and whether they come from a stand-in that runs.
func (s *server) hasLog() bool { return s.Fleet != nil }
func (s *server) hasDPS() bool { return s.Fleet != nil && s.Live }

// summarize counts the devices, and draws where they go.
func (s *server) summarize(c echo.Context) error {
	summary, err := s.Fleet.Summarize()
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, summary)
}

// How many devices a page of the table has.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// listDevices lists the devices that match the filters.
func (s *server) listDevices(c echo.Context) error {
	number := func(name string, otherwise, most int) (int, error) {
		text := c.QueryParam(name)
		if text == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return 0, fail(http.StatusBadRequest, fmt.Errorf("%s is not a number of at least 0", name))
		}
		return min(n, most), nil
	}
	offset, err := number("offset", 0, fleet.MaxRegistrations)
	if err != nil {
		return err
	}
	limit, err := number("limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	total, rows := s.Fleet.Devices(fleet.Filter{Text: c.QueryParam("q"), Hub: c.QueryParam("hub"), Outcome: c.QueryParam("outcome"),
		Enrollment: c.QueryParam("enrollment"), Rule: c.QueryParam("rule")}, offset, limit)
	return c.JSON(http.StatusOK, struct {
		Total int            `json:"total"`
		Rows  []fleet.Device `json:"rows"`
	}{total, rows})
}

// then is what was answered, as far as the log says.
type then struct {
	Outcome answer.Result `json:"outcome,omitempty"`
	Fault   answer.Result `json:"fault,omitempty"`
	Hub     string        `json:"hub,omitempty"`
	Reasons []string      `json:"reasons,omitempty"`
}

// readRegistration returns the request of a registration, to decide it again.
func (s *server) readRegistration(c echo.Context) error {
	device, item, err := s.Fleet.Open(c.Request().Context(), c.Param("id"))
	if errors.Is(err, fleet.ErrUnknown) {
		return fail(http.StatusNotFound, err)
	}
	if err != nil {
		return err
	}
	text, err := requestText(&item)
	if err != nil {
		return err
	}
	opened := struct {
		Name string `json:"name"`
		Text string `json:"text"`
		Rows rows   `json:"rows"`
		Then *then  `json:"then,omitempty"`
		// Masked are JSON pointers to what the log lacks of the request.
		Masked []string     `json:"masked,omitempty"`
		Device fleet.Device `json:"device"`
	}{Name: device.RegistrationID, Text: text, Rows: rowsOf(item.Lookups), Masked: item.Masked, Device: device}
	if a := item.Then; a != nil {
		opened.Then = &then{Outcome: a.Result, Hub: a.Response.IotHubHostName, Reasons: a.Reasons}
		if !a.Result.IsOutcome() {
			opened.Then.Outcome, opened.Then.Fault = "", a.Result
		}
	}
	return c.JSON(http.StatusOK, opened)
}

// requestText returns the request of a registration without its keys. What a device shows everyone, a certificate or an
// endorsement key, stays: rules look at it.
func requestText(item *requestlog.Item) (string, error) {
	request, err := item.Parse()
	if err != nil {
		return "", err
	}
	document := request.Document()
	masked, _ := keymaterial.Of(document).Value(document).(map[string]any)
	device, _ := masked["deviceRuntimeContext"].(map[string]any)
	whole, _ := document["deviceRuntimeContext"].(map[string]any)
	for _, public := range []string{"x509", "tpm"} {
		if whole[public] != nil {
			device[public] = whole[public]
		}
	}
	text, err := indented(masked)
	if err != nil {
		return "", err
	}
	if original, err := indented(document); err != nil || original != text {
		return text, err
	}
	var sent bytes.Buffer // without keys, it stays in the order in which it was sent
	err = json.Indent(&sent, item.Body, "", "  ")
	return sent.String() + "\n", err
}

// rowsOf are the rows that were looked up.
func rowsOf(calls []answer.Lookup) rows {
	list := rows{}
	for _, call := range calls {
		name, isRow := ruleset.LookupName(call.Builtin)
		if !isRow || len(call.Arguments) == 0 {
			continue
		}
		key, _ := call.Arguments[0].(string)
		found, _ := call.Result.(map[string]any)
		list = append(list, row{Lookup: name, Key: key, Row: found, Fails: call.Fault != ""})
	}
	return list
}

// mover is a device for which the rules change something.
type mover struct {
	ID string `json:"id"` // of its last registration
	replay.Change
}

// Baselines of a replay: what the log says was answered, or what the saved rules decide.
const (
	baselineLog   = "log"
	baselineSaved = "saved"
)

// movers is how many devices of each kind of change a replay names.
const movers = 50

// replay decides all registrations again, by the edited rules.
func (s *server) replay(c echo.Context) error {
	var body struct {
		Edits    workspace.Edits `json:"edits"`
		Baseline string          `json:"baseline"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	if body.Baseline == "" {
		body.Baseline = baselineSaved
		if s.Fleet.State().Recorded > 0 {
			body.Baseline = baselineLog
		}
	}
	if body.Baseline != baselineLog && body.Baseline != baselineSaved {
		return fail(http.StatusBadRequest, fmt.Errorf("baseline is neither %s nor %s", baselineLog, baselineSaved))
	}
	ctx := c.Request().Context()
	events := newStream(c)
	options := replay.Options{Examples: movers, ByDevice: true}
	var err error
	if options.Rules, err = s.decider(body.Edits); err != nil {
		return events.fail(ctx, err)
	}
	shown := view.Report{RulesName: s.Workspace.Folder()}
	if body.Baseline == baselineSaved {
		if options.Baseline, err = s.decider(nil); err != nil {
			return events.fail(ctx, fmt.Errorf("the saved rules do not load, so that there is nothing to compare with: %w", err))
		}
		shown.BaselineName = "the saved rules"
	}
	far, total := progress{events: events}, s.Fleet.State().Registrations
	options.Progress = func(done, _ int64) { far.send(int(done), max(total, int(done))) }
	result, err := s.Fleet.Replay(ctx, options)
	if err != nil || ctx.Err() != nil {
		return events.fail(ctx, err)
	}
	shown.Report = result.Report
	flow := shown.Flow()
	flow.Name = "replay" // the flow of the log is on the same page
	picture, err := flow.SVG()
	if err != nil {
		return events.fail(ctx, err)
	}
	who := []mover{}
	for i, change := range result.Examples {
		if change.Kind.Change() {
			who = append(who, mover{result.IDs[i], change})
		}
	}
	return events.send("report", struct {
		Baseline string         `json:"baseline"`
		Report   *replay.Report `json:"report"`
		LeftOut  string         `json:"leftOut"` // empty if nothing is
		Flow     string         `json:"flow"`
		Matrix   view.Matrix    `json:"matrix"`
		Who      []mover        `json:"who"`
		Changed  int64          `json:"changed"` // how many devices there are that who has the first of
		Time     string         `json:"time"`
	}{body.Baseline, result.Report, shown.LeftOut(), picture, shown.Matrix(), who, result.Changed(), shown.TimeNeeded()})
}

// decider decides by the rules with edits over them.
func (s *server) decider(edits workspace.Edits) (*decider.Decider, error) {
	loaded, err := s.Workspace.Load(edits)
	if err != nil {
		return nil, err
	}
	return decider.New(decider.Options{Rules: loaded.Rules, Timeout: s.Timeout})
}

// fleetInterval is the least time between two events about a fleet that changes.
const fleetInterval = 300 * time.Millisecond

// followFleet sends an event whenever there are more registrations, until ctx ends. It has those decided that the log has
// no answer to, by the saved rules: saved gets a value when these change.
func (s *server) followFleet(ctx context.Context, events *stream, saved <-chan struct{}) {
	if s.Fleet == nil {
		return
	}
	undecided := make(chan string)
	var deciding sync.WaitGroup
	deciding.Go(func() { s.decideFleet(ctx, saved, undecided) })
	defer deciding.Wait()
	problem := "" // why not all is decided
	for {
		changed := s.Fleet.Changed()
		if events.send("fleet", struct {
			fleet.State
			Problem string `json:"problem,omitempty"`
		}{s.Fleet.State(), problem}) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case problem = <-undecided:
			continue
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return
		case problem = <-undecided:
		case <-time.After(fleetInterval):
		}
	}
}

// decideFleet has registrations decided while there are more, and tells why it cannot.
func (s *server) decideFleet(ctx context.Context, saved <-chan struct{}, problem chan<- string) {
	for {
		changed := s.Fleet.Changed()
		rules, err := s.decider(nil)
		if err != nil {
			err = errors.New("the saved rules do not load")
		} else {
			err = s.Fleet.Decide(ctx, rules)
		}
		text := ""
		if err != nil {
			text, changed = err.Error(), nil // until other rules are saved
		}
		select {
		case <-ctx.Done():
			return
		case problem <- text:
		}
		select {
		case <-ctx.Done():
			return
		case <-saved:
		case <-changed:
		}
	}
}
