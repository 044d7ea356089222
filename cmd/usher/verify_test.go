package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeRules writes the files of a rules folder, and returns the folder.
func writeRules(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

const (
	firstLinked = "package allocation.default\n\nhub := input.linkedHubs[0]\n"
	spreadOut   = "package allocation.default\n\nhub := usher.choose(input.deviceRuntimeContext.registrationId, input.linkedHubs, input.linkedHubs)\n"
)

func TestExitCodesOfVerify(t *testing.T) {
	t.Parallel()
	bad := writeRules(t, map[string]string{"default.rego": firstLinked})
	good := writeRules(t, map[string]string{"default.rego": spreadOut})
	broken := writeRules(t, map[string]string{"default.rego": "package allocation.default\n\nhub := nothing\n"})
	misjudged := writeRules(t, map[string]string{"default.rego": spreadOut, "default_invariants.rego": "package unknown_invariants\n\ninvariant contains 1 if input.decision.hub\n"})
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"--rules", good}, exitOK},
		{[]string{"--rules", bad}, exitInvariant},
		{[]string{"--rules", bad, "-o", "json"}, exitInvariant},
		{[]string{"--rules", bad, "--promise", "twin"}, exitOK},
		{[]string{"--rules", broken}, exitRules},
		{[]string{"--rules", misjudged}, exitRules},
		{[]string{"--rules", good, "--promise", "none"}, exitUsage},
		{[]string{"--rules", good, "--rule", "none"}, exitUsage},
		{[]string{"--rules", good, "--timeout", "0s"}, exitUsage},
		{[]string{"--rules", good, "extra"}, exitUsage},
		{[]string{"--rules", good, "--payload-schema", "nowhere.json"}, exitFailure},
		{[]string{"--rules", bad, "--save", filepath.Join(bad, "default.rego")}, exitFailure},
		{[]string{"--list"}, exitOK},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), append([]string{"verify"}, c.args...), strings.NewReader(""), &stdout, &stderr); got != c.want {
			t.Errorf("usher verify %s exits with %d, want %d; it prints:\n%s", strings.Join(c.args, " "), got, c.want, stderr.String())
		}
	}
}

// What devices get whose values no rule lists is in the text and in the JSON, and is no error.
func TestVerifyUnlisted(t *testing.T) {
	t.Parallel()
	folder := writeRules(t, map[string]string{"default.rego": "package allocation.default\n\ndefault hub := \"contoso-eu.azure-devices.net\"\n\n" +
		"hub := \"contoso-us.azure-devices.net\" if input.deviceRuntimeContext.payload.country in [\"us\", \"ca\"]\n\n" +
		"reject contains \"not linked\" if not hub in input.linkedHubs\n"})
	for format, want := range map[string]string{
		"text": "\n  payload/country, if it is none of ca, us: assigned to contoso-eu (rules/default.rego:3, default)\n",
		"json": `"unlisted":[{"member":"payload/country","listed":["ca","us"],"gets":[{"result":"assigned","hubs":["contoso-eu.azure-devices.net"],"place":"rules/default.rego:3","default":true,`,
	} {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), []string{"verify", folder, "--promise", "twin", "-o", format}, strings.NewReader(""), &stdout, &stderr); got != exitOK {
			t.Fatalf("-o %s exits with %d: %s", format, got, stderr.String())
		}
		output := strings.ReplaceAll(stdout.String(), folder, "rules")
		if compact := new(bytes.Buffer); format == "json" {
			if err := json.Compact(compact, []byte(output)); err != nil {
				t.Fatal(err)
			}
			output = compact.String()
		}
		if !strings.Contains(output, want) {
			t.Errorf("-o %s does not contain\n%s\nbut is\n%s", format, want, output)
		}
	}
}

// The formats for machines are well formed and agree with the text.
func TestVerifyFormats(t *testing.T) {
	t.Parallel()
	folder := writeRules(t, map[string]string{"default.rego": firstLinked})
	output := func(format string) []byte {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), []string{"verify", "--rules", folder, "-o", format}, strings.NewReader(""), &stdout, &stderr); got != exitInvariant {
			t.Fatalf("-o %s exits with %d: %s", format, got, stderr.String())
		}
		return stdout.Bytes()
	}
	var junit struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(output("junit"), &junit); err != nil || junit.Failures != 1 || len(junit.Suites) != 1 || len(junit.Suites[0].Cases) != junit.Tests {
		t.Fatalf("junit: %+v, %v", junit, err)
	}
	for _, c := range junit.Suites[0].Cases {
		if failed := c.Failure != nil; failed != (c.Name == "order") || failed && !strings.Contains(c.Failure.Text, `"linkedHubs"`) {
			t.Errorf("junit: %s: %+v", c.Name, c.Failure)
		}
	}
	var sarif struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Locations []struct {
					PhysicalLocation struct{ Region struct{ StartLine int } }
				}
			}
		}
	}
	if err := json.Unmarshal(output("sarif"), &sarif); err != nil || sarif.Version != "2.1.0" || len(sarif.Runs) != 1 || len(sarif.Runs[0].Results) != 1 {
		t.Fatalf("sarif: %+v, %v", sarif, err)
	}
	result := sarif.Runs[0].Results[0]
	if result.RuleID != "order" || sarif.Runs[0].Tool.Driver.Rules[result.RuleIndex].ID != "order" || result.Locations[0].PhysicalLocation.Region.StartLine != 1 {
		t.Errorf("sarif: %+v", result)
	}
	var report struct {
		Rules []struct {
			Space  struct{ Exhaustive bool }
			Broken []struct {
				Promise       string
				Request, Then json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(output("json"), &report); err != nil || len(report.Rules) != 1 || !report.Rules[0].Space.Exhaustive ||
		len(report.Rules[0].Broken) != 1 || report.Rules[0].Broken[0].Then == nil {
		t.Errorf("json: %+v, %v", report, err)
	}
	if got := string(output("github")); strings.Count(got, "::error ") != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("github: %s", got)
	}
}
