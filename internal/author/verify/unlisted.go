package verify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Unlisted is what a device gets if a member of its request has none of the texts that the rule compares it with, or
// has as keys of data. A rule can mean that, so it breaks no promise.
type Unlisted struct {
	Member string   `json:"member"` // such as payload/country
	Listed []string `json:"listed"`
	// Gets has one element if all such devices get the same; otherwise it depends on the rest of the request. Assigned
	// comes first.
	Gets []Got `json:"gets"`
	// Request is one of them, which gets the first of Gets.
	Request json.RawMessage `json:"request"`
}

// Assigned reports whether such a device can be assigned.
func (u Unlisted) Assigned() bool { return u.Gets[0].Result == answer.Assigned }

// Got is what some devices get.
type Got struct {
	Result answer.Result `json:"result"`
	Hubs   []string      `json:"hubs,omitempty"`   // if assigned
	Reason string        `json:"reason,omitempty"` // otherwise
	Place  string        `json:"place"`            // file:line of the definition that says so
	// Default is set if that is a default definition.
	Default bool `json:"default,omitempty"`
	// Requests is how many requests got it.
	Requests int `json:"requests"`
}

// Limits of the search for what devices with an unlisted value get.
const (
	maxMembers     = 8  // of the request
	maxSettings    = 24 // requests in which a member is varied
	maxListedTried = 6  // texts of the list that are tried in each
)

// enrollmentMember is the name of a listed member whose values the rule's METADATA bounds.
const enrollmentMember = "the enrollment's ID"

// wholly are the uses of a text as a whole. If a rule uses a member in another way, it may list parts of it.
var wholly = []string{"eq", "equal", "neq", "lookup", "internal.member_2", "internal.member_3"}

// listed is a member of the request and the texts that the rule lists for it.
type listed struct {
	name  string
	texts []string
	// set sets it. It returns false if DPS could not send that.
	set func(d *draft, text string) bool
}

// findUnlisted tries new devices with unlisted values while all hubs are linked, in the requests that were reached by
// paths. Of those it takes the requests in which a device with one of the listed values, or with none, is assigned: in
// the others something else keeps it from a hub.
func (s *search) findUnlisted(ctx context.Context) []Unlisted {
	var found []Unlisted
	defaults := s.defaults()
	for _, member := range s.listed() {
		if one, ok := s.tryUnlisted(ctx, member, defaults); ok {
			found = append(found, one)
		}
		if len(found) == maxMembers || ctx.Err() != nil {
			break
		}
	}
	slices.SortStableFunc(found, func(a, b Unlisted) int { return rank(a.Gets[0].Result) - rank(b.Gets[0].Result) })
	return found
}

func rank(r answer.Result) int {
	if r == answer.Assigned {
		return 0
	}
	return 1
}

// listed are the members of the request for which the rule lists texts on the way to its decision.
func (s *search) listed() []listed {
	analysis, err := dataflow.Analyze(s.checker.rule, "hub", "reject", "hold")
	if err != nil {
		return nil // newSearches would have returned it
	}
	var all []listed
	for _, place := range slices.Sorted(maps.Keys(analysis.Compared)) {
		name, set := s.memberAt(place)
		texts := listedIn(analysis.Compared[place])
		if set == nil || len(texts) == 0 {
			continue
		}
		if i := slices.IndexFunc(all, func(other listed) bool { return other.name == name }); i >= 0 {
			all[i].texts = addNew(all[i].texts, texts...) // of the other kind of enrollment
			continue
		}
		all = append(all, listed{name, texts, set})
	}
	return all
}

// listedIn are the texts with which a member is compared as a whole; nil if the rule also takes it apart.
func listedIn(literals []dataflow.Literal) []string {
	var texts []string
	for _, literal := range literals {
		switch text, isText := literal.Value.(string); {
		case strings.HasPrefix(literal.Use, "data."): // a function, whose own comparisons are among the literals
		case !slices.Contains(wholly, literal.Use):
			return nil
		case isText && text != "":
			texts = addNew(texts, text)
		}
	}
	slices.Sort(texts)
	return texts
}

