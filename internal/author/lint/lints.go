package lint

import (
	"context"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Lint is one thing that is looked for.
type Lint struct {
	// ID names it in findings and in custom.check.allow.
	ID    string
	Level Level
	// Title says what is wrong, in a line.
	Title string
	// Explanation says what comes of it and what to do instead. Lines that begin with a tab are Rego.
	Explanation string

	look func(context.Context, *subject, report) // nil for silenceLint, which is always looked for
	skip func(Options) bool                      // says that there is nothing to go by
}

// report notes a finding; a nil place stands for the rule's METADATA.
type report func(at *ast.Location, message, mend string)

// Find returns the lint with an ID.
func Find(id string) (Lint, bool) {
	all := Lints()
	i := slices.IndexFunc(all, func(lint Lint) bool { return lint.ID == id })
	if i < 0 {
		return Lint{}, false
	}
	return all[i], true
}

// Lints are all there are, errors first.
func Lints() []Lint {
	return []Lint{
		{
			ID: "payload-decides", Level: Error, look: payloadDecides,
			Title: "the device chooses its own hub or tag",
			Explanation: `The payload is whatever the device sends. Where its hub, or a tag of its twin, is
taken from there, a device can move itself to any linked hub, into another region
or into the fleet of another tenant.

Let it choose only among values that you wrote down: look its word up in data or
in an object, compare it with literals, or ask whether it is in a set.

	# found: any linked hub will do
	hub := dps.hub_named(dps.payload_string("hub"))

	# not found: one of these
	hub := dps.hub_named({"P7": "contoso-eu", "L2": "contoso-us"}[dps.payload_string("model")])

Looked at are hub and everything below tags in initial_twin, also when the word
passes through other rules, functions and comprehensions. Choosing among
input.linkedHubs by the device's word is found too. Not looked at: a table of your
own that leads from a word to another tenant. That is for a promise of your own.`,
		},
		{
			ID: "unlinked-hub", Level: Error, look: unlinkedHub,
			skip:  func(o Options) bool { return len(o.Hubs) == 0 && len(o.Enrollments) == 0 },
			Title: "a hub that the rule names is not linked",
			Explanation: `DPS takes only a hub that is linked to it, and selected in the enrollment if that
selects any. A rule that names another one finds no hub; or its answer is not sent.
Mostly such a name is misspelt, or the hub was unlinked.

It needs to know the hubs: --hubs contoso-eu,contoso-us, or the enrollments in a
file with --enrollments, or both. Looked at are names and patterns in the rule and
in its data that reach hub, dps.hub_named, dps.weighted, dps.spread or
dps.hubs_matching. A weight of 0 is not looked at: it is how a hub is drained.`,
		},
		{
			ID: "attestation-blind", Level: Error, look: attestationBlind,
			Title: "the rule says nothing about devices of some attestation type",
			Explanation: `A rule that goes by the certificate has no answer for a device that shows none: it
is put on hold for about seven minutes, and then fails without a reason that
anybody can read.

Say what becomes of them:

	reject contains "the device has no certificate" if not dps.certificate

Or set on_undecided in the METADATA. Usher makes up requests for the rule, with
values that the rule itself mentions, and asks it. It is found where some of these
get an answer with one attestation type and none of them does with another. With
--enrollments, only the attestation types of the rule's enrollments count.`,
		},
		{
			ID: "twin-limits", Level: Error, look: twinLimits,
			Title: "IoT Hub would refuse the initial twin",
			Explanation: `Tags have 8 KB and desired properties 32 KB, ten levels of objects, keys without
".", "$" and spaces, strings of 4 KB, and integers up to 4503599627370495. Beside
tags and properties.desired, an initial twin has no members. Usher sends no twin
that breaks these; the device is put on hold instead.

What the rule or its data has as a constant is held to the limits here. What comes
out of the request is known only then.`,
		},
		{
			ID: "entry-type", Level: Error, look: entryType,
			Title: "hub is no text, or twin or payload is no object",
			Explanation: `DPS takes a host name as hub. It delivers a payload only if it is an object; any
other gets lost on the way to the device. So Usher does not send such an answer,
and the device is put on hold.

	# found
	payload := "welcome"

	# not found
	payload := {"message": "welcome"}`,
		},
		{
			ID: "secret", Level: Error, look: secrets,
			Title: "a secret in what the device is told",
			Explanation: `Payload and twin can be read by everybody who may read the registration in DPS or
the twin in IoT Hub, and the rule by everybody who may read the repository. A
member is taken for a secret if its name ends in a word such as password, token or
connectionString, and a constant if it looks like a key, a token or a connection
string.

Give the device a place where it can fetch its secret with its own identity.`,
		},
		{
			ID: "misspelt-entry", Level: Error, look: misspeltEntry,
			Title: "a rule that nobody asks for, named almost like one that is",
			Explanation: `Usher asks for hub, initial_twin, payload, reject and hold. A rule named initialTwin
or rejects is passed over in silence, unless another rule uses it.`,
		},
		{
			ID: "letter-case", Level: Warning, look: letterCase,
			Title: "an identifier is compared with its letter case",
			Explanation: `DPS compares registration IDs, enrollment names and hub names without case, and
hands the registration ID over as the device wrote it. A rule that compares with
case misses devices that write themselves differently.

	# found
	hub := dps.hub_named("eu") if startswith(dps.registration_id, "press-")

	# not found
	hub := dps.hub_named("eu") if startswith(dps.registration_id_lower, "press-")

Found too is a text in lower case that is compared with one that has capitals, or
looked up in a table whose keys have some: these are never the same.`,
		},
		{
			ID: "negated-undefined", Level: Warning, look: negatedUndefined,
			Title: "a not before something that may be undefined inside",
			Explanation: `OPA computes what is inside an expression before it negates it. Where that is
undefined, the not is undefined too, and the condition does not hold. A device that
sends nothing is then neither refused nor assigned.

	# found: of a device without a region, this says nothing
	reject contains "unknown region" if not {"eu": 1, "us": 1}[dps.payload_string("region")]

	# not found
	known if {"eu": 1, "us": 1}[dps.payload_string("region")]
	reject contains "unknown region" if not known

Looked at are parts of the request that DPS need not send, and rules and functions
that need not have a value.`,
		},
		{
			ID: "hub-by-position", Level: Warning, look: hubByPosition,
			Title: "a hub is chosen by its position in linkedHubs",
			Explanation: `DPS does not say in which order it lists the linked hubs. What is first today need
not be first tomorrow, and then every device moves when it registers again.

	# found
	hub := input.linkedHubs[0]

	# not found: the same device gets the same hub
	hub := dps.spread(input.linkedHubs)`,
		},
		{
			ID: "impure", Level: Warning, look: impure,
			Title: "the answer depends on more than the request",
			Explanation: `DPS asks again after a failure, and whenever the device registers. A rule that
asks the clock, chance or the network can say something else each time, and what
it said cannot be repeated afterwards. Such a built-in is off unless a setting
allows it.

To spread devices use dps.weighted or dps.spread, to move some of them
dps.in_percentage.`,
		},
		{
			ID: "unreachable", Level: Warning, look: unreachable,
			Title: "a definition that can never count",
			Explanation: `A default, or an else, behind a definition that always holds is never used. One of
the two is not meant as it is written.`,
		},
		{
			ID: "no-such-enrollment", Level: Warning, look: noSuchEnrollment,
			skip:  func(o Options) bool { return len(o.Enrollments) == 0 },
			Title: "the METADATA names an enrollment that there is not",
			Explanation: `The rule serves nobody by this name or glob, and devices of the enrollment that was
meant go by another rule. It needs the enrollments: --enrollments FILE.`,
		},
		{
			ID: "no-tests", Level: Warning, look: noTests,
			skip:  func(o Options) bool { return o.NoTestFiles },
			Title: "the rule has no tests",
			Explanation: `No _test.rego and no exchange is about the rule's package. A rule decides about
devices that are out in the field; try it before they do.
` + "`usher new`" + ` writes a rule with its test.`,
		},
		{
			ID: "no-title", Level: Warning, look: noTitle,
			Title: "the METADATA has no title",
			Explanation: `The title says in a line what the rule is for. It is shown where a rule is named:
when the webhook starts, and when a decision is explained.`,
		},
		{
			ID: silenceLint, Level: Error,
			Title: "a silence without a reason or without effect",
			Explanation: `A finding that is right for one rule is silenced in the METADATA of its package, with
the reason:

	# METADATA
	# custom:
	#   enrollment_groups: [lab-*]
	#   check:
	#     allow:
	#       - id: payload-decides
	#         reason: in the lab, everybody may use every hub

It is an error if the reason is missing or the ID is none; the finding then stays.
It is a warning if the lint finds nothing there, so that silences do not outlive
what they were for.`,
		},
	}
}
