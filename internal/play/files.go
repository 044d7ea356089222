package play

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/internal/play/workspace"
)

func (s *server) fileRoutes(api *echo.Group) {
	api.GET("/workspace", s.describe)
	api.GET("/file", s.readFile)
	api.PUT("/file", s.saveFile)
}

// rule is a rule as the page lists it.
type rule struct {
	Package     string   `json:"package"`
	Title       string   `json:"title"`
	Place       string   `json:"place"`
	Enrollments []string `json:"enrollments"`
}

// describe says what there is to edit. Rules that do not load are none; a check says why.
func (s *server) describe(c echo.Context) error {
	files, err := s.Workspace.Files()
	if err != nil {
		return err
	}
	rules := []rule{}
	if loaded, err := s.Workspace.Load(nil); err == nil {
		for _, r := range loaded.Rules.All() {
			rules = append(rules, rule{r.Package, r.Title, r.Place, append(append([]string{}, r.Individuals...), r.Groups...)})
		}
	}
	return c.JSON(http.StatusOK, struct {
		Name     string           `json:"name"`
		Version  string           `json:"version"`
		ReadOnly bool             `json:"readOnly"`
		Files    []workspace.File `json:"files"`
		Rules    []rule           `json:"rules"`
		Log      bool             `json:"log"`
		DPS      bool             `json:"dps"`
	}{s.Workspace.Folder(), s.Version, s.Workspace.ReadOnly(), files, rules, s.hasLog(), s.hasDPS()})
}

// file is a file with its text.
type file struct {
	Path   string `json:"path,omitempty"`
	Text   string `json:"text"`
	Digest string `json:"digest"`
}

func (s *server) readFile(c echo.Context) error {
	name := c.QueryParam("path")
	text, digest, err := s.Workspace.Read(name)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, file{name, text, digest})
}

func (s *server) saveFile(c echo.Context) error {
	var body struct {
		Path   string  `json:"path"`
		Text   *string `json:"text"`
		Digest string  `json:"digest"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	digest, err := s.Workspace.Save(body.Path, body.Text, body.Digest)
	if changed, ok := errors.AsType[*workspace.ChangedError](err); ok {
		return c.JSON(http.StatusConflict, struct {
			Error string `json:"error"`
			file
		}{changed.Error(), file{Text: changed.Text, Digest: changed.Digest}})
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]string{"digest": digest})
}
