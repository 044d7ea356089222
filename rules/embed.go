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
//go:embed */*.rego */data.json */data.schema.json */lookups.yaml */*_fixture.csv hub_fixture.csv
var files embed.FS

// Files are the files of this folder: NAME/NAME.rego and NAME/NAME_test.rego for each rule, for some also
// NAME/data.json with its schema, and NAME/lookups.yaml with NAME/NAME_fixture.csv; the library under
// lib; and hub_fixture.csv, the fixture of lookup.hub.
func Files() fs.FS { return files }
