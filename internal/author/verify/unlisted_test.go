package verify_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/verify"
)

// What a device gets whose value the rule does not list is reported, wherever the rule says it.
func TestUnlisted(t *testing.T) {
	t.Parallel()
	const head = "# METADATA\n# custom:\n#   enrollment_groups: [line-*]\npackage allocation.line\n\nimport data.dps\n\ncountry := dps.payload_string(\"country\")\n\nhub_in(name) := dps.hub_named(name)\n\n"
	for name, c := range map[string]struct {
		rego, data string
		want       []string
	}{
		"a default hub": {
			rego: "default hub := \"contoso-eu.azure-devices.net\"\n\nhub := hub_in(\"contoso-us\") if country in {\"us\", \"ca\"}\n",
			want: []string{"payload/country none of ca us: assigned contoso-eu line.rego:12 default"},
		},
		"an else": {
			rego: "hub := hub_in(\"contoso-us\") if country == \"us\"\n\nelse := hub_in(\"contoso-us\") if country == \"ca\"\n\nelse := hub_in(\"contoso-eu\")\n",
			want: []string{"payload/country none of ca us: assigned contoso-eu line.rego:16"},
		},
		"a table with a default": {
			rego: "hub := hub_in(object.get(data.line.hubs, lower(country), \"contoso-eu\"))\n",
			data: `{"hubs": {"us": "contoso-us", "de": "contoso-eu"}}`,
			want: []string{"payload/country none of de us: assigned contoso-eu line.rego:12"},
		},
		"rejected": {
			rego: "hub := hub_in(data.line.hubs[country])\n\nreject contains \"where is that?\" if not data.line.hubs[country]\n",
			data: `{"hubs": {"us": "contoso-us", "de": "contoso-eu"}}`,
			want: []string{`payload/country none of de us: rejected "where is that?" line.rego:14`},
		},
		"held": {
			rego: "hub := hub_in(data.line.hubs[country])\n\nhold contains \"wait\" if not hub\n",
			data: `{"hubs": {"us": "contoso-us", "de": "contoso-eu"}}`,
			want: []string{`payload/country none of de us: held "wait" line.rego:14`},
		},
		"it depends on another member": {
			rego: "hub := hub_in(\"contoso-us\") if country == \"us\"\n\nelse := hub_in(\"contoso-eu\") if input.deviceRuntimeContext.payload.pilot == true\n\nhold contains \"wait\" if not hub\n",
			want: []string{`payload/country none of us: assigned contoso-eu line.rego:14, held "wait" line.rego:16`},
		},
		"something else keeps most devices from a hub": {
			rego: "hub := hub_in(\"contoso-us\") if country == \"us\"\n\nelse := hub_in(\"contoso-eu\")\n\nreject contains \"an unknown model\" if not input.deviceRuntimeContext.payload.model in [\"m1\", \"m2\"]\n",
			want: []string{
				"payload/country none of us: assigned contoso-eu line.rego:14",
				`payload/model none of m1 m2: rejected "an unknown model" line.rego:16`,
			},
		},
		"those that are refused": {
			rego: "hub := dps.spread(dps.hubs_matching(\"*\"))\n\nreject contains \"embargo\" if country in [\"xx\", \"yy\"]\n",
			want: []string{"payload/country none of xx yy: assigned hub-a,hub-b,usher-other-hub line.rego:12"},
		},
		"two members of which one lets devices through": {
			rego: "hub := hub_in(data.line.hubs[country]) if dps.registration_id_lower != \"odd\"\n\nelse := hub_in(\"contoso-eu\") if dps.registration_id_lower != \"odd\"\n\nreject contains \"a batch that does not exist\" if not input.deviceRuntimeContext.payload.batch in [\"b1\", \"b2\"]\n\nhold contains \"odd\" if not hub\n",
			data: `{"hubs": {"us": "contoso-us"}}`,
			want: []string{
				"payload/country none of us: assigned contoso-eu line.rego:14",
				"registrationId none of odd: assigned contoso-eu line.rego:14, assigned contoso-us line.rego:12",
				`payload/batch none of b1 b2: rejected "a batch that does not exist" line.rego:16`,
			},
		},
		"a tag of the enrollment": {
			rego: "hub := hub_in(\"contoso-us\") if dps.enrollment.initialTwin.tags.site == \"aus\"\n\nelse := hub_in(\"contoso-eu\")\n",
			want: []string{"the enrollment's initialTwin/tags/site none of aus: assigned contoso-eu line.rego:14"},
		},
		"the organization of a certificate": {
			rego: "hub := name if name := hub_in(data.line.hubs[dps.certificate.subject.organization[0]])\n\nelse := hub_in(\"contoso-eu\")\n",
			data: `{"hubs": {"Contoso": "contoso-us"}}`,
			want: []string{"the certificate's organization none of Contoso: assigned contoso-eu line.rego:14"},
		},
		"a part of a text is not listed":   {rego: "hub := hub_in(\"contoso-us\") if split(country, \"-\")[0] == \"us\"\n\nelse := hub_in(\"contoso-eu\")\n"},
		"nothing is listed":                {rego: "hub := hub_in(\"contoso-us\")\n"},
		"listed, but it decides nothing":   {rego: "hub := hub_in(\"contoso-us\")\n\ninitial_twin := dps.merge_twin({\"tags\": {\"near\": true}}) if country == \"us\"\n"},
		"a text that stands for no values": {rego: "hub := hub_in(\"contoso-us\") if startswith(country, \"us\")\n\nelse := hub_in(\"contoso-eu\")\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"line/line.rego": head + c.rego}
			if c.data != "" {
				files["line/data.json"] = c.data
			}
			o := options(t, ruleFiles(t, files))
			report := run(t, o)
			var got []string
			for _, one := range report.Rules[0].Unlisted {
				got = append(got, unlistedText(one))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			o.Workers = 1
			if diff := cmp.Diff(report.Rules[0].Unlisted, run(t, o).Rules[0].Unlisted); diff != "" {
				t.Errorf("another report with one worker:\n%s", diff)
			}
			for _, one := range report.Rules[0].Unlisted {
				isRequest(t, o.Rules, one.Request)
				couldBeSent(t, one.Request)
			}
		})
	}
}

func unlistedText(u verify.Unlisted) string {
	var gets []string
	for _, got := range u.Gets {
		var hubs []string
		for _, hub := range got.Hubs {
			hubs = append(hubs, strings.TrimSuffix(hub, ".azure-devices.net"))
		}
		text := fmt.Sprintf("%s %s", got.Result, strings.Join(hubs, ","))
		if got.Reason != "" {
			text = fmt.Sprintf("%s %q", got.Result, got.Reason)
		}
		text += " " + strings.TrimPrefix(got.Place, "rules/line/")
		if got.Default {
			text += " default"
		}
		gets = append(gets, text)
	}
	return fmt.Sprintf("%s none of %s: %s", u.Member, strings.Join(u.Listed, " "), strings.Join(gets, ", "))
}
