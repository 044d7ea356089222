package allocation

import "github.com/usher-dps/usher/internal/decide/ruleset"

// Capabilities returns what rules that are loaded with these options may call, in the
// form of OPA's capabilities files, for tools and editors that read these. It fails if
// the options allow a built-in that OPA does not have.
func Capabilities(options RulesOptions) ([]byte, error) {
	return ruleset.Capabilities(ruleset.Options{AllowBuiltins: options.AllowBuiltins, AllowNet: options.AllowNet})
}
