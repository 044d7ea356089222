// Package page holds the page of usher play. build.mjs makes what is in dist from src.
package page

import (
	"embed"
	"io/fs"
)

//go:embed dist
var files embed.FS

// Files are the files of the page. index.html is a template of package html/template; it gets the nonce that styles need
// as {{.Nonce}}.
func Files() fs.FS {
	dist, err := fs.Sub(files, "dist")
	if err != nil {
		panic(err) // the name is valid
	}
	return dist
}
