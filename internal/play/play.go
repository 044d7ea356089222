// Package play serves the page of usher play: a folder of rules to edit, and what the rules decide while they are edited.
// The page evaluates nothing. It sends its unsaved edits with each question, and the server decides with the decider of
// the webhook over the folder with the edits laid over it.
//
// Only the browser of the person who started it gets an answer: see guard.go.
package play

import (
	"bytes"
	"crypto/rand"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/play/fleet"
	"github.com/usher-dps/usher/internal/play/page"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// Options say what is served, and to whom.
type Options struct {
	// Workspace is the folder of rules. Required.
	Workspace *workspace.Workspace
	// Rules are the options that the workspace loads rules with.
	Rules decider.RulesOptions
	// Version is that of usher.
	Version string
	// Token opens the page. Required.
	Token string
	// Port is that of the listener: the handler answers only calls that name it.
	Port int
	// Examples are requests to start from, one to a file; may be nil.
	Examples fs.FS
	// Hubs are host names or first labels of hubs that are linked to the DPS, and Enrollments what it has; both may be
	// empty.
	Hubs        []string
	Enrollments []lint.Enrollment
	// PayloadSchema is the JSON Schema of what devices send; may be nil.
	PayloadSchema []byte
	// Fleet has the registrations of logs; nil if there is none. Live is set if one of these is a stand-in for DPS that
	// runs.
	Fleet *fleet.Fleet
	Live  bool
	// Timeout is how long a rule may take; 0 means that of the webhook.
	Timeout time.Duration
}

// server answers the page.
type server struct {
	Options
	page  fs.FS
	index *template.Template
	known known
}

// New returns the handler of the page and its API, which docs/play.md describes.
func New(options Options) (http.Handler, error) {
	s := &server{Options: options, page: page.Files()}
	var err error
	if s.index, err = template.ParseFS(s.page, "index.html"); err != nil {
		return nil, err
	}
	e := echo.New()
	e.HTTPErrorHandler = refuse
	e.Pre(s.guard)
	e.GET("/", s.serveIndex)
	e.GET("/*", s.serveAsset)
	s.routes(e.Group("/api"))
	return e, nil
}

// routes are those of the API.
func (s *server) routes(api *echo.Group) {
	api.Any("/*", func(echo.Context) error { return echo.ErrNotFound }) // not a file of the page
	s.fileRoutes(api)
	s.checkRoutes(api)
	s.requestRoutes(api)
	s.decideRoutes(api)
	s.keepRoutes(api)
	s.shareRoutes(api)
	s.eventRoutes(api)
	s.proveRoutes(api)
	s.fleetRoutes(api)
}

func (s *server) serveIndex(c echo.Context) error {
	nonce := rand.Text()
	c.Response().Header().Set("Content-Security-Policy", policy("'self' 'nonce-"+nonce+"'"))
	var text bytes.Buffer
	if err := s.index.Execute(&text, struct{ Nonce string }{nonce}); err != nil {
		return err
	}
	return c.HTMLBlob(http.StatusOK, text.Bytes())
}

func (s *server) serveAsset(c echo.Context) error {
	name := strings.TrimPrefix(path.Clean(c.Request().URL.Path), "/")
	if info, err := fs.Stat(s.page, name); err != nil || info.IsDir() || name == "index.html" {
		return echo.ErrNotFound
	}
	switch path.Ext(name) { // Windows can have other types for these, which browsers refuse
	case ".js":
		c.Response().Header().Set(echo.HeaderContentType, "text/javascript; charset=utf-8")
	case ".css":
		c.Response().Header().Set(echo.HeaderContentType, "text/css; charset=utf-8")
	}
	http.ServeFileFS(c.Response(), c.Request(), s.page, name)
	return nil
}

// statusError is an error with its HTTP status. Its text says what is wrong, where, and how to fix it.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func fail(status int, err error) error { return &statusError{status, err} }

// refuse answers an error as the page expects it.
func refuse(err error, c echo.Context) {
	if c.Response().Committed {
		return // the page has got a part of the answer
	}
	if c.Request().Context().Err() != nil { // the page is gone, or usher play stops
		_ = c.NoContent(http.StatusServiceUnavailable)
		return
	}
	status, text := http.StatusInternalServerError, err.Error()
	invalid, isPath := errors.AsType[*workspace.PathError](err)
	known, isStatus := errors.AsType[*statusError](err)
	routing, isRouting := errors.AsType[*echo.HTTPError](err)
	switch {
	case isStatus:
		status = known.status
	case isPath:
		status, text = http.StatusBadRequest, invalid.Error()
	case errors.Is(err, workspace.ErrReadOnly):
		status = http.StatusForbidden
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, fs.ErrPermission):
		status = http.StatusForbidden
	case isRouting && routing.Code == http.StatusNotFound:
		status, text = routing.Code, c.Request().URL.Path+" is nothing that usher play serves"
	case isRouting:
		status, text = routing.Code, http.StatusText(routing.Code)
	}
	_ = c.JSON(status, map[string]string{"error": text}) // no one is left to hear of a failure
}
