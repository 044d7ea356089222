package dataflow

import (
	"slices"
	"strings"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// lookupsPointer is above the places of all rows.
const lookupsPointer = "/lookups"

// LookupPointer is the place of a look-up's rows. A rule that looks up reads it, since whether there is a row matters,
// and below it the members that it uses, or AnyMember if it uses the row as a whole.
func LookupPointer(name string) string { return lookupsPointer + pointerTo(name) }

// CutLookup takes apart a place of a look-up's rows: the name of the look-up, and what follows, such as /hub. ok is false
// for a place of the request.
func CutLookup(place string) (name, below string, ok bool) {
	rest, ok := strings.CutPrefix(place, lookupsPointer+"/")
	if !ok {
		return "", "", false
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i:], true
	}
	return rest, "", true
}

// isRow reports whether a place is that of a row as a whole.
func isRow(place string) bool {
	name, below, ok := CutLookup(place)
	return ok && name != "" && below == ""
}

// Lookup returns the name of the look-up of whose rows the source is a part.
func (s Source) Lookup() (name string, ok bool) {
	name, _, ok = CutLookup(s.Pointer)
	return name, ok
}

// row is the row that a look-up finds. The operator wrote it. But if the device wrote the key, it picked the row: whatever
// the row says is then a choice of the device, among values of the operator's.
func (f *flow) row(name string, key Alternatives) Alternatives {
	pointer := LookupPointer(name)
	f.frame.reads[pointer] = true
	row := Value{Sources: []Source{{Pointer: pointer, Location: f.anchor, made: "|" + ruleset.LookupBuiltin(name)}}}
	row.Sources = addSources(row.Sources, made(wordsIn(key), "picks")...)
	if i := slices.IndexFunc(f.lookups, func(d *lookups.Declaration) bool { return d.Name == name }); i >= 0 &&
		f.lookups[i].CaseSensitive && traitsOf(key)&anyCase != 0 && f.anchor != nil {
		f.Cases = append(f.Cases, Case{Lookup: name, Location: f.anchor})
	}
	f.use(ruleset.LookupBuiltin(name), key, Alternatives{row})
	return Alternatives{row}
}

// Picks are the device's words, among the arguments, that pick the row of a look-up and that the rule compared neither
// with what it allows nor, by way of a member of the row, with what the device is.
func (u Use) Picks() []Source {
	return slices.DeleteFunc(wordsIn(u.Args[0]), func(word Source) bool {
		return word.checked || u.factsOf(word)&allowed != 0 || slices.ContainsFunc(u.sources, func(s Source) bool {
			return s.isPick() && s.coveredBy(word.key()) && u.factsOf(s)&allowed != 0
		})
	})
}

// isPick reports whether the source is not part of a value, but selected it.
func (s Source) isPick() bool { return slices.Contains(strings.Split(s.made, "|"), "picks") }
