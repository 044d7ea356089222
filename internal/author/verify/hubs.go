package verify

import (
	"cmp"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
)

// Hubs that no rule names.
const (
	otherHub    = "usher-other-hub.azure-devices.net"    // sometimes linked
	unlinkedHub = "usher-unlinked-hub.azure-devices.net" // never linked
)

// anyHubs are linked if a rule names no hubs.
var anyHubs = []string{"hub-a.azure-devices.net", "hub-b.azure-devices.net"}

// some returns about half of a list, but never an empty list.
func (e *explorer) some(list []string) []string {
	var chosen []string
	for _, one := range list {
		if e.random.IntN(2) == 0 {
			chosen = append(chosen, one)
		}
	}
	if len(chosen) == 0 {
		return list
	}
	return chosen
}

// candidates returns all host names that the rule's constants may stand for, and a hub that no rule knows.
func (e *explorer) candidates() []string {
	var hosts []string
	// Texts that mean something else to DPS.
	reserved := []string{"migrate", "reset", "never", "symmetrickey", "x509", "tpm", "none", "device-0001"}
	add := func(texts []string) {
		for _, text := range texts {
			host, ok := hostOf(text)
			if ok && !slices.Contains(reserved, strings.ToLower(text)) && !slices.ContainsFunc(hosts, func(other string) bool { return dps.SameHub(other, host) }) {
				hosts = append(hosts, host)
			}
		}
	}
	add(e.options.Hubs)
	for _, place := range []string{"/linkedHubs", currentHubPlace} {
		add(texts(e.analysis.At(place), nil))
	}
	for _, text := range e.analysis.Hubs {
		add(globExamples(text))
	}
	add(e.hubsInRows())
	hosts = spread(hosts, 200)
	if len(hosts) == 0 {
		hosts = slices.Clone(anyHubs)
	}
	return append(hosts, otherHub)
}

// hubs returns the hubs that the rule deals with: those that it names or chooses, and those that the caller names.
func (e *explorer) hubs(s *space, paths *paths) []string {
	candidates := e.candidates()
	for _, hub := range paths.hubs {
		if !containsHub(candidates, hub) {
			candidates = append(candidates, hub)
		}
	}
	chosen := map[string]int{}
	for range probes {
		d := s.draft(s.random(e.random))
		d.hubs = e.some(candidates)
		d.policy = policy{}
		if e.random.IntN(2) == 0 {
			d.current = candidates[e.random.IntN(len(candidates))]
		}
		// If a device stays, that says nothing about the rule.
		if a := e.decide(d); a.assigned() && a.words != d.current {
			chosen[a.words]++
		}
	}
	compared := append(texts(e.analysis.At("/linkedHubs"), nil), texts(e.analysis.At(currentHubPlace), nil)...)
	inRows := e.hubsInRows()
	score := func(host string) int {
		isHost := func(text string) bool { named, _ := hostOf(text); return dps.SameHub(named, host) }
		score := 0
		if slices.ContainsFunc(e.options.Hubs, isHost) {
			score += 8
		}
		if host != otherHub && chosen[host] > 0 || containsHub(paths.hubs, host) {
			score += 4
		}
		if slices.ContainsFunc(e.analysis.Hubs, func(text string) bool { return dps.SameHub(text, host) }) {
			score += 3
		}
		if containsHub(inRows, host) {
			score += 3
		}
		if slices.ContainsFunc(compared, isHost) {
			score += 2
		}
		if strings.Contains(host[:strings.IndexByte(host, '.')], "hub") {
			score++
		}
		return score
	}
	hubs := slices.DeleteFunc(slices.Clone(candidates), func(host string) bool { return host == otherHub || score(host) < 2 })
	slices.SortStableFunc(hubs, func(a, b string) int {
		return cmp.Or(score(b)-score(a), strings.Compare(a, b))
	})
	keep := maxHubs
	if chosen[otherHub] > 0 && len(hubs) >= allSubsetsUpTo {
		// The rule takes whatever is linked, so it also chose constants that are not names of hubs.
		keep = max(allSubsetsUpTo-1, len(e.options.Hubs))
	}
	if len(hubs) > keep {
		s.note("%d of %d possible hubs: name yours with --hubs", keep, len(hubs))
		hubs = hubs[:keep]
	}
	for _, hub := range anyHubs {
		// A rule that takes whatever is linked needs three hubs.
		if len(hubs) < 2 || chosen[otherHub] > 0 && len(hubs) < 3 {
			hubs = addNew(hubs, hub)
		}
	}
	return hubs
}

func containsHub(list []string, hub string) bool {
	return slices.ContainsFunc(list, func(other string) bool { return dps.SameHub(other, hub) })
}

func (e *explorer) addHubs(s *space, named []string) {
	if !e.reads("/linkedHubs") {
		s.note("the rule does not read linkedHubs")
	}
	hubs := append(slices.Clone(named), otherHub)
	var sets [][]string
	add := func(set []string) {
		if len(set) > 0 && !slices.ContainsFunc(sets, func(other []string) bool { return slices.Equal(other, set) }) {
			sets = append(sets, set)
		}
	}
	add(hubs)
	if len(hubs) <= allSubsetsUpTo {
		for bits := 1; bits < 1<<len(hubs); bits++ {
			var set []string
			for i, hub := range hubs {
				if bits>>i&1 == 1 {
					set = append(set, hub)
				}
			}
			add(set)
		}
	} else {
		s.note("sets of %d hubs: each hub alone, each hub left out, and 64 random sets", len(hubs))
		for i := range hubs {
			add(slices.Delete(slices.Clone(hubs), i, i+1))
			add(hubs[i : i+1])
		}
		for range 64 {
			add(e.some(hubs))
		}
	}
	s.add(dimensionOf("sets of linked hubs", sets, func(d *draft, set []string) { d.hubs = slices.Clone(set) }, func(d *draft) []string { return d.hubs }))
}

func (e *explorer) addCurrent(s *space, named []string) {
	current := []string{"", unlinkedHub}
	if e.reads(currentHubPlace, currentIDPlace) {
		current = append(append(current, otherHub), named...)
	} else {
		current = append(current, named[0])
	}
	s.add(dimensionOf("current hubs", current, func(d *draft, hub string) { d.current = hub }, func(d *draft) string { return d.current }))
}
