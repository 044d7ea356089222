package functionshost

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// AuthLevel says which key a caller must show where keys are enforced.
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
	Methods   []string  // upper case; empty is every method
	Path      string    // template with the route prefix, as /api/devices/{id}
	AuthLevel AuthLevel // AuthFunction where function.json is silent

	template string // without the prefix: what the reserved words are compared with
	segments []segment
}

// segment is one part of a route template between slashes.
type segment struct {
	literal  string // "" for a parameter
	optional bool   // {name?}
	catchAll bool   // {*name}
}

// parseTemplate reads the part of ASP.NET's route templates that needs no knowledge of types.
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
			return nil, fmt.Errorf("%q: this stand-in knows {name}, {name?} and {*name}, each between slashes, without constraints or defaults; for others use func start", part)
		}
		var s segment
		if rest, ok := strings.CutPrefix(name, "*"); ok {
			s.catchAll, name = true, strings.TrimPrefix(rest, "*")
		} else if rest, ok := strings.CutSuffix(name, "?"); ok {
			s.optional, name = true, rest
		}
		if name == "" {
			return nil, fmt.Errorf("%q: a route parameter has a name, as {id}", part)
		}
		if (s.catchAll || s.optional) && !last {
			return nil, fmt.Errorf("%q can stand only at the end of a route", part)
		}
		segments = append(segments, s)
	}
	return segments, nil
}

// matches reports whether a decoded path fits the template. Literals are compared without case and one slash at the
// end is of no account, as in ASP.NET.
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

// find gives the first route that serves a method and a path. A route whose path fits but whose methods do not is
// passed over, so that a catch-all beside it serves the request, with its own authLevel: the host does so too.
func find(routes []Route, method, path string) (Route, bool) {
	i := slices.IndexFunc(routes, func(r Route) bool {
		return (len(r.Methods) == 0 || slices.Contains(r.Methods, method)) && r.matches(path)
	})
	if i < 0 {
		return Route{}, false
	}
	return routes[i], true
}

var errEscape = errors.New("invalid percent-encoding in the path")

// decodePath does to the path of a request line what the host's web server does: it decodes everything but %2F, then
// removes dot segments.
func decodePath(escaped string) (string, error) {
	// Shielding the percent sign makes the one escape that stays survive the decoding, in the case it came in.
	shielded := strings.NewReplacer("%2F", "%252F", "%2f", "%252f").Replace(escaped)
	path, err := url.PathUnescape(shielded)
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

// encodePath writes a decoded path the way the host's proxy does. A percent sign is always encoded, so the %2F that
// decodePath left reaches the handler as %252F.
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

// encodeQuery writes a query the way the host's proxy does: as it came, but what a URI must not have is encoded, and
// what need not be encoded is decoded.
func encodeQuery(query string) string {
	var b strings.Builder
	for i := 0; i < len(query); i++ {
		c := query[i]
		if c == '%' && i+2 < len(query) {
			if octet, err := strconv.ParseUint(query[i+1:i+3], 16, 8); err == nil {
				switch {
				case strings.IndexByte(unreserved, byte(octet)) >= 0:
					b.WriteByte(byte(octet))
				case octet >= 0x80: // written anew as UTF-8, hence in upper case
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
