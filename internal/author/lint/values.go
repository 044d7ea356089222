package lint

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
)

func payloadDecides(_ context.Context, s *subject, add report) {
	const mend = "look it up in your data, or compare it with the values that you allow"
	for _, word := range dataflow.Words(s.analysis.Entries["hub"]) {
		add(word.Location, fmt.Sprintf("the device chooses its hub by %s, which it can set to anything", word.Name()), mend)
	}
	s.eachTag(func(name string, tag dataflow.Alternatives) {
		for _, word := range dataflow.Words(tag) {
			add(word.Location, fmt.Sprintf("the device chooses its tag %s by %s, which it can set to anything", name, word.Name()), mend)
		}
	})
}

// eachTag calls with each member of the initial twin's tags, and with "of any name"
// for what is there beside them.
func (s *subject) eachTag(call func(name string, tag dataflow.Alternatives)) {
	for _, twin := range s.analysis.Entries["initial_twin"] {
		tags := twin.Members["tags"]
		if twin.Kind == dataflow.Unknown {
			tags = append(slices.Clip(tags), twin) // for all that is known
		}
		for _, v := range tags {
			for _, name := range slices.Sorted(maps.Keys(v.Members)) {
				call(name, v.Members[name])
			}
			call("of any name", dataflow.Alternatives{{Kind: v.Kind, Sources: v.Sources, Rest: v.Rest, Request: v.Request}})
		}
	}
}

func unlinkedHub(_ context.Context, s *subject, add report) {
	linked, known := s.linked()
	if !known {
		return
	}
	used := slices.Clone(s.analysis.HubNames)
	for _, v := range s.analysis.Entries["hub"] {
		if name, ok := v.Text(); ok {
			used = append(used, dataflow.HubName{Name: name, Place: v.Place})
		}
	}
	for _, hub := range used {
		if hub.Name == "" || slices.ContainsFunc(linked, func(host string) bool { return matchesHub(hub, host) }) {
			continue
		}
		what := "the hub " + hub.Name
		if hub.Pattern {
			what = "no hub like " + hub.Name
		}
		where := ""
		if hub.Place.Data != "" {
			where = ", which comes from " + hub.Place.Data + ","
		}
		message := fmt.Sprintf("%s%s is not linked", what, where)
		if hub.Pattern {
			message = fmt.Sprintf("%s%s is linked", what, where)
		}
		add(hub.Place.Location, message, mendHub(hub.Name, linked))
	}
}

func mendHub(name string, linked []string) string {
	for _, host := range linked {
		if label, _, _ := strings.Cut(host, "."); near(strings.ToLower(label), strings.ToLower(firstLabel(name))) {
			return "perhaps " + label + " is meant"
		}
	}
	return "link it, select it in the enrollment, or name one of: " + strings.Join(linked, ", ")
}

func firstLabel(host string) string {
	label, _, _ := strings.Cut(host, ".")
	return label
}

// is reports whether the name or pattern stands for a hub, as it does for rules.
func matchesHub(h dataflow.HubName, host string) bool {
	for _, candidate := range []string{host, firstLabel(host)} {
		if h.Pattern && globMatches(h.Name, candidate) || !h.Pattern && strings.EqualFold(h.Name, candidate) {
			return true
		}
	}
	// The hubs of an option may be labels alone.
	return !h.Pattern && !strings.Contains(host, ".") && strings.EqualFold(firstLabel(h.Name), host)
}

// globMatches compares as dps.hubs_matching does.
func globMatches(pattern, text string) bool {
	expression := regexp.QuoteMeta(strings.ToLower(pattern))
	expression = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(expression)
	matched, err := regexp.MatchString("^"+expression+"$", strings.ToLower(text))
	return err == nil && matched
}

func twinLimits(_ context.Context, s *subject, add report) {
	seen := map[string]bool{}
	for _, twin := range s.analysis.Entries["initial_twin"] {
		for _, variant := range variants(twin) {
			object, ok := variant.(map[string]any)
			if !ok {
				continue
			}
			for _, problem := range dps.CheckInitialTwin(object) {
				if text := problem.String(); !seen[text] {
					seen[text] = true
					add(placeOf(twin, problem.Pointer), "initial_twin"+text, "keep within what IoT Hub takes, or take it out")
				}
			}
		}
	}
}

// maxVariants bounds how many twins are tried.
const maxVariants = 200

// variants are the values that the constants in v make up, what is unknown left out: one
// with the first of all dataflow.Alternatives, and for each other alternative one that has it.
func variants(v dataflow.Value) []any {
	first, ok := partial(v, nil)
	if !ok {
		return nil
	}
	all := []any{first}
	var walk func(v dataflow.Value, path []string)
	walk = func(v dataflow.Value, path []string) {
		for _, name := range slices.Sorted(maps.Keys(v.Members)) {
			below := append(slices.Clip(path), name)
			for i, member := range v.Members[name] {
				if len(all) >= maxVariants {
					return
				}
				if i > 0 {
					all = append(all, set(first, below, member))
				}
				walk(member, below)
			}
		}
	}
	walk(v, nil)
	return all
}

