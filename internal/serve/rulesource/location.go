// Package rulesource keeps rules up to date: it reads them from a folder or fetches them as a bundle, tests them, puts
// them into use in one step, and keeps the last good ones on disk for a start without their source.
//
// It decides nothing about devices. Package rulebundle knows what a bundle looks like.
package rulesource

import (
	"errors"
	"strings"

	"github.com/usher-dps/usher/internal/serve/remotefile"
)

// Location says where rules come from. A path is that of a folder of Rego files and data, or of a bundle in a file; a
// URL is that of a bundle.
type Location struct{ remotefile.Location }

// ParseLocation reads the URL of a bundle, or else a folder. Errors quote only the scheme of a URL.
func ParseLocation(text string) (Location, error) {
	if text == "" {
		return Location{}, errors.New("empty: name a folder of rules, or the URL of a bundle")
	}
	l, err := remotefile.ParseLocation(text)
	return Location{l}, err
}

// bundleSuffix is how the name of a bundle in a file ends.
const bundleSuffix = ".tar.gz"

// Bundle reports whether the rules come as a bundle, which can be signed: from a URL, or from a file whose name ends in
// .tar.gz.
func (l Location) Bundle() bool {
	return l.Kind != remotefile.Path || strings.HasSuffix(l.Path, bundleSuffix)
}
