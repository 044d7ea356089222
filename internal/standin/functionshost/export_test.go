package functionshost

import "net/http"

// Parts that tests need directly, because their timing or input cannot be controlled from outside.

func NewReplayer(next http.RoundTripper) http.RoundTripper { return replayer{next} }

var (
	DecodePath    = decodePath
	EncodePath    = encodePath
	EncodeQuery   = encodeQuery
	ParseTimeSpan = parseTimeSpan
	Classify      = classify
)

// ParseHostFile parses a host.json.
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
