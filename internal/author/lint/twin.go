package lint

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
)

func unboundedTwin(_ context.Context, s *subject, add report) {
	for _, word := range dataflow.Unbounded(s.analysis.Entries["initial_twin"]) {
		add(word.Location, fmt.Sprintf("%s can make the initial twin one that IoT Hub refuses, because nothing bounds its size", word.Name()),
			"check its type and bound it, as in is_string(x) and count(x) <= 64, or look it up")
	}
}

// replacedTwin compares the initial twins of enrollments with what the rule has in their place.
func replacedTwin(_ context.Context, s *subject, add report) {
	twins := s.analysis.Entries["initial_twin"]
	only, err := dataflow.Analyze(s.rule, "initial_twin")
	if err != nil || len(twins) == 0 {
		return
	}
	for _, e := range s.served() {
		record := "/enrollmentGroup"
		if e.Kind == dps.IndividualEnrollment {
			record = "/individualEnrollment"
		}
		if only.ReadsAt(record + "/initialTwin") {
			continue
		}
		for _, path := range pathsIn(e.InitialTwin) {
			if !slices.ContainsFunc(twins, func(v dataflow.Value) bool { return mayHave(v, path...) }) {
				add(twins[0].Place.Location, fmt.Sprintf("the initial twin of %s has %s, which the rule's replaces", e.ID, strings.Join(path, ".")),
					"use dps.merge_twin, which puts the rule's twin on top of the enrollment's")
				break
			}
		}
	}
}

// pathsIn lists the tags and the desired properties of a twin, by their paths.
func pathsIn(twin map[string]any) [][]string {
	var paths [][]string
	tags, _ := twin["tags"].(map[string]any)
	properties, _ := twin["properties"].(map[string]any)
	desired, _ := properties["desired"].(map[string]any)
	for _, part := range []struct {
		path []string
		of   map[string]any
	}{{[]string{"tags"}, tags}, {[]string{"properties", "desired"}, desired}} {
		for _, name := range slices.Sorted(maps.Keys(part.of)) {
			switch name {
			case "$version", "$metadata", "additional_properties": // tools put them there; see merge_twin
			default:
				paths = append(paths, append(slices.Clone(part.path), name))
			}
		}
	}
	return paths
}

// mayHave reports whether a value may have a member at a path.
func mayHave(v dataflow.Value, path ...string) bool {
	if len(path) == 0 || v.Kind == dataflow.Unknown {
		return true
	}
	if !v.IsObject() {
		return false
	}
	for _, m := range members(v) {
		if (m.name == "" || m.name == path[0]) && slices.ContainsFunc(m.is, func(v dataflow.Value) bool { return mayHave(v, path[1:]...) }) {
			return true
		}
	}
	return false
}

// member is one of an object: its name, empty if that is not known, and what it may be.
type member struct {
	name string
	is   dataflow.Alternatives
}

func members(of dataflow.Value) []member {
	var all []member
	if of.Kind == dataflow.Object {
		for _, name := range slices.Sorted(maps.Keys(of.Members)) {
			all = append(all, member{name, of.Members[name]})
		}
		return append(all, member{is: of.Rest})
	}
	keys, values := of.Inside()
	for i, key := range keys {
		name, _ := key.Text()
		all = append(all, member{name, values[i : i+1]})
	}
	return all
}