// partial is v as JSON, as far as it is constant.
func partial(v dataflow.Value, _ []string) (any, bool) {
	switch v.Kind {
	case dataflow.Constant:
		decoded, err := ast.JSON(v.Constant)
		if err != nil {
			return nil, false
		}
		return numbered(decoded), true
	case dataflow.Object:
		out := map[string]any{}
		for name, member := range v.Members {
			if len(member) == 0 {
				continue
			}
			if inside, ok := partial(member[0], nil); ok {
				out[name] = inside
			}
		}
		return out, true
	case dataflow.List:
		out := []any{}
		for _, e := range v.Rest {
			if inside, ok := partial(e, nil); ok {
				out = append(out, inside)
			}
		}
		return out, true
	}
	return nil, false
}

// set returns a copy of a JSON object with another value at a path.
func set(in any, path []string, to dataflow.Value) any {
	inside, ok := partial(to, nil)
	object, isObject := in.(map[string]any)
	if !ok || !isObject {
		return in
	}
	out := maps.Clone(object)
	if len(path) == 1 {
		out[path[0]] = inside
	} else {
		out[path[0]] = set(object[path[0]], path[1:], to)
	}
	return out
}

// numbered has numbers as they are written, which is how twins are checked.
func numbered(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		return v
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var out any
	if decoder.Decode(&out) != nil {
		return v
	}
	return out
}

// placeOf finds where the part of a twin at a JSON pointer is written, or what is
// around it.
func placeOf(v dataflow.Value, pointer string) *ast.Location {
	path := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i := range path {
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(path[i])
	}
	best, depth := v.Place.Location, -1
	var walk func(v dataflow.Value, at int)
	walk = func(v dataflow.Value, at int) {
		if v.Place.Location != nil && at > depth {
			best, depth = v.Place.Location, at
		}
		if at == len(path) {
			return
		}
		if name := v.Names[path[at]].Location; name != nil && at+1 > depth {
			best, depth = name, at+1
		}
		for _, member := range v.Members[path[at]] {
			walk(member, at+1)
		}
	}
	walk(v, 0)
	return best
}

func entryType(_ context.Context, s *subject, add report) {
	for _, entry := range []struct {
		name, kind, mend string
		is               func(types.Type) bool
		fits             func(dataflow.Value) bool
	}{
		{"hub", "a text", "name one host name, such as dps.hub_named(\"contoso-eu\")", func(t types.Type) bool { _, ok := t.(types.String); return ok },
			func(v dataflow.Value) bool { _, ok := v.Text(); return ok }},
		{"initial_twin", "an object", "give it members tags and properties.desired", isObjectType, dataflow.Value.IsObject},
		{"payload", "an object", "give it a member, such as {\"message\": ...}", isObjectType, dataflow.Value.IsObject},
	} {
		ref := s.rule.Path().Append(ast.StringTerm(entry.name))
		definitions := s.compiler.GetRulesWithPrefix(ref)
		if len(definitions) == 0 {
			continue
		}
		message := fmt.Sprintf("%s is not %s", entry.name, entry.kind)
		if t := s.compiler.TypeEnv.GetByRef(ref); t != nil && !mayBe(t, entry.is) {
			add(definitions[0].Location, message, entry.mend)
			continue
		}
		for _, v := range s.analysis.Entries[entry.name] {
			_, null := v.Constant.(ast.Null)
			if v.Kind == dataflow.Unknown || entry.fits(v) || null && v.Kind == dataflow.Constant {
				continue
			}
			at := v.Place.Location
			if at == nil {
				at = definitions[0].Location
			}
			add(at, message+" here", entry.mend)
		}
	}
}

func isObjectType(t types.Type) bool { _, ok := t.(*types.Object); return ok }

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

func secrets(_ context.Context, s *subject, add report) {
	const mend = "give the device a place to fetch it from, with its own identity"
	for _, entry := range []string{"payload", "initial_twin"} {
		seen := map[string]bool{}
		var walk func(in dataflow.Alternatives, name, path string, at *ast.Location)
		walk = func(in dataflow.Alternatives, name, path string, at *ast.Location) {
			for _, v := range in {
				if v.Place.Location != nil {
					at = v.Place.Location
				}
				text, isText := v.Text()
				what := secretKind(text)
				if what == "" && nameIsSecret(name) && (isText && text != "" || v.Kind == dataflow.Unknown) {
					what = "a secret by its name"
				}
				if what != "" && !seen[path] {
					seen[path] = true
					add(at, fmt.Sprintf("%s%s is %s", entry, path, what), mend)
				}
				for _, member := range slices.Sorted(maps.Keys(v.Members)) {
					walk(v.Members[member], member, path+"."+member, at)
				}
				walk(v.Rest, name, path, at)
				if v.Kind == dataflow.Constant {
					keys, values := v.Inside()
					for i, key := range keys {
						member, ok := key.Text()
						if !ok || values[i].Constant.Compare(key.Constant) == 0 { // an element
							walk(values[i:i+1], name, path, at)
							continue
						}
						walk(values[i:i+1], member, path+"."+member, at)
					}
				}
			}
		}
		walk(s.analysis.Entries[entry], "", "", nil)
	}
}

