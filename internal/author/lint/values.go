package lint

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

func payloadDecides(_ context.Context, s *subject, add report) {
	find := func(what string, in dataflow.Alternatives) {
		for _, word := range dataflow.Words(in) {
			add(word.Location, fmt.Sprintf("the device chooses its %s by %s, which it can set to anything", what, word.Name()),
				"look it up in your data, or compare it with the values that you allow")
		}
	}
	keyPicks(s, add)
	find("hub", s.analysis.Entries["hub"])
	for _, twin := range s.analysis.Entries["initial_twin"] {
		tags := twin.Members["tags"]
		if twin.Kind == dataflow.Unknown {
			tags = append(slices.Clip(tags), twin) // which may have tags
		}
		for _, v := range tags {
			for _, name := range slices.Sorted(maps.Keys(v.Members)) {
				find("tag "+name, v.Members[name])
			}
			find("tag of any name", dataflow.Alternatives{{Kind: v.Kind, Sources: v.Sources, Rest: v.Rest, Request: v.Request}})
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
		if hub.Name == "" || slices.ContainsFunc(linked, func(host string) bool { return isHub(hub, host) }) {
			continue
		}
		where := ""
		if hub.Place.Data != "" {
			where = ", which comes from " + hub.Place.Data + ","
		}
		message := fmt.Sprintf("the hub %s%s is not linked", hub.Name, where)
		if hub.Pattern {
			message = fmt.Sprintf("no hub like %s%s is linked", hub.Name, where)
		}
		add(hub.Place.Location, message, fixHub(hub.Name, linked))
	}
}

func fixHub(name string, linked []string) string {
	for _, host := range linked {
		if label := firstLabel(host); near(strings.ToLower(label), strings.ToLower(firstLabel(name))) {
			return "perhaps " + label + " is meant"
		}
	}
	return "link it, select it in the enrollment, or name one of: " + strings.Join(linked, ", ")
}

func firstLabel(host string) string {
	label, _, _ := strings.Cut(host, ".")
	return label
}

// isHub reports whether a name or pattern stands for a hub, as it does for rules. The hubs of an option may be only
// labels.
func isHub(h dataflow.HubName, host string) bool {
	if h.Pattern {
		return ruleset.MatchGlob(h.Name, host) || ruleset.MatchGlob(h.Name, firstLabel(host))
	}
	return dps.SameHub(h.Name, host) || strings.EqualFold(h.Name, firstLabel(host)) ||
		!strings.Contains(host, ".") && strings.EqualFold(firstLabel(h.Name), host)
}

func twinLimits(_ context.Context, s *subject, add report) {
	seen := map[string]bool{}
	for _, twin := range s.analysis.Entries["initial_twin"] {
		for _, variant := range variants(twin) {
			for _, problem := range dps.CheckInitialTwin(dps.ValueOf(variant)) {
				if text := problem.String(); !seen[text] {
					seen[text] = true
					add(locate(twin, problem.Pointer), "initial_twin"+text, "stay within what IoT Hub accepts, or leave it out")
				}
			}
		}
	}
}

// maxVariants bounds how many twins are checked.
const maxVariants = 200

// variants are the objects that the constants in v make up, without what is unknown: one with the first of all
// alternatives, and for each other alternative one that has it.
func variants(v dataflow.Value) []map[string]any {
	first, ok := constants(v).(map[string]any)
	if !ok {
		return nil
	}
	all := []map[string]any{first}
	var walk func(v dataflow.Value, replace func(any) map[string]any)
	walk = func(v dataflow.Value, replace func(any) map[string]any) {
		object, _ := constants(v).(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(v.Members)) {
			inside := func(member any) map[string]any {
				changed := maps.Clone(object)
				changed[name] = member
				return replace(changed)
			}
			for i, alternative := range v.Members[name] {
				if len(all) >= maxVariants {
					return
				}
				if member := constants(alternative); i > 0 && member != nil {
					all = append(all, inside(member))
				}
				walk(alternative, inside)
			}
		}
	}
	walk(v, func(whole any) map[string]any { return whole.(map[string]any) })
	return all
}

// constants is v as JSON, as far as it is constant; nil if it is unknown.
func constants(v dataflow.Value) any {
	switch v.Kind {
	case dataflow.Constant:
		decoded, err := ast.JSON(v.Constant)
		if err != nil {
			return nil
		}
		return decoded
	case dataflow.Object:
		out := map[string]any{}
		for name, member := range v.Members {
			if len(member) == 0 {
				continue
			}
			if inside := constants(member[0]); inside != nil {
				out[name] = inside
			}
		}
		return out
	case dataflow.List:
		out := []any{}
		for _, e := range v.Rest {
			if inside := constants(e); inside != nil {
				out = append(out, inside)
			}
		}
		return out
	}
	return nil
}

// locate finds where the part of a twin at a JSON pointer is written, or what is around it.
func locate(v dataflow.Value, pointer string) *ast.Location {
	best := v.Place.Location
	parts := dataflow.Alternatives{v}
	for step := range jsontext.Pointer(pointer).Tokens() {
		var name, member *ast.Location
		var below dataflow.Alternatives
		for _, part := range parts {
			name = cmp.Or(name, part.Names[step].Location)
			for _, inside := range part.Members[step] {
				member = cmp.Or(member, inside.Place.Location)
				below = append(below, inside)
			}
		}
		best, parts = cmp.Or(member, name, best), below
	}
	return best
}

func secrets(_ context.Context, s *subject, add report) {
	for _, entry := range []string{"payload", "initial_twin"} {
		seen := map[string]bool{}
		var walk func(in dataflow.Alternatives, name, path string, at *ast.Location)
		walk = func(in dataflow.Alternatives, name, path string, at *ast.Location) {
			for _, v := range in {
				if v.Place.Location != nil {
					at = v.Place.Location
				}
				text, isText := v.Text()
				what := secretIn(text)
				if what == "" && isSecretName(name) && (isText && text != "" || v.Kind == dataflow.Unknown) {
					what = "a secret by its name"
				}
				if what != "" && !seen[path] {
					seen[path] = true
					add(at, fmt.Sprintf("%s%s is %s", entry, path, what), "give the device a place to fetch it from, with its own identity")
				}
				if v.Kind == dataflow.Unknown {
					continue
				}
				if v.Kind == dataflow.Object {
					for _, member := range slices.Sorted(maps.Keys(v.Members)) {
						walk(v.Members[member], member, path+"."+member, at)
					}
					walk(v.Rest, name, path, at)
					continue
				}
				keys, values := v.Inside()
				for i, key := range keys {
					if member, ok := key.Text(); ok && v.IsObject() {
						walk(values[i:i+1], member, path+"."+member, at)
					} else {
						walk(values[i:i+1], name, path, at)
					}
				}
			}
		}
		walk(s.analysis.Entries[entry], "", "", nil)
	}
}

// secretWords end the names of members that contain secrets, written as words in lower case.
var secretWords = [][]string{
	{"password"}, {"passwd"}, {"pwd"}, {"passphrase"}, {"secret"}, {"token"}, {"credential"}, {"credentials"},
	{"apikey"}, {"api", "key"}, {"access", "key"}, {"accesskey"}, {"account", "key"}, {"shared", "key"},
	{"primary", "key"}, {"secondary", "key"}, {"symmetric", "key"}, {"private", "key"}, {"privatekey"},
	{"secret", "key"}, {"function", "key"}, {"master", "key"}, {"signing", "key"}, {"encryption", "key"},
	{"connection", "string"}, {"connectionstring"}, {"sas"},
}

// words splits deviceToken, device_token and DEVICE-TOKEN alike.
var words = regexp.MustCompile(`\p{Lu}*[\p{Ll}\p{Lo}]+|\p{Lu}+`)

// isSecretName goes by the last words of a name: "deviceToken" is one, "tokenLifetime" is not.
func isSecretName(name string) bool {
	found := words.FindAllString(name, -1)
	for i, word := range found {
		found[i] = strings.ToLower(word)
	}
	return slices.ContainsFunc(secretWords, func(secret []string) bool {
		return len(found) >= len(secret) && slices.Equal(found[len(found)-len(secret):], secret)
	})
}

// secretForms are what keys and tokens look like.
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

// secretIn names the kind of secret that a text looks like; empty if it is none.
func secretIn(text string) string {
	for _, secret := range secretForms {
		if secret.form.MatchString(text) {
			return secret.what
		}
	}
	return ""
}

func letterCase(_ context.Context, s *subject, add report) {
	seen := map[string]bool{}
	for _, c := range s.analysis.Cases {
		line := ruleset.PlaceOf(c.Location)
		if seen[line] {
			continue // one finding is enough to see what is wrong there
		}
		seen[line] = true
		switch {
		case c.Lookup != "":
			add(c.Location, fmt.Sprintf("look-up %s compares keys with case, and a device can write its identifier in any case", c.Lookup),
				"remove case_sensitive from its declaration, or look up registration_id_lower of data.dps if the source has keys in lower case")
		case c.Linked:
			add(c.Location, "the current hub is compared with linked hubs, and each can be written in any case and under either host name",
				"use dps.current_hub, which is undefined if the hub is not linked")
		case c.Never && c.Pattern:
			add(c.Location, fmt.Sprintf("a text in one letter case never matches %q", c.Constant), "write the pattern in that case")
		case c.Never:
			add(c.Location, fmt.Sprintf("a text in one letter case is never the same as %q", c.Constant), "write it in that case")
		case c.Pattern:
			add(c.Location, fmt.Sprintf("%q is matched with an identifier that a device can write in any case", c.Constant),
				"begin the pattern with (?i), or match registration_id_lower or enrollment_id_lower of data.dps")
		default:
			add(c.Location, fmt.Sprintf("%q is compared with an identifier that a device can write in any case", c.Constant),
				"compare registration_id_lower or enrollment_id_lower of data.dps, or use dps.same_text")
		}
	}
}

func hubByPosition(_ context.Context, s *subject, add report) {
	if slices.ContainsFunc(s.analysis.Entries["hub"], func(v dataflow.Value) bool { return v.ByPosition }) {
		first := slices.MinFunc(s.compiler.GetRulesWithPrefix(s.rule.Entry("hub")), func(a, b *ast.Rule) int { return a.Location.Compare(b.Location) })
		add(first.Location, "hub depends on a position in input.linkedHubs, whose order DPS does not guarantee",
			"use dps.spread(input.linkedHubs), or name the hub with dps.hub_named")
	}
}
