// Package rules holds the starter rules, their tests and the library, so that a tool can hand them out. The webhook
// does not use it: it reads a folder, as everybody who edits rules expects.
package rules

import (
	"embed"
	"io/fs"
)

// Only what belongs to a rule: exchanges next to them are about the enrollments of the
// starter rules themselves.
//
//go:embed */*.rego */data.json
var files embed.FS

// Files are the files of this folder: NAME/NAME.rego, NAME/NAME_test.rego and, for some, NAME/data.json for each rule,
// and the library under lib.
func Files() fs.FS { return files }
