package play

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/play/vocabulary"
	"github.com/usher-dps/usher/internal/play/workspace"
)

func (s *server) checkRoutes(api *echo.Group) {
	api.POST("/format", s.format)
	api.POST("/check", s.check)
	api.GET("/vocabulary", s.listWords)
}

func (s *server) format(c echo.Context) error {
	var body struct {
		Path string `json:"path"`
		Text string `json:"text"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	text, err := workspace.Format(body.Path, body.Text)
	if problems := loadProblems(err); problems != nil {
		return c.JSON(http.StatusOK, map[string]any{"problems": problems})
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]string{"text": text})
}

// check finds what usher check finds, and tests and invariants that do not load.
func (s *server) check(c echo.Context) error {
	var body struct {
		Edits workspace.Edits `json:"edits"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	problems, err := s.problems(c.Request().Context(), body.Edits)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"problems": problems})
}

func (s *server) problems(ctx context.Context, edits workspace.Edits) ([]problem, error) {
	loaded, err := s.Workspace.LoadAll(edits)
	if problems := loadProblems(err); problems != nil {
		return problems, nil
	}
	if err != nil {
		return nil, err
	}
	report, err := lint.Run(ctx, loaded.Files, loaded.Rules, lint.Options{Hubs: s.Hubs, Enrollments: s.Enrollments})
	if err != nil {
		return nil, err
	}
	problems := []problem{}
	for _, f := range report.Findings {
		problems = append(problems, problem{File: f.File, Line: f.Line, Column: f.Column, Level: f.Level, Code: f.Lint, Message: f.Message, Fix: f.Fix})
	}
	_, err = ruletest.Load(ctx, loaded.Files, ruletest.Options{AllowBuiltins: s.Rules.AllowBuiltins, AllowNet: s.Rules.AllowNet})
	broken := loadProblems(err)
	if err != nil && broken == nil {
		return nil, err
	}
	return append(problems, broken...), nil
}

// listWords lists what completion offers.
func (s *server) listWords(c echo.Context) error {
	files, _, err := s.Workspace.Overlay(nil)
	if err != nil {
		return err
	}
	words, err := vocabulary.Of(files, s.Rules)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, words)
}
