package verify

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// wish is a value that a part of an expression had, and one with which the expression may go the other way.
type wish struct {
	got, want any
	near      bool // want is next to what something is compared with
}

// solver finds wishes for the facts of one evaluation.
type solver struct {
	inspection *ruleset.Inspection
	known      map[string]any // values of references
	clues
	given []string // hubs that are in the request
}

// clues are what facts tell besides wishes.
type clues struct {
	hubs       []string // host names of hubs for which the rule looked, which are not in the request
	separators []string // at which it splits texts
}

// maxWishes bounds the wishes for one term, so that a table of a thousand rows leaves room for others.
const maxWishes = 8

// wishes lists what would make the expression of a fact go the other way, and values near to where it turns.
func (s *solver) wishes(f fact) []wish {
	var list []wish
	add := func(got any, wanted ...any) {
		for _, want := range spread(wanted, maxWishes) {
			if !reflect.DeepEqual(got, want) {
				list = append(list, wish{got: got, want: want})
			}
		}
	}
	s.addKeys(f, add)
	if len(f.terms) < 2 {
		return list
	}
	operator := f.terms[0].Value.String()
	operands := make([]any, len(f.terms)-1)
	for i, term := range f.terms[1:] {
		operands[i] = s.value(term)
	}
	s.noteHubs(operator, operands)
	if text, ok := formats[operator]; ok && len(operands) > 0 {
		if f.held {
			text = "xyz"
		}
		add(operands[0], text)
	}
	if len(operands) < 2 {
		if kind, ok := strings.CutPrefix(operator, "is_"); ok && len(operands) == 1 {
			add(operands[0], valuesOf(kind, !f.held)...)
		}
		return list
	}
	a, b := operands[0], operands[1]
	if separator, ok := b.(string); ok && operator == "split" {
		s.separators = addNew(s.separators, separator)
	}
	both := func(of func(than any) []any) {
		add(a, of(b)...)
		add(b, of(a)...)
	}
	switch operator {
	case "eq", "neq", "equal":
		if (operator == "neq") == f.held {
			both(func(than any) []any { return []any{than} })
		} else {
			both(others)
		}
	case "lt", "lte", "gt", "gte", "semver.compare":
		both(near)
		for i := range list {
			list[i].near = true
		}
	case "startswith", "endswith", "contains", "strings.any_prefix_match", "strings.any_suffix_match":
		for _, part := range textsIn(b) {
			add(a, around(operator, part, f.held)...)
		}
		if operator == "startswith" { // the rule's text may start with the device's
			for _, text := range textsIn(a) {
				add(b, text)
			}
		}
	case "regex.match":
		if pattern, ok := a.(string); ok {
			add(b, aroundMatches(pattern)...)
		}
	case "net.cidr_contains":
		if network, ok := a.(string); ok {
			address, _, _ := strings.Cut(network, "/")
			add(b, address, "198.51.100.7") // one of those that are reserved for documentation
		}
	case "glob.match":
		if pattern, ok := a.(string); ok && len(operands) > 2 {
			for _, example := range globExamples(pattern) {
				add(operands[2], example, example+"x")
			}
		}
	case "internal.member_2", "internal.member_3":
		member, in := operands[len(operands)-2], operands[len(operands)-1]
		if f.held {
			add(member, others(member)...)
		} else {
			add(member, elementsOf(in)...)
			add(in, []any{member})
			for _, element := range spread(elementsOf(in), maxWishes) {
				add(element, member)
			}
		}
	}
	return list
}

// formats are texts that functions accept which fail for others.
var formats = map[string]string{
	"base64.decode": "dXNoZXI=", "base64.is_valid": "dXNoZXI=", "base64url.decode": "dXNoZXI", "hex.decode": "0123ab",
	"json.is_valid": "{}", "json.unmarshal": "{}", "net.cidr_is_valid": "10.0.0.0/8", "semver.is_valid": "1.0.0",
	"time.parse_rfc3339_ns": "2024-02-29T12:34:56Z", "time.parse_duration_ns": "1h", "to_number": "7",
	"units.parse": "1K", "units.parse_bytes": "1KB", "uuid.parse": "00112233-4455-6677-8899-aabbccddeeff",
}

