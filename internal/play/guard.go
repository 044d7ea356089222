package play

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"
)

// maxBody bounds a body, in bytes. It has all edits.
const maxBody = 8 << 20

// policy is the Content-Security-Policy of an answer: nothing from elsewhere, no script in the page, and no way to send
// anything elsewhere.
func policy(styles string) string {
	return "default-src 'none'; script-src 'self'; style-src " + styles + "; connect-src 'self'; img-src 'self' data:; " +
		"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}

// cookieName differs by port, because browsers send cookies to all ports of a host.
func (s *server) cookieName() string { return "usher-play-" + strconv.Itoa(s.Port) }

const unauthorizedPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>usher play</title>
<h1>This page needs its key</h1>
<p>Open the whole address that <code>usher play</code> printed when it started. It ends in <code>?token=…</code>
and is another one each time.</p>
</html>
`

var errUnauthorized = errors.New("the page was opened by another start of usher play: open the address that it printed this time")

// guard lets a call pass only if it is of the page that the person who started usher play has open. Otherwise any page in
// the same browser, and any program that knows the port, could read and write the rules.
func (s *server) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r, header := c.Request(), c.Response().Header()
		header.Set("Content-Security-Policy", policy("'self'"))
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !s.isOurs(r.Host) { // a name that another site has made lead here
			return fail(http.StatusMisdirectedRequest, fmt.Errorf("usher play answers only as 127.0.0.1:%d or localhost:%[1]d", s.Port))
		}
		if origin := r.Header.Values("Origin"); len(origin) > 1 || len(origin) == 1 && origin[0] != "http://"+r.Host {
			return fail(http.StatusForbidden, errors.New("usher play answers only its own page, not one of another origin"))
		}
		if r.URL.Path == "/" && r.Method == http.MethodGet && s.isToken(r.URL.Query().Get("token")) {
			c.SetCookie(&http.Cookie{Name: s.cookieName(), Value: s.Token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			return c.Redirect(http.StatusSeeOther, "/")
		}
		if cookie, err := r.Cookie(s.cookieName()); err != nil || !s.isToken(cookie.Value) {
			if r.URL.Path == "/" {
				return c.HTML(http.StatusUnauthorized, unauthorizedPage)
			}
			return fail(http.StatusUnauthorized, errUnauthorized)
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != echo.MIMEApplicationJSON {
				return fail(http.StatusUnsupportedMediaType, errors.New("the Content-Type of a call must be application/json"))
			}
			r.Body = http.MaxBytesReader(c.Response(), r.Body, maxBody)
		}
		return next(c)
	}
}

// isOurs reports whether a Host names the listener.
func (s *server) isOurs(host string) bool {
	name, port, err := net.SplitHostPort(host)
	return err == nil && port == strconv.Itoa(s.Port) && slices.Contains([]string{"127.0.0.1", "localhost", "::1"}, name)
}

func (s *server) isToken(text string) bool {
	return s.Token != "" && subtle.ConstantTimeCompare([]byte(text), []byte(s.Token)) == 1
}

// read reads the body of a call. A member that there is not is an error: it is misspelt.
func read(c echo.Context, into any) error {
	decoder := json.NewDecoder(c.Request().Body)
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the JSON object")
	}
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		return fail(http.StatusRequestEntityTooLarge, fmt.Errorf("the call is larger than %d MiB", maxBody>>20))
	}
	return fail(http.StatusBadRequest, fmt.Errorf("the call is not the JSON that docs/play.md describes: %w", err))
}
