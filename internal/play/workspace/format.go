package workspace

import (
	"path"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Format returns the text of a Rego file as usher fmt writes it, and that of any other file as it is. The error is a
// *ruleset.LoadError if the text does not parse.
func Format(name, text string) (string, error) {
	if err := CheckPath(name); err != nil || path.Ext(name) != ".rego" {
		return text, err
	}
	formatted, err := format.SourceWithOpts(name, []byte(text), format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		return "", ruleset.CompileError(err)
	}
	return string(formatted), nil
}