// addKeys adds the names of members for each reference into data, a rule or a value by a name that came from elsewhere.
func (s *solver) addKeys(f fact, add func(got any, wanted ...any)) {
	visit := func(written, plugged *ast.Term) {
		ref, ok := written.Value.(ast.Ref)
		values, same := plugged.Value.(ast.Ref)
		if !ok || !same || len(ref) != len(values) || ref.HasPrefix(ast.InputRootRef) {
			return
		}
		for i, key := range ref {
			if i == 0 || ast.IsConstant(key.Value) || !ast.IsConstant(values[i].Value) {
				continue
			}
			var keys []any
			switch table := s.table(values[:i]).(type) {
			case map[string]any:
				for name := range table {
					keys = append(keys, name)
				}
				slices.SortFunc(keys, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
			case []any: // a set, or the elements of an array by number
				keys = slices.Clone(table)
			}
			got := s.value(values[i])
			if f.held {
				add(got, others(got)...)
			}
			add(got, keys...)
		}
	}
	switch terms := f.expr.Terms.(type) {
	case *ast.Term:
		visit(terms, f.terms[0])
	case []*ast.Term:
		for i, term := range terms {
			visit(term, f.terms[i])
		}
	}
}

// table is what a reference stands for, whose head may be a value.
func (s *solver) table(ref ast.Ref) any {
	if ref.HasPrefix(ast.DefaultRootRef) {
		return s.value(ast.NewTerm(ref))
	}
	found, err := ref[0].Value.Find(ref[1:])
	if err != nil || !found.IsGround() {
		return nil
	}
	value, _ := ast.JSON(found)
	return value
}

// noteHubs notes by which names Usher's functions look for hubs.
func (s *solver) noteHubs(operator string, operands []any) {
	var names []any
	switch operator {
	case "usher.hub_name", "usher.matching":
		names = operands[:1]
	case "usher.choose":
		names = elementsOf(operands[1])
		if weights, ok := operands[1].(map[string]any); ok {
			for name := range weights {
				names = append(names, name)
			}
		}
	}
	for _, name := range names {
		if text, ok := name.(string); ok {
			for _, example := range globExamples(text) {
				if host, ok := hostOf(example); ok && !containsHub(s.hubs, host) && !containsHub(s.given, host) {
					s.hubs = append(s.hubs, host)
				}
			}
		}
	}
	slices.Sort(s.hubs)
}

// value is what a term stands for, with the types of a request; nil if that is unknown or undefined.
func (s *solver) value(t *ast.Term) any {
	ref, ok := t.Value.(ast.Ref)
	if !ok {
		if !t.IsGround() {
			return nil
		}
		value, _ := ast.JSON(t.Value)
		return value
	}
	if !ref.IsGround() {
		return nil
	}
	key := ref.String()
	if known, ok := s.known[key]; ok {
		return known
	}
	value, err := s.inspection.Value(key, ref)
	if err != nil {
		s.inspection.Reset()
	}
	s.known[key] = value
	return value
}

func textsIn(value any) []string {
	var list []string
	for _, one := range append(elementsOf(value), value) {
		if text, ok := one.(string); ok {
			list = append(list, text)
		}
	}
	return list
}

func elementsOf(value any) []any {
	switch v := value.(type) {
	case []any:
		return slices.Clone(v)
	case map[string]any:
		var list []any
		for _, name := range slices.Sorted(maps.Keys(v)) {
			list = append(list, v[name])
		}
		return list
	}
	return nil
}

// others are values that differ from a value.
func others(value any) []any {
	switch v := value.(type) {
	case bool:
		return []any{!v}
	case json.Number:
		return near(v)
	case string:
		if strings.HasPrefix(v, otherText) {
			return []any{v[:len(otherText)-1]}
		}
		return []any{otherText, v + "1"}
	}
	return nil
}

// otherText is a text that no rule expects.
const otherText = "usher-other"

// valuesOf returns values that have a type, or that do not have it.
func valuesOf(kind string, have bool) []any {
	typical := map[string]any{"string": "usher-text", "number": json.Number("7"), "boolean": true,
		"object": map[string]any{"usher": "text"}, "array": []any{"usher-text"}, "null": nil}
	var list []any
	for _, name := range []string{"string", "number", "boolean", "object", "array", "null"} {
		if (name == kind) == have {
			list = append(list, typical[name])
		}
	}
	return list
}

// around returns texts that have a part where a function looks for it, and texts that nearly do.
func around(operator, part string, held bool) []any {
	if held {
		return []any{otherText, part[:max(len(part)-1, 0)] + "~"}
	}
	switch operator {
	case "startswith", "strings.any_prefix_match":
		return []any{part + "1", part, part + otherText}
	case "endswith", "strings.any_suffix_match":
		return []any{"a" + part, part, otherText + part, "usher.other" + part}
	default:
		return []any{"a" + part + "1", part}
	}
}

// aroundMatches returns texts that match a regular expression, and texts that contain such a match.
func aroundMatches(pattern string) []any {
	var list []any
	for _, match := range matchesOf(pattern) {
		for _, text := range []string{match, "usher-" + match, match + "-usher"} {
			if !slices.Contains(list, any(text)) {
				list = append(list, text)
			}
		}
	}
	return append(list, otherText)
}

// near returns a number or a text and its neighbours in Rego's order.
func near(value any) []any {
	switch v := value.(type) {
	case json.Number:
		return numbersAround(v)
	case string:
		return textsAround(v)
	}
	return nil
}

// numbersAround returns a number, its neighbours, and what lies between.
func numbersAround(number json.Number) []any {
	exact, ok := rational(number)
	if !ok {
		return []any{number}
	}
	var list []any
	for _, step := range []*big.Rat{new(big.Rat), big.NewRat(-1, 1), big.NewRat(1, 1), big.NewRat(-1, 2), big.NewRat(1, 2)} {
		list = append(list, numberOf(new(big.Rat).Add(exact, step)))
	}
	return list
}

var digits = regexp.MustCompile(`[0-9]+`)

// textsAround returns a text, and texts that are close to it for a person or for Rego, which are not the same: "9.1"
// and "10.0", "05000" between "0100" and "0999".
func textsAround(text string) []any {
	list := []string{text, text + "0"}
	if text != "" {
		list = append(list, text[:len(text)-1], text[:1]+"5")
	}
	for _, run := range digits.FindAllStringIndex(text, 2) {
		number, err := strconv.Atoi(text[run[0]:run[1]])
		if err != nil {
			continue
		}
		for _, other := range []int{number - 1, number + 1} {
			if other >= 0 {
				changed := fmt.Sprintf("%s%0*d%s", text[:run[0]], run[1]-run[0], other, text[run[1]:])
				list = append(list, changed, changed+"0")
			}
		}
		list = append(list, text[:run[0]]+"0"+text[run[0]:])
	}
	var unique []any
	for _, one := range list {
		if !slices.Contains(unique, any(one)) {
			unique = append(unique, one)
		}
	}
	return unique
}

// inverses lists what a leaf must be so that what a rule made of it is as wanted. It recognizes the leaf in what the
// rule made of it: as it is, in another letter case, a part of it, a text around it, a number in it, its length, or a
// date as nanoseconds, the number of its parts.
func inverses(leaf any, w wish, c clues) []any {
	if reflect.DeepEqual(leaf, w.got) {
		return []any{w.want}
	}
	switch v := leaf.(type) {
	case string:
		return textInverses(v, w, c)
	case json.Number:
		if same(v, w.got) {
			return []any{w.want}
		}
	case []any:
		if n, ok := lengthWanted(len(v), w); ok {
			longer := slices.Clone(v)
			for len(longer) < n {
				var one any = fmt.Sprint("usher-", len(longer))
				if len(v) > 0 && len(textsIn(v)) != len(v) {
					one = clone(v[len(v)-1])
				}
				longer = append(longer, one)
			}
			return []any{longer[:n]}
		}
	}
	return nil
}

func textInverses(text string, w wish, c clues) []any {
	switch got := w.got.(type) {
	case string:
		want, ok := w.want.(string)
		if !ok || got == "" || text == "" {
			return nil
		}
		if strings.EqualFold(text, got) {
			return []any{want}
		}
		low, lowGot := strings.ToLower(text), strings.ToLower(got)
		if len(low) != len(text) || len(lowGot) != len(got) {
			return nil
		}
		if first := strings.Index(low, lowGot); first >= 0 {
			list := []any{text[:first] + want + text[first+len(got):]}
			if last := strings.LastIndex(low, lowGot); last != first {
				list = append(list, text[:last]+want+text[last+len(got):])
			}
			return list
		}
		if at := strings.Index(lowGot, low); at >= 0 {
			inner, starts := strings.CutPrefix(want, got[:at])
			inner, ends := strings.CutSuffix(inner, got[at+len(text):])
			if starts && ends {
				return []any{inner}
			}
		}
	case json.Number:
		return append(textsForNumber(text, got, w), textsOfParts(text, w, c)...)
	}
	return nil
}

func textsForNumber(text string, got json.Number, w wish) []any {
	var list []any
	if want, ok := w.want.(json.Number); ok {
		if date, err := time.Parse(time.RFC3339, text); err == nil && same(got, json.Number(strconv.FormatInt(date.UnixNano(), 10))) {
			if nanoseconds, err := want.Int64(); err == nil {
				list = append(list, time.Unix(0, nanoseconds).UTC().Format(time.RFC3339))
			}
		}
		for _, run := range digits.FindAllStringIndex(text, -1) {
			if same(json.Number(strings.TrimLeft(text[run[0]:run[1]-1], "0")+text[run[1]-1:run[1]]), got) {
				if number, err := want.Int64(); err == nil && number >= 0 {
					list = append(list, fmt.Sprintf("%s%0*d%s", text[:run[0]], run[1]-run[0], number, text[run[1]:]))
				} else {
					list = append(list, text[:run[0]]+string(want)+text[run[1]:])
				}
			}
		}
	}
	if n, ok := lengthWanted(len(text), w); ok {
		list = append(list, (text + strings.Repeat("x", n))[:n])
	}
	return list
}

// textsOfParts returns a text of as many parts as are wanted, if a rule counts the parts of the text.
func textsOfParts(text string, w wish, c clues) []any {
	var list []any
	for _, separator := range c.separators {
		if separator == "" {
			continue
		}
		parts := strings.Split(text, separator)
		if n, ok := lengthWanted(len(parts), w); ok && n > 0 {
			for len(parts) < n {
				parts = append(parts, fmt.Sprint(len(parts)))
			}
			list = append(list, strings.Join(parts[:n], separator))
		}
	}
	return list
}

// lengthWanted reports whether a rule took the length of something, and which length is wanted.
func lengthWanted(length int, w wish) (int, bool) {
	const most = 300
	got, isNumber := w.got.(json.Number)
	want, wantsNumber := w.want.(json.Number)
	if !isNumber || !wantsNumber || !same(got, json.Number(strconv.Itoa(length))) {
		return 0, false
	}
	n, err := strconv.Atoi(string(want))
	return n, err == nil && n >= 0 && n <= most
}

// same reports whether two numbers are equal.
func same(a json.Number, b any) bool {
	other, ok := b.(json.Number)
	return ok && ast.Number(a).Compare(ast.Number(other)) == 0
}

// rational returns a number to calculate with, unless its exponent could make it huge.
func rational(number json.Number) (*big.Rat, bool) {
	if len(number) > 40 || strings.ContainsAny(string(number), "eE") {
		return nil, false
	}
	return new(big.Rat).SetString(string(number))
}
