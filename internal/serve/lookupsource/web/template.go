package web

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// placeholder stands for the key in a template.
const placeholder = "{key}"

// Template is a URL with a place for the key, in its path or in the values of its query.
type Template struct {
	parts []string // between the keys
	host  string
	// segments are those of the path that have a place for the key.
	segments []string
}

// ParseTemplate reads a URL such as https://devices.example.com/v1/devices/{key}. Its errors do not quote it, because it
// can contain a secret.
func ParseTemplate(text string) (Template, error) {
	const example = "such as https://devices.example.com/devices/" + placeholder
	parts := strings.Split(text, placeholder)
	if len(parts) == 1 {
		return Template{}, errors.New("the URL has no place for the key: write it as {key}, " + example)
	}
	// A key that needs no escaping stands for any other.
	const sample = "usherkey0"
	u, err := url.Parse(strings.Join(parts, sample))
	if err != nil || u.Hostname() == "" {
		return Template{}, errors.New("not a URL " + example)
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case u.Scheme == "http" && !loopback:
		return Template{}, errors.New("http is allowed only for the loopback address: use https")
	case u.Scheme != "https" && u.Scheme != "http":
		return Template{}, fmt.Errorf("not a URL %s", example)
	case strings.Contains(u.Scheme+u.Host, sample):
		return Template{}, errors.New("the key must not decide the host: move {key} to the path or the query")
	case u.User != nil:
		return Template{}, errors.New("a URL must not contain a user name or a password")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return Template{}, errors.New("a fragment is not sent: leave out # and what follows it")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Template{}, errors.New("the query of the URL is malformed")
	}
	for name := range query {
		if strings.Contains(name, sample) {
			return Template{}, errors.New("the key must not be the name of a parameter: write ?name={key}")
		}
	}
	// net/http also removes the colon of an empty port.
	t := Template{parts: parts, host: strings.TrimSuffix(u.Host, ":")}
	path, _, _ := strings.Cut(text, "?")
	for segment := range strings.SplitSeq(path, "/") {
		if strings.Contains(segment, placeholder) {
			t.segments = append(t.segments, segment)
		}
	}
	return t, nil
}

// expand returns the URL of a key. It reports false if a server or a proxy could take the key for a way to another
// folder, which escaping does not prevent: to them, %2E%2E means the same as two dots.
func (t Template) expand(key string) (string, bool) {
	for _, segment := range t.segments {
		for step := range strings.FieldsFuncSeq(strings.ReplaceAll(segment, placeholder, key), isSlash) {
			if step == "." || step == ".." {
				return "", false
			}
		}
	}
	return strings.Join(t.parts, escape(key)), true
}

func isSlash(r rune) bool { return r == '/' || r == '\\' }

// escape writes a key as a segment of a path or as a value of a query. It escapes more than net/url: everything that any
// server could take for more than a letter.
func escape(key string) string {
	const hex = "0123456789ABCDEF"
	var escaped strings.Builder
	for _, b := range []byte(key) {
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_' {
			escaped.WriteByte(b)
		} else {
			escaped.Write([]byte{'%', hex[b>>4], hex[b&15]})
		}
	}
	return escaped.String()
}
