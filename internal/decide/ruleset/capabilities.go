package ruleset

import (
	"encoding/json"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Capabilities returns what rules may call, including Usher's own functions, in the form of OPA's capabilities files:
// indented JSON, the same bytes for the same options.
func Capabilities(options Options) ([]byte, error) {
	rs := &Ruleset{options: options}
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
