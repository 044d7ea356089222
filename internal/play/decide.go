package play

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/play/workspace"
)

func (s *server) decideRoutes(api *echo.Group) {
	api.POST("/decide", s.decide)
}

// question is a request to decide, with what is edited and what look-ups find.
type question struct {
	Edits   workspace.Edits `json:"edits"`
	Request string          `json:"request"`
	Rows    rows            `json:"rows"`
}

// decision is the answer to a question, or the problems for which there is none.
type decision struct {
	Problems []problem `json:"problems,omitempty"`
	// Status and Body are what DPS gets, with keys and certificates masked.
	Status  int             `json:"status,omitempty"`
	Body    string          `json:"body,omitempty"`
	Explain *explain.Report `json:"explain,omitempty"`
	Lines   []line          `json:"lines,omitempty"`
	// Wait is how long DPS is asked to wait, in seconds; 0 if it is not.
	Wait int `json:"wait,omitempty"`
}

// change is one thing that differs between the saved rules and the edited ones.
type change struct {
	What   string `json:"what"` // result, hub, status, twin, payload or reasons
	Before any    `json:"before"`
	After  any    `json:"after"`
}

func (s *server) decide(c echo.Context) error {
	var body struct {
		question
		WhyNot string `json:"whyNot"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	ctx := c.Request().Context()
	edited, err := s.answer(ctx, body.question, body.WhyNot)
	if err != nil {
		return err
	}
	result := struct {
		Edited  *decision `json:"edited"`
		Saved   *decision `json:"saved"`
		Changes []change  `json:"changes"`
	}{Edited: edited, Changes: []change{}}
	changed, err := s.Workspace.Changed(body.Edits)
	if err != nil {
		return err
	}
	if changed {
		body.Edits = nil
		if result.Saved, err = s.answer(ctx, body.question, body.WhyNot); err != nil {
			return err
		}
		result.Changes = changesOf(result.Saved, edited)
	}
	return c.JSON(http.StatusOK, result)
}

// answer decides a question. The error is that of a context that is done, or of files that cannot be read.
func (s *server) answer(ctx context.Context, q question, whyNot string) (*decision, error) {
	loaded, err := s.Workspace.Load(q.Edits)
	if problems := loadProblems(err); problems != nil {
		return &decision{Problems: problems}, nil
	}
	if err != nil {
		return nil, err
	}
	report, problems, err := s.explain(ctx, loaded, q, whyNot)
	if err != nil || problems != nil {
		return &decision{Problems: problems}, err
	}
	d := &decision{Explain: report, Lines: linesOf(report)}
	d.Status, d.Body, d.Wait = respond(&report.Answer)
	return d, nil
}

// explain decides and says where the answer comes from. There are problems instead if the text is no request, or the rule
// does not compile.
func (s *server) explain(ctx context.Context, loaded *workspace.Loaded, q question, whyNot string) (*explain.Report, []problem, error) {
	d, err := decider.New(decider.Options{Rules: loaded.Rules, Timeout: s.Timeout, Lookups: q.Rows})
	if err != nil {
		return nil, nil, err
	}
	request, a := d.AllocateJSON(ctx, []byte(q.Request))
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if broken, ok := errors.AsType[*ruleset.LoadError](a.Cause); ok {
		return nil, loadProblems(broken), nil
	}
	switch a.Result {
	case answer.Malformed:
		return nil, malformed(q.Request), nil
	case answer.InvalidRequest:
		problems := make([]problem, len(a.Violations))
		for i, v := range a.Violations {
			problems[i] = requestProblem(q.Request, offsetOf(q.Request, v.Pointer), strings.TrimPrefix(v.Pointer+": "+v.Problem, ": "))
		}
		return nil, problems, nil
	}
	explained := decider.Explanation{Answer: a, CutShort: "the rule exceeded its time limit"}
	if a.Result != answer.Timeout { // whose explanation would take even longer
		explained = s.explanation(ctx, d, request, a)
	}
	report := explain.New("the request", request, explained)
	if whyNot != "" {
		report.ExplainWhyNot(request, whyNot)
	}
	return report, nil, ctx.Err()
}

// explanation explains an answer, within the time that a rule may take: an explanation looks also at lines that the
// decision did not need.
func (s *server) explanation(ctx context.Context, d *decider.Decider, request *dps.AllocationRequest, a answer.Answer) decider.Explanation {
	limit := cmp.Or(s.Timeout, decider.DefaultTimeout)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	explained := d.Explain(ctx, request, a.Lookups)
	explained.Answer = a
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		explained.CutShort = "it took longer than " + limit.String()
	}
	return explained
}

// malformed says why a text is not a request.
func malformed(text string) []problem {
	_, err := dps.ParseAllocationRequest([]byte(text))
	wrong, ok := errors.AsType[*dps.MalformedError](err)
	if !ok {
		return []problem{requestProblem(text, 0, "it is not an AllocationRequest")}
	}
	message := strings.ReplaceAll(wrong.Problem, "the body", "the request")
	if wrong.Pointer != "" {
		message = wrong.Pointer + ": " + message
	}
	return []problem{requestProblem(text, int(wrong.Offset), message)}
}

// fixed is an allocator with one answer.
type fixed struct{ answer *answer.Answer }

func (f fixed) AllocateFrom(context.Context, string, []byte) (*dps.AllocationRequest, answer.Answer) {
	return nil, *f.answer
}

func (f fixed) Ready() (string, answer.Result) { return "", "" }

// response collects what a handler writes.
type response struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (r *response) Header() http.Header                  { return r.header }
func (r *response) WriteHeader(status int)               { r.status = status }
func (r *response) Write(text []byte) (n int, err error) { return r.body.Write(text) }

// respond returns what the webhook writes for an answer: its own handler writes it. wait is in seconds.
func respond(a *answer.Answer) (status int, body string, wait int) {
	r := &response{header: http.Header{}}
	call, err := http.NewRequest(http.MethodPost, handler.AllocatePath, strings.NewReader("{}"))
	if err != nil {
		return 0, "", 0 // the path is valid
	}
	handler.New(handler.Options{Allocator: fixed{a}}).ServeHTTP(r, call)
	if id := r.header.Get(handler.DecisionIDHeader); id != "" {
		body = strings.Replace(r.body.String(), id, "...", 1) // else the text would change with each key that is pressed
	}
	if a.RetryAfter > 0 {
		wait = int(a.RetryAfter.Seconds())
	}
	return r.status, body, wait
}

// changesOf lists what an edit changes for the device.
func changesOf(before, after *decision) []change {
	changes := []change{}
	if before.Explain == nil || after.Explain == nil {
		return changes
	}
	was, is := &before.Explain.Answer, &after.Explain.Answer
	compare := func(what string, before, after any) {
		if !reflect.DeepEqual(before, after) {
			changes = append(changes, change{what, before, after})
		}
	}
	compare("result", was.Result, is.Result)
	compare("hub", was.Response.IotHubHostName, is.Response.IotHubHostName)
	compare("status", was.Status(), is.Status())
	compare("twin", plain(was.Response.InitialTwin), plain(is.Response.InitialTwin))
	compare("payload", plain(was.Response.Payload), plain(is.Response.Payload))
	compare("reasons", was.Reasons, is.Reasons)
	return changes
}

func plain(object *dps.Value) map[string]any {
	members, _ := object.Interface().(map[string]any)
	return members
}