// secretWords end the names of members that hold secrets, written as words in lower case.
var secretWords = [][]string{
	{"password"}, {"passwd"}, {"pwd"}, {"passphrase"}, {"secret"}, {"token"}, {"credential"}, {"credentials"},
	{"apikey"}, {"api", "key"}, {"access", "key"}, {"accesskey"}, {"account", "key"}, {"shared", "key"},
	{"primary", "key"}, {"secondary", "key"}, {"symmetric", "key"}, {"private", "key"}, {"privatekey"},
	{"secret", "key"}, {"function", "key"}, {"master", "key"}, {"signing", "key"}, {"encryption", "key"},
	{"connection", "string"}, {"connectionstring"}, {"sas"},
}

// nameIsSecret goes by the last words of a name: "deviceToken" is one, "tokenLifetime" is none.
func nameIsSecret(name string) bool {
	words := wordsOf(name)
	return slices.ContainsFunc(secretWords, func(secret []string) bool {
		return len(words) >= len(secret) && slices.Equal(words[len(words)-len(secret):], secret)
	})
}

// wordsOf splits deviceToken, device_token and DEVICE-TOKEN alike.
func wordsOf(name string) []string {
	var words []string
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			words = append(words, strings.ToLower(word.String()))
			word.Reset()
		}
	}
	lower := false
	for _, r := range name {
		switch {
		case !unicode.IsLetter(r):
			end()
		case unicode.IsUpper(r) && lower:
			end()
			word.WriteRune(r)
		default:
			word.WriteRune(r)
		}
		lower = unicode.IsLower(r)
	}
	end()
	return words
}

// secretForms are how keys and tokens look.
var secretForms = []struct {
	form *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`(?i)\b(SharedAccessKey|AccountKey|SharedSecretValue)=\S`), "a connection string with its key"},
	{regexp.MustCompile(`(?i)\bSharedAccessSignature sr=`), "a shared access signature"},
	{regexp.MustCompile(`(?i)[?&]sig=[A-Za-z0-9%+/]{20}`), "an address with a shared access signature"},
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`), "a private key"},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), "a token"},
	{regexp.MustCompile(`(?i)\b(Password|Pwd)=[^;\s]`), "a connection string with its password"},
	{regexp.MustCompile(`(?i)^[a-z][a-z0-9+.-]*://[^/@:\s]+:[^/@\s]+@`), "an address with a password"},
	{regexp.MustCompile(`(?i)[?&]code=[A-Za-z0-9_-]{20}`), "an address with a function key"},
}

func secretKind(text string) string {
	for _, secret := range secretForms {
		if secret.form.MatchString(text) {
			return secret.what
		}
	}
	return ""
}

func letterCase(_ context.Context, s *subject, add report) {
	seen := map[string]bool{}
	for _, slip := range s.analysis.Cases {
		line := fmt.Sprintf("%s:%d", slip.Location.File, slip.Location.Row)
		if seen[line] {
			continue // one is enough to see what is wrong there
		}
		seen[line] = true
		if slip.Never {
			add(slip.Location, fmt.Sprintf("a text in lower case is never the same as %q", slip.Constant), fmt.Sprintf("write %q", strings.ToLower(slip.Constant)))
			continue
		}
		add(slip.Location, fmt.Sprintf("%q is compared with an identifier that a device can write in any case", slip.Constant),
			"compare registration_id_lower or enrollment_id_lower of data.dps, or use dps.same_text")
	}
}

func hubByPosition(_ context.Context, s *subject, add report) {
	if slices.ContainsFunc(s.analysis.Entries["hub"], func(v dataflow.Value) bool { return v.ByPosition }) {
		add(s.definition("hub"), "hub goes by a position in input.linkedHubs, whose order DPS does not promise",
			"use dps.spread(input.linkedHubs), or name the hub with dps.hub_named")
	}
}

// definition is where an entry rule is first defined.
func (s *subject) definition(entry string) *ast.Location {
	rules := s.compiler.GetRulesWithPrefix(s.rule.Path().Append(ast.StringTerm(entry)))
	if len(rules) == 0 {
		return nil
	}
	return slices.MinFunc(rules, func(a, b *ast.Rule) int { return a.Location.Compare(b.Location) }).Location
}