// memberAt returns the name of the member of the request at a place of the analysis, and how to set it; nil if it is
// not a member of which a rule lists the values.
func (s *search) memberAt(place string) (name string, set func(d *draft, text string) bool) {
	serves := func(kind dps.EnrollmentKind, id string) bool {
		return s.checker.set.Serving(dps.Enrollment{Kind: kind, ID: id}) == s.checker.rule
	}
	if attribute, ok := strings.CutPrefix(place, certificatePlace+"/"); ok {
		return certificateMember(attribute)
	}
	if strings.Contains(place, "/"+dataflow.AnyMember) {
		return "", nil
	}
	if key, ok := strings.CutPrefix(place, payloadPlace+"/"); ok {
		return "payload/" + key, func(d *draft, text string) bool {
			if d.payload == nil {
				d.payload = map[string]any{}
			}
			put(d.payload, jsontext.Pointer("/"+key), text)
			return true
		}
	}
	switch place {
	case registrationPlace:
		return "registrationId", func(d *draft, text string) bool {
			d.registration = text
			return d.kind == dps.EnrollmentGroup && registrationID.MatchString(text)
		}
	case "/enrollmentGroup/enrollmentGroupId", "/individualEnrollment/registrationId":
		return enrollmentMember, func(d *draft, text string) bool {
			d.enrollment = text
			return serves(d.kind, text) && (d.kind == dps.EnrollmentGroup || registrationID.MatchString(text))
		}
	case servicePlace:
		return "usher/service", func(d *draft, text string) bool {
			d.service = text
			return dps.ValidService(text)
		}
	}
	for _, kind := range []dps.EnrollmentKind{dps.EnrollmentGroup, dps.IndividualEnrollment} {
		if below, ok := strings.CutPrefix(place, "/"+string(kind)+"/initialTwin/"); ok {
			return "the enrollment's initialTwin/" + below, func(d *draft, text string) bool {
				put(d.record, jsontext.Pointer("/initialTwin/"+below), text)
				return true
			}
		}
	}
	return "", nil
}

func certificateMember(attribute string) (name string, set func(d *draft, text string) bool) {
	change := func(set func(s *subject, text string)) func(d *draft, text string) bool {
		return func(d *draft, text string) bool {
			changed := subject{commonName: "device-0001"}
			if d.attestation.subject != nil {
				changed = *d.attestation.subject
			}
			set(&changed, text)
			enrolled := d.attestation.enrolled
			d.attestation = certified(changed)
			d.attestation.enrolled = enrolled
			return len(text) <= maxAttribute && d.attestation.certificate != ""
		}
	}
	switch strings.TrimSuffix(attribute, "/"+dataflow.AnyMember) {
	case "subject/organization":
		return "the certificate's organization", change(func(s *subject, text string) { s.organizations = []string{text} })
	case "subject/organizationalUnit":
		return "the certificate's organizationalUnit", change(func(s *subject, text string) { s.units = []string{text} })
	case "subject/commonName":
		return "the certificate's commonName", change(func(s *subject, text string) { s.commonName = text })
	case "dnsNames":
		return "the certificate's dnsNames", change(func(s *subject, text string) { s.dnsNames = []string{text} })
	}
	return "", nil
}

// unlistedTexts are texts that the list does not contain in any letter case: one that no one lists, one of the form of
// the first that is listed, and, of the names of enrollments, those that the rule serves.
func (s *search) unlistedTexts(member listed) []string {
	list := member.texts
	isListed := func(text string) bool {
		return slices.ContainsFunc(list, func(one string) bool { return strings.EqualFold(one, text) })
	}
	next := func(r rune) rune {
		switch {
		case r == 'z' || r == 'Z':
			return r - 25
		case r == '9':
			return '0'
		case 'a' <= r && r < 'z', 'A' <= r && r < 'Z', '0' <= r && r < '9':
			return r + 1
		}
		return r
	}
	texts := []string{"usher-other"}
	if member.name == enrollmentMember {
		for _, d := range s.plan.drafts {
			if !isListed(d.enrollment) {
				texts = addNew(texts, d.enrollment)
			}
		}
		return texts
	}
	if len(list) >= maxListed {
		return texts // the analysis gives some of what is listed, so a text like it may be listed, too
	}
	const turns = 26 // after which the letters are the same again
	like := list[0]
	for range turns {
		like = strings.Map(next, like)
		if !isListed(like) {
			return append(texts, like)
		}
	}
	return texts
}

// maxListed is at most the number of constants that the analysis takes from a table.
const maxListed = 300

// tried is a request with a member set to one text, and its answer.
type tried struct {
	draft *draft
	decided
}

// with returns copies of a request in which the member has each of the texts that DPS could send.
func (l listed) with(base *draft, texts []string) []*draft {
	var all []*draft
	for _, text := range texts {
		if d := base.clone(); l.set(d, text) {
			all = append(all, d)
		}
	}
	return all
}

