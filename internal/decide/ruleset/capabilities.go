package ruleset

import (
	"encoding/json"
	"io/fs"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/lookups"
)

// Capabilities returns what the rules under fsys may call, including Usher's own functions and those of the look-ups
// that are declared there, in the form of OPA's capabilities files: indented JSON, the same bytes for the same options
// and declarations. If fsys is nil, no look-up is declared.
func Capabilities(fsys fs.FS, options Options) ([]byte, error) {
	rs := &Ruleset{options: options, environment: &environment{lookups: []*lookups.Declaration{hubDeclaration()}}}
	if fsys != nil {
		files, err := readFiles(fsys)
		if err != nil {
			return nil, err
		}
		if err := rs.declareLookups(fsys, files.lookups); err != nil {
			return nil, err
		}
	}
	if err := rs.buildEnvironment(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(struct {
		*ast.Capabilities
		// OPA omits an empty list, and takes an absent one for all hosts.
		AllowNet []string `json:"allow_net"`
	}{rs.capabilities, rs.capabilities.AllowNet}, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}
