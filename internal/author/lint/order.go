package lint

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// eachUse calls look with the uses of functions and operators that each entry rule depends on.
func (s *subject) eachUse(look func(entry string, use dataflow.Use), names ...string) {
	for _, entry := range ruleset.EntryNames() {
		for _, use := range s.analysis.Uses[entry] {
			if slices.Contains(names, use.Name) {
				look(entry, use)
			}
		}
	}
}

// ordering are the operators that order values of any types: null, booleans, numbers, texts, and then collections.
var ordering = []string{"lt", "lte", "gt", "gte"}

func untypedOrder(_ context.Context, s *subject, add report) {
	s.eachUse(func(_ string, use dataflow.Use) {
		if _, _, isVersion := versionIn(use); isVersion {
			return // version-order, whose fix is another one
		}
		for _, source := range use.Untyped() {
			add(use.Location, fmt.Sprintf("%s can be of any type, and in Rego every text is greater than every number", source.Name()),
				"also check its type, with is_number or is_string")
			return
		}
	}, ordering...)
}

func versionOrder(_ context.Context, s *subject, add report) {
	s.eachUse(func(_ string, use dataflow.Use) {
		if text, place, found := versionIn(use); found {
			add(use.Location, fmt.Sprintf("the version %q%s is compared as a text, in which \"10.0\" comes before \"9.1\"", text, from(place)),
				"use semver.compare, with versions of three numbers such as 9.1.0")
		}
	}, ordering...)
}

var (
	version = regexp.MustCompile(`^[vV]?[0-9]+(\.[0-9]+)+([-+][0-9A-Za-z.+-]*)?$`)
	// A date such as 2026.01.31 is ordered as a text is.
	dottedDate = regexp.MustCompile(`^[0-9]{4}\.[0-9]{2}\.[0-9]{2}$`)
)

// versionIn finds a version among the constants that something is compared with.
func versionIn(use dataflow.Use) (text string, place dataflow.Place, found bool) {
	for i, arg := range use.Args {
		for _, v := range arg {
			text, ok := v.Text()
			if ok && version.MatchString(text) && !dottedDate.MatchString(text) && isUnknown(use.Args[1-i]) {
				return text, v.Place, true
			}
		}
	}
	return "", dataflow.Place{}, false
}

func isUnknown(in dataflow.Alternatives) bool {
	return slices.ContainsFunc(in, func(v dataflow.Value) bool { return v.Kind == dataflow.Unknown })
}

// from names the data that a constant comes from.
func from(place dataflow.Place) string {
	if place.Data == "" {
		return ""
	}
	return " of " + place.Data
}
