package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// silenceLint finds mistakes in silences. It cannot be silenced.
const silenceLint = "silence"

// silence is a member of custom.check.allow in a rule's METADATA.
type silence struct {
	id, reason string
	at         *ast.Location
}

// silences reads what the rule's METADATA allows. A malformed silence silences nothing and is a finding.
func (s *subject) silences() []silence {
	var all []silence
	for _, module := range s.modules {
		for _, annotation := range module.Annotations {
			check, ok := annotation.Custom["check"]
			if !ok {
				continue
			}
			wrong := func(format string, args ...any) {
				s.add(silenceLint, Error, annotation.Location, fmt.Sprintf(format, args...),
					`write custom: {check: {allow: [{id: ID, reason: "why it is right here"}]}}`)
			}
			if annotation.Scope != "package" {
				wrong("custom.check is only read from the METADATA of the package")
				continue
			}
			object, ok := check.(map[string]any)
			list, isList := object["allow"].([]any)
			if !ok || !isList || len(object) != 1 {
				wrong("custom.check is not an object with the list allow")
				continue
			}
			for _, element := range list {
				entry, _ := element.(map[string]any)
				id, _ := entry["id"].(string)
				reason, _ := entry["reason"].(string)
				switch unknown := unknownMembers(entry, "id", "reason"); {
				case id == "":
					wrong("custom.check.allow has a member without an id")
				case len(unknown) > 0:
					wrong("the silence of %s has the unknown member %s; its members are id and reason", id, strings.Join(unknown, ", "))
				case id == silenceLint:
					wrong("%s cannot be silenced", silenceLint)
				case !slices.ContainsFunc(Lints(), func(lint Lint) bool { return lint.ID == id }):
					wrong("there is no lint %s to silence: `usher check --list` prints all lints", id)
				case strings.TrimSpace(reason) == "":
					wrong("%s is silenced without a reason", id)
				default:
					all = append(all, silence{id, reason, annotation.Location})
				}
			}
		}
	}
	return all
}

func unknownMembers(object map[string]any, known ...string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(object)), func(name string) bool { return slices.Contains(known, name) })
}
