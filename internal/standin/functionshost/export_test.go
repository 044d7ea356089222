package functionshost

import "net/http"

// What the tests reach past the door: the parts whose timing or whose input cannot be had from outside.

func NewReplayer(next http.RoundTripper) http.RoundTripper { return replayer{next} }

var (
	DecodePath    = decodePath
	EncodePath    = encodePath
	EncodeQuery   = encodeQuery
	ParseTimeSpan = parseTimeSpan
	Classify      = classify
)

// ParseHostFile reads a host.json given as bytes.
func ParseHostFile(data []byte) error {
	var file hostFile
	_, err := parseDocument(data, "host.json", &file)
	return err
}

// MatchPath reports whether a route template matches a decoded path.
func MatchPath(template, path string) (bool, error) {
	segments, err := parseTemplate(template)
	if err != nil {
		return false, err
	}
	return Route{segments: segments}.matches(path), nil
}
