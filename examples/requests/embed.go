// Package requests holds the AllocationRequests of this folder, which rules that arrive are tried on. README.md says
// what each is.
package requests

import (
	"embed"
	"io/fs"
)

//go:embed *.json
var files embed.FS

// Files are the requests, one to a file.
func Files() fs.FS { return files }
