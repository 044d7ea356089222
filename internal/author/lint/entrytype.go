package lint

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

func entryType(_ context.Context, s *subject, add report) {
	s.documentTypes(add)
	s.reasonTypes("reject", add)
	s.reasonTypes("hold", add)
}

// documentTypes checks hub, initial_twin and payload.
func (s *subject) documentTypes(add report) {
	isString := func(t types.Type) bool { _, ok := t.(types.String); return ok }
	isObject := func(t types.Type) bool { _, ok := t.(*types.Object); return ok }
	for _, entry := range []struct {
		name, kind, fix string
		isType          func(types.Type) bool
		is              func(dataflow.Value) bool
	}{
		{"hub", "a string", "name one host name, such as dps.hub_named(\"contoso-eu\")", isString, isText},
		{"initial_twin", "an object", "give it members tags and properties.desired", isObject, dataflow.Value.IsObject},
		{"payload", "an object", "give it a member, such as {\"message\": ...}", isObject, dataflow.Value.IsObject},
	} {
		definitions := s.compiler.GetRulesWithPrefix(s.rule.Entry(entry.name))
		if len(definitions) == 0 {
			continue
		}
		message := fmt.Sprintf("%s is not %s", entry.name, entry.kind)
		if t := s.compiler.TypeEnv.GetByRef(s.rule.Entry(entry.name)); t != nil && !mayBe(t, entry.isType) {
			add(definitions[0].Location, message, entry.fix)
			continue
		}
		for _, v := range s.analysis.Entries[entry.name] {
			_, isNull := v.Constant.(ast.Null)
			isUnknown := v.Kind == dataflow.Unknown && !slices.Equal(v.Request, []string{"linkedHubs"})
			if isUnknown || entry.is(v) || isNull && v.Kind == dataflow.Constant {
				continue
			}
			at := v.Place.Location
			if at == nil {
				at = definitions[0].Location
			}
			add(at, message+" here", entry.fix)
		}
	}
}

// mayBe reports whether a value of type t can be of a kind.
func mayBe(t types.Type, is func(types.Type) bool) bool {
	switch t := t.(type) {
	case types.Any:
		return len(t) == 0 || slices.ContainsFunc(t, func(of types.Type) bool { return mayBe(of, is) })
	case *types.NamedType:
		return mayBe(t.Type, is)
	}
	return is(t)
}

// reasonTypes checks the reasons of reject or hold. An object that is put in place of the set is for another lint.
func (s *subject) reasonTypes(entry string, add report) {
	definitions := s.compiler.GetRulesWithPrefix(s.rule.Entry(entry))
	if len(definitions) == 0 {
		return
	}
	fix := fmt.Sprintf("write %s contains \"the reason\" if ...", entry)
	isBoolean := func(t types.Type) bool { _, ok := t.(types.Boolean); return ok }
	if t := s.compiler.TypeEnv.GetByRef(s.rule.Entry(entry)); t != nil && mustBe(t, isBoolean) {
		for _, definition := range definitions {
			if value := definition.Head.Value; value == nil || value.Value.Compare(ast.Boolean(false)) != 0 {
				add(definition.Location, entry+" is true or false, which gives no reason", fix)
			}
		}
		return
	}
	for _, v := range s.analysis.Entries[entry] {
		reasons, inSet := reasonsIn(v)
		for _, reason := range reasons {
			at := cmp.Or(reason.Place.Location, v.Place.Location, definitions[0].Location)
			switch {
			case reason.Kind == dataflow.Unknown || isNothing(reason) && !inSet:
			case reason.IsObject():
				s.reasonObject(entry, reason, inSet, at, add)
			case !isText(reason):
				add(at, fmt.Sprintf("%s has a reason that is not a text", entry), fix)
			}
		}
	}
}

// reasonsIn are the reasons in what reject or hold may be; inSet is set if they are in a set or an array.
func reasonsIn(v dataflow.Value) (reasons dataflow.Alternatives, inSet bool) {
	_, isArray := v.Constant.(*ast.Array)
	_, isSet := v.Constant.(ast.Set)
	if v.Kind == dataflow.List || v.Kind == dataflow.Constant && (isArray || isSet) {
		_, reasons = v.Inside()
		return reasons, true
	}
	return dataflow.Alternatives{v}, false
}

// isNothing reports whether a value as a whole gives no reasons.
func isNothing(v dataflow.Value) bool {
	_, isNull := v.Constant.(ast.Null)
	return v.Kind == dataflow.Constant && (isNull || v.Constant.Compare(ast.Boolean(false)) == 0)
}

func isText(v dataflow.Value) bool { _, ok := v.Text(); return ok }

// maxRetryAfter is the most that Usher passes on.
const maxRetryAfter = 3600

// reasonObject checks an object in place of a reason, which only hold may have.
func (s *subject) reasonObject(entry string, v dataflow.Value, inSet bool, at *ast.Location, add report) {
	if entry == "reject" {
		if inSet {
			add(at, "reject has an object as a reason, of which Usher takes only the reason", "write the text itself")
		}
		return
	}
	check := func(name, fix string, fine func(dataflow.Value) bool) {
		for _, member := range v.Member(name) {
			if member.Kind != dataflow.Unknown && !fine(member) {
				add(cmp.Or(member.Place.Location, at), fmt.Sprintf("hold has a reason whose %s Usher ignores", name), fix)
			}
		}
	}
	check("reason", "write a text", isText)
	check("status", "write 429 or 503, the default", func(v dataflow.Value) bool {
		number, ok := numberOf(v)
		return ok && (number == http.StatusTooManyRequests || number == http.StatusServiceUnavailable)
	})
	check("retry_after", "write seconds, at most 3600", func(v dataflow.Value) bool {
		number, ok := numberOf(v)
		return ok && number > 0 && number <= maxRetryAfter
	})
	if inSet && len(v.Member("reason")) == 0 {
		add(at, "hold has an object without a reason", "give it the member reason")
	}
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		if !slices.Contains([]string{"reason", "status", "retry_after"}, name) {
			add(cmp.Or(v.Names[name].Location, at), fmt.Sprintf("hold has a reason with the member %s, which Usher ignores", name),
				"its members are reason, status and retry_after")
		}
	}
}

func numberOf(v dataflow.Value) (float64, bool) {
	number, ok := v.Constant.(ast.Number)
	if !ok || v.Kind != dataflow.Constant {
		return 0, false
	}
	value, err := json.Number(number).Float64()
	return value, err == nil
}

// mustBe reports whether every value of type t is of a kind.
func mustBe(t types.Type, is func(types.Type) bool) bool {
	switch t := t.(type) {
	case types.Any:
		return len(t) > 0 && !slices.ContainsFunc(t, func(of types.Type) bool { return !mustBe(of, is) })
	case *types.NamedType:
		return mustBe(t.Type, is)
	}
	return is(t)
}