func (s *search) try(ctx context.Context, drafts []*draft) []tried {
	var all []tried
	for _, d := range drafts {
		if a := s.checker.at(d).decide(ctx, d.body()); a.Result.IsOutcome() {
			all = append(all, tried{d, a})
		}
	}
	return all
}

func (s *search) tryUnlisted(ctx context.Context, member listed, defaults map[string]bool) (Unlisted, bool) {
	hubs := s.plan.space.draft(make([]int, len(s.plan.space.dimensions))).hubs // all of them
	others := s.unlistedTexts(member)
	var kept, rest []tried
	seen := map[[16]byte]bool{}
	matters, settings := false, 0
	for _, reached := range s.plan.drafts {
		if settings == maxSettings || ctx.Err() != nil {
			break
		}
		base := reached.clone()
		base.hubs, base.current, base.policy = slices.Clone(hubs), "", policy{}
		drafts := member.with(base, others)
		if len(drafts) == 0 || seen[drafts[0].key()] {
			continue
		}
		seen[drafts[0].key()] = true
		unlisted, listed := s.try(ctx, drafts), s.try(ctx, member.with(base, spread(member.texts, maxListedTried)))
		if len(unlisted) == 0 || len(listed) == 0 {
			continue
		}
		matters = matters || slices.ContainsFunc(listed, func(one tried) bool { return !sameWay(one, unlisted[0]) })
		if slices.ContainsFunc(slices.Concat(unlisted, listed), func(one tried) bool { return one.Result == answer.Assigned }) {
			kept = append(kept, unlisted...)
			settings++
		} else if len(rest) < maxSettings {
			rest = append(rest, unlisted...)
		}
	}
	if len(kept) == 0 {
		kept = rest
	}
	if !matters || len(kept) == 0 || ctx.Err() != nil {
		return Unlisted{}, false
	}
	return s.sum(member, kept, defaults), true
}

// sum groups what devices with an unlisted value got.
func (s *search) sum(member listed, all []tried, defaults map[string]bool) Unlisted {
	type group struct {
		Got
		smallest []byte // request
	}
	var groups []*group
	for _, one := range all {
		got := s.gotFrom(one, defaults)
		i := slices.IndexFunc(groups, func(g *group) bool {
			return g.Result == got.Result && g.Reason == got.Reason && g.Place == got.Place
		})
		if i < 0 {
			groups = append(groups, &group{got, one.body})
			continue
		}
		g := groups[i]
		g.Hubs = addNew(g.Hubs, got.Hubs...)
		g.Requests++
		if cmp.Or(len(one.body)-len(g.smallest), bytes.Compare(one.body, g.smallest)) < 0 {
			g.smallest = one.body
		}
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(rank(a.Result)-rank(b.Result), b.Requests-a.Requests, cmp.Compare(a.Result, b.Result), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Place, b.Place))
	})
	u := Unlisted{Member: member.name, Listed: member.texts, Request: indented(groups[0].smallest)}
	for _, g := range groups {
		slices.Sort(g.Hubs)
		u.Gets = append(u.Gets, g.Got)
	}
	return u
}

// sameWay reports whether the same definitions gave two requests the same answer.
func sameWay(a, b tried) bool {
	return briefOf(&a.Answer).equals(briefOf(&b.Answer)) && reflect.DeepEqual(a.Lines, b.Lines)
}

func (s *search) gotFrom(one tried, defaults map[string]bool) Got {
	got := Got{Result: one.Result, Requests: 1}
	entry := map[answer.Result]string{answer.Assigned: "hub", answer.Rejected: "reject", answer.Held: "hold"}[one.Result]
	for _, line := range one.Lines {
		if line.Entry == entry {
			got.Place = line.Place
			break
		}
	}
	got.Default = defaults[got.Place]
	got.Place = cmp.Or(got.Place, s.checker.rule.Place)
	if words := briefOf(&one.Answer).words; one.Result == answer.Assigned {
		got.Hubs = []string{words}
	} else {
		got.Reason = words
	}
	return got
}

// defaults are the places of default definitions.
func (s *search) defaults() map[string]bool {
	found := map[string]bool{}
	syntax, err := s.checker.rule.Syntax()
	if err != nil {
		return nil // newSearches would have returned it
	}
	for _, module := range syntax.Compiler.Modules {
		for _, rule := range module.Rules {
			if rule.Default {
				found[ruleset.PlaceOf(rule.Location)] = true
			}
		}
	}
	return found
}
