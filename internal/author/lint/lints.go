package lint

import (
	"context"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Lint looks for one kind of mistake.
type Lint struct {
	// ID names it in findings and in custom.check.allow.
	ID    string
	Level Level
	// Title names the mistake in one line.
	Title string
	// Explanation describes the consequences and the fix. Lines that begin with a tab are Rego.
	Explanation string

	look func(context.Context, *subject, report) // nil for unserved and silence, which are not about one rule
	skip func(Options) bool                      // reports that information is missing
}

// Unserved is the ID of the lint that is about no rule.
const Unserved = "unserved"

// report adds a finding; a nil place stands for the rule's METADATA.
type report func(at *ast.Location, message, fix string)

// Find returns the lint with this ID.
func Find(id string) (Lint, bool) {
	all := Lints()
	i := slices.IndexFunc(all, func(lint Lint) bool { return lint.ID == id })
	if i < 0 {
		return Lint{}, false
	}
	return all[i], true
}

// Lints returns all lints, errors first.
func Lints() []Lint {
	return []Lint{
		{
			ID: "payload-decides", Level: Error, look: payloadDecides,
			Title: "the device chooses its own hub or tag",
			Explanation: `A device can send any payload. If its hub, or a tag of its twin, comes from there,
the device can move itself to any linked hub, into another region or into the fleet
of another tenant.

Let it choose only among values that you wrote down: look its value up in data or
in an object, compare it with literals, or check that it is in a set.

	# found: the device can name any linked hub
	hub := dps.hub_named(dps.payload_string("hub"))

	# not found: one of these
	hub := dps.hub_named({"P7": "contoso-eu", "L2": "contoso-us"}[dps.payload_string("model")])

A regular expression is such a check if it is anchored and only a few texts match it,
as in "^(eu|us)$".

This lint checks hub and everything below tags in initial_twin, also if the value
passes through other rules, functions and comprehensions. It also finds a choice
among input.linkedHubs by the device's value: by name, by position, in a table of all
linked hubs, or with the value as the key of usher.choose. It does not check your own
table that leads from a value to another tenant; write an invariant for that.

A key that the device writes picks the row of a look-up, so it is found if the row
decides hub, reject, hold or a tag:

	# found: the device can name the serial number of another
	hub := dps.hub_named(lookup.device(dps.payload_string("serial")).hub)

	# not found: the row is that of the device
	hub := dps.hub_named(row.hub) if {
		row := lookup.device(dps.payload_string("serial"))
		row.registration_id == dps.registration_id_lower
	}`,
		},
		{
			ID: "unlinked-hub", Level: Error, look: unlinkedHub,
			skip:  func(o Options) bool { return len(o.Hubs) == 0 && len(o.Enrollments) == 0 },
			Title: "a hub that the rule names is not linked",
			Explanation: `DPS accepts only a hub that is linked to it, and selected in the enrollment if the
enrollment selects any. A rule that names another hub finds none, or its answer is
not sent. Usually the name is misspelt, or the hub was unlinked.

This lint needs to know the hubs: --hubs contoso-eu,contoso-us, or the enrollments
in a file with --enrollments, or both. It checks names and patterns in the rule and
its data that reach hub, dps.hub_named, dps.weighted, dps.spread or
dps.hubs_matching. It ignores a weight of 0, which drains a hub.`,
		},
		{
			ID: "attestation-blind", Level: Error, look: attestationBlind,
			Title: "the rule does not decide about devices of some attestation type",
			Explanation: `A rule that decides by the certificate has no answer for a device without one: the
device is put on hold for about seven minutes, and then its registration fails
without a reason that anyone can read.

Decide about these devices:

	reject contains "the device has no certificate" if not dps.certificate

Or set on_undecided in the METADATA. Usher makes requests with values from the rule
and evaluates it. This is a finding if some of these requests get an answer with one
attestation type, and none does with another. With --enrollments, only the
attestation types of the rule's enrollments count.`,
		},
		{
			ID: "twin-limits", Level: Error, look: twinLimits,
			Title: "IoT Hub would refuse the initial twin",
			Explanation: `IoT Hub allows 8 KB of tags and 32 KB of desired properties, ten levels of objects,
keys without ".", "$" and spaces, strings of 4 KB, and integers up to
4503599627370495. An initial twin has no members except tags and
properties.desired. Usher does not send a twin that breaks these limits; it puts the
device on hold instead.

This lint checks the constants of the rule and its data. Values from the request are
checked when it arrives.`,
		},
		{
			ID: "entry-type", Level: Error, look: entryType,
			Title: "an entry rule has a value of the wrong type",
			Explanation: `DPS accepts a host name as hub, and delivers a payload only if it is an object; any
other payload does not reach the device. Usher does not send such an answer; it puts
the device on hold instead.

	# found
	payload := "welcome"

	# not found
	payload := {"message": "welcome"}

The reasons in reject and hold are texts; those in hold may also be objects with
reason, status (429 or 503) and retry_after (seconds, at most 3600). Usher ignores
other members and values. true rejects or holds a device without a reason.

	# found
	reject if dps.registration_id == "x"

	# not found
	reject contains "x is gone" if dps.registration_id == "x"`,
		},
		{
			ID: "secret", Level: Error, look: secrets,
			Title: "a secret in twin or payload",
			Explanation: `Everyone who may read the registration in DPS or the twin in IoT Hub can read them,
and everyone who may read the repository can read the rule. A member counts as a
secret if its name ends in a word such as password, token or connectionString; a
constant does if it looks like a key, a token or a connection string.

Let the device fetch its secret with its own identity, from a secret store.`,
		},
		{
			ID: "misspelt-entry", Level: Error, look: misspeltEntry,
			Title: "a rule that is not an entry rule, but named almost like one",
			Explanation: `Usher evaluates hub, initial_twin, payload, reject and hold. A rule named
initialTwin or rejects is silently ignored, unless another rule uses it.`,
		},
		{
			ID: "hub-label", Level: Error, look: hubLabel,
			Title: "a hub's first label is compared with a host name",
			Explanation: `input.linkedHubs, dps.linked_hubs and dps.current_hub are host names, such as
contoso-eu.azure-devices.net. They are never equal to a first label such as
contoso-eu, so the condition never holds; negated, it always holds.

	# found
	payload := {"region": "eu"} if dps.current_hub == "contoso-eu"

	# not found
	payload := {"region": "eu"} if dps.current_hub == dps.hub_named("contoso-eu")`,
		},
		{
			ID: "misspelt-column", Level: Error, look: undeclaredColumns(true),
			skip:  func(o Options) bool { return o.NoTestFiles },
			Title: "a fixture has a column that is named almost like a declared one",
			Explanation: `A column of a table that is not declared is left out of a row. If it should have been
an optional member, no row has that member: with the column blockd for the declared
blocked, each device passes that is blocked.

Correct the name in the table or in lookups.yaml. If both are meant, declare both.
usher lookup build finds the same in the table of a look-up's source, and the webhook
logs it when a snapshot arrives.`,
		},
		{
			ID: "member-of-object", Level: Error, look: memberOfObject,
			Title: "in looks for a key among the values of an object",
			Explanation: `x in table compares x with the values of an object, not with its keys. If the values
are objects, or of another type than x, it never holds.

	# found
	models := {"P7": {"hub": "contoso-eu"}, "L2": {"hub": "contoso-us"}}
	reject contains "unknown model" if not dps.payload.model in models

	# not found
	models := {"P7": {"hub": "contoso-eu"}, "L2": {"hub": "contoso-us"}}
	reject contains "unknown model" if not dps.payload.model in object.keys(models)`,
		},
		{
			ID: "weights", Level: Error, look: weights,
			Title: "weights by which no hub can be chosen",
			Explanation: `dps.weighted fails if a weight is negative or not a number, and is undefined if all
weights are 0. The rule then says nothing about any device. A weight of 0 next to
others is right: it drains the hub.

	# found
	hub := dps.weighted({"contoso-eu": 1, "contoso-us": -1})

	# not found: contoso-us gets no devices
	hub := dps.weighted({"contoso-eu": 1, "contoso-us": 0})`,
		},
		{
			ID: "reasons-object", Level: Error, look: reasonsObject,
			Title: "reject or hold is an object",
			Explanation: `reject and hold are sets of reasons. In Rego, {} is an empty object, not an empty set.
Usher takes an object for a reason, even an empty one, so it refuses or holds every
device for which the rule is defined.

	# found: refuses every device
	reject := {}

	# not found
	reject contains "not a press" if not startswith(dps.registration_id_lower, "press-")`,
		},
		{
			ID: "same-for-all", Level: Error, look: sameForAll,
			Title: "a percentage or a choice goes by what all devices share",
			Explanation: `All devices of an enrollment group have the same enrollment ID. A percentage of it is
all of them or none, and a choice by weight sends all of them to one hub.

	# found
	hub := dps.hub_named("contoso-v2") if usher.fraction(dps.enrollment_id) < 0.1

	# not found
	hub := dps.hub_named("contoso-v2") if dps.in_percentage("v2", 10)`,
		},
		{
			ID: Unserved, Level: Error,
			skip:  func(o Options) bool { return len(o.Enrollments) == 0 },
			Title: "no rule serves an enrollment that calls the webhook",
			Explanation: `Its devices are held: DPS calls again for about seven minutes, and then the
registration fails. Usually the name in the METADATA is misspelt, or a new enrollment
has no rule yet. The rule allocation["default"] serves all enrollments that no other
rule names. This lint needs the enrollments: --enrollments FILE. It leaves out those
whose allocation policy in the file is not custom.`,
		},
		{
			ID: "letter-case", Level: Warning, look: letterCase,
			Title: "an identifier is compared with its letter case",
			Explanation: `DPS compares registration IDs, enrollment names and hub names without case, and
passes the registration ID on as the device wrote it. A rule that compares with case
misses devices that spell their ID differently.

	# found
	hub := dps.hub_named("eu") if startswith(dps.registration_id, "press-")

	# not found
	hub := dps.hub_named("eu") if startswith(dps.registration_id_lower, "press-")

The same is true of parts of an identifier, of tables and sets in which one is looked
up, and of regular expressions without (?i). The current hub and the linked hubs can
differ in case as well; dps.current_hub compares them as DPS does.

This lint also finds a text in lower case that is compared with a text that has
capitals, or looked up in a table whose keys have some: they are never equal. And it
finds an identifier that is the key of a look-up with case_sensitive: true.`,
		},
		{
			ID: "negated-undefined", Level: Warning, look: negatedUndefined,
			Title: "a not whose operand may be undefined",
			Explanation: `OPA evaluates the parts of an expression before it negates it. If one of them is
undefined, so is the not, and the condition does not hold. A device that sends
nothing is then neither refused nor assigned.

	# found: undefined for a device without a region
	reject contains "unknown region" if not {"eu": 1, "us": 1}[dps.payload_string("region")]

	# not found
	known if {"eu": 1, "us": 1}[dps.payload_string("region")]
	reject contains "unknown region" if not known

This lint considers parts of the request that DPS may leave out, and rules and
functions that may be undefined. It reports nothing if the body demands the operand
anyway, or if another definition is "not" the operand alone.`,
		},
		{
			ID: "hub-by-position", Level: Warning, look: hubByPosition,
			Title: "a hub is chosen by its position in linkedHubs",
			Explanation: `DPS does not document the order of the linked hubs. If another hub comes first
tomorrow, every device moves when it registers again.

	# found
	hub := input.linkedHubs[0]

	# not found: the same device gets the same hub
	hub := dps.spread(input.linkedHubs)

The last hub, a slice, the first hub that meets a condition, and a position that the
rule computes or compares depend on the order, too. A list that is sorted does not.`,
		},
		{
			ID: "untyped-order", Level: Warning, look: untypedOrder,
			Title: "a value of any type is compared by order",
			Explanation: `Rego orders values of all types: null, booleans, numbers, texts, and then arrays,
objects and sets. A device that sends the text "4" or an empty array passes >= 5.

	# found
	hub := dps.hub_named("contoso-v2") if dps.payload.firmware >= 5

	# not found
	hub := dps.hub_named("contoso-v2") if {
		is_number(dps.payload.firmware)
		dps.payload.firmware >= 5
	}

This lint considers the device's payload and the contents of twins; the schema of the
request fixes all other types. A type is known from is_number or is_string, from a
comparison for equality, from both bounds of a range, or from a function that accepts
or returns only one type. The condition can also be in a function, in a rule that must
hold, or in reject or hold, which come first.`,
		},
		{
			ID: "version-order", Level: Warning, look: versionOrder,
			Title: "versions are compared as texts",
			Explanation: `As a text, "10.0" comes before "9.1".

	# found
	hub := dps.hub_named("contoso-v2") if dps.payload_string("firmware") >= "9.1.0"

	# not found
	hub := dps.hub_named("contoso-v2") if semver.compare(dps.payload_string("firmware"), "9.1.0") >= 0

semver.compare needs versions of three numbers, without a v in front. It is undefined
for any other text; use semver.is_valid to reject such a device.`,
		},
		{
			ID: "sprintf-verbs", Level: Warning, look: sprintfVerbs,
			Title: "the verbs of sprintf do not suit its arguments",
			Explanation: `The text then contains what Go prints for such a mistake: %!d(string=Ulm), or
%!s(MISSING). It reaches the device, the log or the name of a hub.

	# found
	payload := {"welcome": sprintf("%s of %s", [dps.registration_id])}

	# not found
	payload := {"welcome": sprintf("%s of %s", [dps.registration_id, dps.enrollment_id])}`,
		},
		{
			ID: "open-pattern", Level: Warning, look: openPattern,
			Title: "a regular expression without anchors admits a device",
			Explanation: `regex.match looks for the pattern anywhere in the text. Without ^ and $, it also
admits a device with a longer text.

	# found: evil-press-1 is a press
	reject contains "not a press" if not regex.match("press-[0-9]+", dps.registration_id_lower)

	# not found
	reject contains "not a press" if not regex.match("^press-[0-9]+$", dps.registration_id_lower)

If anything may come before or after, say so with .* at that end. This lint ignores
patterns by which reject or hold refuses devices: without anchors, they refuse more.`,
		},
		{
			ID: "empty-every", Level: Warning, look: emptyEvery,
			Title: "every holds for a list that the device leaves empty",
			Explanation: `every holds if there is no element that could fail, so it admits a device that sends
an empty list. The same applies to lists in a certificate.

	# found
	hub := dps.hub_named("contoso-eu") if {
		every sensor in dps.payload.sensors { sensor.ok == true }
	}

	# not found
	hub := dps.hub_named("contoso-eu") if {
		count(dps.payload.sensors) > 0
		every sensor in dps.payload.sensors { sensor.ok == true }
	}`,
		},
		{
			ID: "unbounded-twin", Level: Warning, look: unboundedTwin,
			Title: "a value of the device reaches the initial twin at any size",
			Explanation: `IoT Hub accepts strings of 4 KB and integers up to 4503599627370495, and no objects
that are too deep or have names with "." or "$". Usher does not send a twin that
breaks these limits: a device that sends such a value is put on hold at each
registration, until it sends another.

	# found
	initial_twin := {"properties": {"desired": {"site": dps.payload_string("site")}}}

	# not found
	initial_twin := {"properties": {"desired": {"site": site}}} if {
		site := dps.payload_string("site")
		count(site) <= 64
	}

Other bounds: both ends of a range for a number, is_boolean, a set or a table of the
values that you allow, and an anchored pattern without * and +.`,
		},
		{
			ID: "replaced-twin", Level: Warning, look: replacedTwin,
			skip:  func(o Options) bool { return len(o.Enrollments) == 0 },
			Title: "the enrollment's initial twin is lost",
			Explanation: `DPS replaces the initial twin of the enrollment by the rule's; it does not merge them.
This is a finding if the enrollment's twin has a tag or a desired property that the
rule's twin lacks, and initial_twin does not read the enrollment's. dps.merge_twin puts
the rule's twin on top of it. This lint needs the enrollments: --enrollments FILE.`,
		},
		{
			ID: "unread-data", Level: Warning, look: unreadData,
			skip:  func(o Options) bool { return o.NoTestFiles },
			Title: "a data file that nothing reads",
			Explanation: `No rule, test or invariant refers to the data of a file in the rule's folder. Perhaps
the reference has another name than the folder, or the file is left over from an
earlier rule. Whoever changes it then changes nothing.`,
		},
		{
			ID: "lookup-loop", Level: Warning, look: lookupLoop,
			Title: "a look-up is asked for each element of a list",
			Explanation: `Each element is a request to the source, within the time limit of one decision. A
device that sends a long list, or data that grows, then exceeds it.

	# found
	reject contains "a part is recalled" if {
		some part in dps.payload.parts
		lookup.device(part)
	}

	# not found
	reject contains "the device is recalled" if lookup.device(dps.registration_id)

Look-ups within a function count if the function is called for each element. Literals
do not count, and neither does lookup.hub, whose rows are in memory.`,
		},
		{
			ID: "optional-member", Level: Warning, look: optionalMember,
			Title: "an answer or a not lacks a value if a row lacks a member",
			Explanation: `A member that lookups.yaml does not require, or that may be null, makes what uses it
undefined. Without it, the device gets no hub, or no twin or payload at all; and a not
whose operand is undefined does not hold.

	# found: a row may lack model
	initial_twin := {"tags": {"model": lookup.device(dps.registration_id).model}}

	# not found
	initial_twin := {"tags": {"model": object.get(lookup.device(dps.registration_id), "model", "unknown")}}

Require the member, give it a default, or write a definition for rows without it. A
condition about the member in the same body, or a reject or hold for devices whose row
lacks it, also counts.`,
		},
		{
			ID: "absent-admits", Level: Warning, look: absentAdmits,
			Title: "a source that fails lets devices pass",
			Explanation: `on_fault: absent takes a source that fails for one that has no row. If a device is
refused because of its row, or assigned because it has none, every device passes while
the source fails. The stand-in for a block list is then an open door.

Declare on_fault: hold, so that devices wait, or stale, so that the last answer counts.
It is no finding if reject or hold also refuses devices without a row.`,
		},
		{
			ID: "unused-lookup", Level: Warning, look: unusedLookup,
			Title: "a look-up that no rule uses",
			Explanation: `lookups.yaml declares a look-up, and no entry rule depends on it. It may be left over
from an earlier rule, or the rule that should use it may be misspelt. The webhook opens
its source for nothing.`,
		},
		{
			ID: "missing-fixture", Level: Warning, look: missingFixture,
			skip:  func(o Options) bool { return o.NoTestFiles },
			Title: "the fixture of a look-up does not exist",
			Explanation: `A fixture has the rows that stand for a look-up's source while rules are written and
tested. Without it, each decision that looks up ends in the fault lookup_failed.`,
		},
		{
			ID: "undeclared-column", Level: Note, look: undeclaredColumns(false),
			skip:  func(o Options) bool { return o.NoTestFiles },
			Title: "a fixture has a column that its look-up does not declare",
			Explanation: `A rule gets only the members that lookups.yaml declares. A table can have other
columns, for other people; if a rule needs one of them, declare it. Declare it too if
it is only kept for people and this note is in the way.`,
		},
		{
			ID: "impure", Level: Warning, look: impure,
			Title: "the answer depends on more than the request",
			Explanation: `DPS calls again after a failure, and whenever the device registers. A rule that uses
the clock, random values or the network can answer differently each time, and its
answer cannot be reproduced later. Such a built-in is off unless a setting allows
it.

Use dps.weighted or dps.spread to spread devices, and dps.in_percentage to move some
of them.`,
		},
		{
			ID: "unreachable", Level: Warning, look: unreachable,
			Title: "a definition that is never used",
			Explanation: `A default or an else after a definition that always holds is never used. One of the
two is a mistake.`,
		},
		{
			ID: "no-such-enrollment", Level: Warning, look: noSuchEnrollment,
			skip:  func(o Options) bool { return len(o.Enrollments) == 0 },
			Title: "the METADATA names an enrollment that does not exist",
			Explanation: `The rule serves no device by this name or glob, and another rule serves the devices
of the intended enrollment. This lint needs the enrollments: --enrollments FILE.`,
		},
		{
			ID: "no-tests", Level: Warning, look: noTests,
			skip:  func(o Options) bool { return o.NoTestFiles },
			Title: "the rule has no tests",
			Explanation: `No _test.rego and no exchange covers the rule's package. A rule decides about
devices in the field; test it before they depend on it.
` + "`usher new`" + ` writes a rule with its test.`,
		},
		{
			ID: "no-title", Level: Warning, look: noTitle,
			Title: "the METADATA has no title",
			Explanation: `The title says in one line what the rule is for. It is shown when the webhook starts
and when a decision is explained.`,
		},
		{
			ID: "not-replayable", Level: Note, look: notReplayable,
			Title: "records of the rule's decisions cannot be replayed",
			Explanation: `Usher records of payloads, twins and certificates only what the METADATA of the rule
declares recordable. usher replay leaves out a record that lacks what the rule decides
by, and explain and verify cannot start from it.

Declare what may be recorded:

	# METADATA
	# custom:
	#   enrollment_groups: [press-*]
	#   recordable: [payload.model, certificate.subject.organization]

Do not declare what must not be in a log. If that is what the rule decides by, silence
this lint, and keep requests of your own for replay. It looks at hub, reject and hold.`,
		},
		{
			ID: silenceLint, Level: Error,
			Title: "a silence without a reason or without effect",
			Explanation: `To silence a finding for one rule, name it in the METADATA of its package, with a
reason:

	# METADATA
	# custom:
	#   enrollment_groups: [lab-*]
	#   check:
	#     allow:
	#       - id: payload-decides
	#         reason: in the lab, every device may use every hub

It is an error if the reason is missing or the ID does not exist; the finding then
stays. It is a warning if the lint finds nothing there, so that silences do not
outlive their reasons.`,
		},
	}
}
