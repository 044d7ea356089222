package functionshost

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// AuthLevel is the key that a caller needs if keys are enforced.
type AuthLevel string

// The levels of function.json.
const (
	AuthAnonymous AuthLevel = "anonymous" // no key
	AuthFunction  AuthLevel = "function"  // the function key or the master key
	AuthAdmin     AuthLevel = "admin"     // the master key
)

// Route is one HTTP trigger.
type Route struct {
	Function  string    // folder name
	Methods   []string  // in upper case; empty for every method
	Path      string    // template with the route prefix, such as /api/devices/{id}
	AuthLevel AuthLevel // AuthFunction if function.json does not set it

	template string // without the route prefix
	segments []segment
}

// segment is the part of a route template between two slashes.
type segment struct {
	literal  string // "" for a parameter
	optional bool   // {name?}
	catchAll bool   // {*name}
}

// parseTemplate parses a route template of ASP.NET without constraints and default values.
func parseTemplate(path string) ([]segment, error) {
	var segments []segment
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if !strings.ContainsAny(part, "{}") {
			if part == "" {
				return nil, fmt.Errorf("%q has an empty segment: remove the double slash", path)
			}
			segments = append(segments, segment{literal: part})
			continue
		}
		name, ok := strings.CutPrefix(part, "{")
		if ok {
			name, ok = strings.CutSuffix(name, "}")
		}
		if !ok || strings.ContainsAny(name, "{}:=") {
			return nil, fmt.Errorf("%q: this stand-in supports {name}, {name?} and {*name}, each between slashes, without constraints or defaults; for others use func start", part)
		}
		var s segment
		if rest, ok := strings.CutPrefix(name, "*"); ok {
			s.catchAll, name = true, strings.TrimPrefix(rest, "*")
		} else if rest, ok := strings.CutSuffix(name, "?"); ok {
			s.optional, name = true, rest
		}
		if name == "" {
			return nil, fmt.Errorf("%q: a route parameter needs a name, such as {id}", part)
		}
		if (s.catchAll || s.optional) && !last {
			return nil, fmt.Errorf("%q can only be at the end of a route", part)
		}
		segments = append(segments, s)
	}
	return segments, nil
}

// matches reports whether a decoded path matches the template. As in ASP.NET, the case of literals and one slash at the
// end do not matter.
func (r Route) matches(path string) bool {
	path = strings.TrimPrefix(path, "/")
	path = strings.TrimSuffix(path, "/")
	var parts []string
	if path != "" {
		parts = strings.Split(path, "/")
	}
	for i, s := range r.segments {
		switch {
		case s.catchAll:
			return true
		case i >= len(parts):
			return s.optional
		case s.literal != "" && !strings.EqualFold(s.literal, parts[i]), parts[i] == "":
			return false
		}
	}
	return len(parts) == len(r.segments)
}

// findRoute returns the first route that serves a method and a path. Like the host, it skips a route whose path matches
// but whose methods do not, so that another function's catch-all can serve the request, with its own authLevel.
func findRoute(routes []Route, method, path string) (Route, bool) {
	i := slices.IndexFunc(routes, func(r Route) bool {
		return (len(r.Methods) == 0 || slices.Contains(r.Methods, method)) && r.matches(path)
	})
	if i < 0 {
		return Route{}, false
	}
	return routes[i], true
}

var errEscape = errors.New("invalid percent-encoding in the path")

// decodePath decodes the path of a request line as the host's web server does: everything but %2F. Then it removes dot
// segments.
func decodePath(escaped string) (string, error) {
	// Escaping the percent sign makes %2F survive the decoding, with the case of its digit.
	path, err := url.PathUnescape(strings.NewReplacer("%2F", "%252F", "%2f", "%252f").Replace(escaped))
	if err != nil || strings.ContainsRune(path, 0) {
		return "", errEscape
	}
	var kept []string
	parts := strings.Split(path, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		switch part {
		case ".":
		case "..":
			if len(kept) > 1 {
				kept = kept[:len(kept)-1]
			}
		default:
			kept = append(kept, part)
			continue
		}
		if last {
			kept = append(kept, "")
		}
	}
	path = strings.Join(kept, "/")
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return path, nil
}

const (
	unreserved = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
	upperHex   = "0123456789ABCDEF"
)

// encodePath encodes a decoded path as the host's proxy does. It always encodes a percent sign, so the %2F that
// decodePath keeps reaches the handler as %252F.
func encodePath(path string) string {
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		if strings.IndexByte(unreserved+"/!$&'()*+,;=:@", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
	}
	return b.String()
}

// encodeQuery encodes a query as the host's proxy does: it keeps the query, but encodes what a URI must not contain,
// and decodes what need not be encoded.
func encodeQuery(query string) string {
	var b strings.Builder
	for i := 0; i < len(query); i++ {
		c := query[i]
		if c == '%' && i+2 < len(query) {
			if octet, err := strconv.ParseUint(query[i+1:i+3], 16, 8); err == nil {
				switch {
				case strings.IndexByte(unreserved, byte(octet)) >= 0:
					b.WriteByte(byte(octet))
				case octet >= 0x80: // the proxy decodes it and encodes it again, in upper case
					b.WriteString(strings.ToUpper(query[i : i+3]))
				default:
					b.WriteString(query[i : i+3])
				}
				i += 2
				continue
			}
		}
		if strings.IndexByte(unreserved+":/?#[]@!$&'()*+,;=", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
	}
	return b.String()
}
