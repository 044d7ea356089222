package configfile_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/configfile"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const key = "c2VjcmV0LWtleS1vZi0zMi1ieXRlcy1sb25nLWVub3U="

func parse(t *testing.T, text string) (configfile.File, error) {
	t.Helper()
	return configfile.Parse("dps.yaml", []byte(text), configfile.Options{Webhook: "http://localhost:7071/api/allocate"})
}

// TestExample checks that the example is valid, also with each commented section.
func TestExample(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	authority, err := pki.Load(filepath.Join(folder, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	text := configfile.Example(authority.DeviceCAFile())
	file, err := configfile.Parse(filepath.Join(folder, "dps.yaml"), []byte(text), configfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) != 3 || len(file.Config.Hubs) != 6 {
		t.Errorf("it has %d groups and %d hubs", len(file.Groups), len(file.Config.Hubs))
	}
	if got := file.Groups[0].CustomAllocationDefinition.WebhookURL; got != "http://localhost:7071/api/allocate" {
		t.Errorf("the webhook is %s", got)
	}
	if file.Groups[2].Attestation.X509.SigningCertificates.Primary.Certificate == "" {
		t.Error("the certificate was not read")
	}
	if err := os.WriteFile(filepath.Join(folder, "issuer-keys.json"), authority.Devices().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	// Comments uncommented, section by section.
	for _, section := range []string{"entra", "behaviour", "quotas", "trouble", "retryAfter", "answerDelay", "timeScale", "journalSize", "allocationPolicy"} {
		uncommented := uncomment(text, section)
		if uncommented == text {
			t.Errorf("the example does not show %s", section)
			continue
		}
		file, err := configfile.Parse(filepath.Join(folder, "dps.yaml"), []byte(uncommented), configfile.Options{})
		if err != nil {
			t.Errorf("with %s: %v", section, err)
		}
		if issued := section == "entra"; file.Config.Entra.Keys.Empty() == issued || file.HubPolicy.Entra.Keys.Empty() == issued {
			t.Errorf("with %s: the issuer is %+v, that of hubs %+v", section, file.Config.Entra.Name, file.HubPolicy.Entra.Name)
		}
	}
	text = uncomment(configfile.Example(authority.DeviceCAFile(), "contoso-eu", "contoso-us.example.net"), "trouble")
	if file, err = configfile.Parse(filepath.Join(folder, "dps.yaml"), []byte(text), configfile.Options{}); err != nil {
		t.Fatal(err)
	}
	var hubs []string
	for _, linked := range file.Config.Hubs {
		hubs = append(hubs, linked.HostName)
	}
	if want := []string{"contoso-eu.azure-devices.net", "contoso-us.example.net"}; !slices.Equal(hubs, want) || file.Config.Trouble.Hubs[want[0]] == "" {
		t.Errorf("hubs %v, in trouble %v", hubs, file.Config.Trouble.Hubs)
	}
	one, other := configfile.Example("ca"), configfile.Example("ca")
	if one == other {
		t.Error("two examples have the same keys")
	}
}

// uncomment removes the comment signs of a section and its indented lines.
func uncomment(text, section string) string {
	var lines []string
	inside := false
	for line := range strings.Lines(text) {
		bare, commented := strings.CutPrefix(line, "# ")
		switch {
		case commented && strings.HasPrefix(bare, section+":"):
			inside, line = true, bare
		case inside && commented && strings.HasPrefix(bare, " "):
			line = bare
		default:
			inside = false
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	file, err := parse(t, `
name: contoso
idScope: 0ne00012345
serviceKey: `+key+`
hubKey: `+key+`
allocationPolicy: geoLatency
hubs:
  - {name: hub-a, weight: 3}
  - {name: hub-b.example.net, applyAllocationPolicy: false, latency: 20ms}
webhook:
  url: https://example.org/allocate?code=x
  timeout: 4s
  retries: 0
  firstInterval: 2s
  increment: 3s
  maxConcurrent: 7
  maxAnswer: 100
  followRedirects: true
  acceptAny2xx: true
behaviour:
  noAnswer: fail
  retriesExhaustedCode: 500000
  unknownHubCode: 400208
  badAnswerCode: 400208
  hubRefusedCode: 400208
  sameHubSubstatus: initialAssignment
  unsetReprovision: never
  concurrent: join
  excludedHubsInLinkedHubs: true
quotas: {registrationsPerMinute: 200, operationsPerMinute: 100}
retryAfter: 1s
answerDelay: 5ms
timeScale: 20
journalSize: 50
trouble:
  seed: 7
  webhook: {repeat: 0.5, cut: 0.1}
  throttle: 0.25
  throttleRetryAfter: 3s
  hubs: {hub-a: drained}
  disabledGroups: [line-a]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := dpssim.Config{
		Name: "contoso", IDScope: "0ne00012345", AllocationPolicy: model.PolicyGeoLatency,
		Policies: []dpssim.AccessPolicy{{Name: "provisioningserviceowner", PrimaryKey: key}},
		Hubs: []dpssim.LinkedHub{
			{HostName: "hub-a.azure-devices.net", Weight: 3},
			{HostName: "hub-b.example.net", ExcludeFromAllocation: true, Latency: 20 * time.Millisecond},
		},
		Webhook: dpssim.Webhook{
			Timeout: 4 * time.Second, Retries: -1, FirstInterval: 2 * time.Second, Increment: 3 * time.Second,
			MaxConcurrent: 7, MaxAnswer: 100, FollowRedirects: true, AcceptAny2xx: true,
		},
		Behaviour: dpssim.Behaviour{
			NoAnswer: dpssim.NoAnswerFails, RetriesExhaustedCode: 500000, UnknownHubCode: 400208, BadAnswerCode: 400208,
			HubRefusedCode: 400208, SameHubSubstatus: model.SubstatusInitialAssignment, UnsetReprovision: dpssim.ReprovisionNever,
			Concurrent: dpssim.ConcurrentJoins, ExcludedHubsInLinkedHubs: true,
		},
		Quota:      dpssim.Quota{RegistrationsPerMinute: 200, OperationsPerMinute: 100},
		RetryAfter: time.Second, AnswerDelay: 5 * time.Millisecond, TimeScale: 20, JournalSize: 50,
		Trouble: dpssim.Trouble{
			Seed: 7, Webhook: dpssim.WebhookTrouble{Repeat: 0.5, Cut: 0.1}, Throttle: 0.25,
			ThrottleRetryAfter: dpssim.Duration(3 * time.Second),
			Hubs:               map[string]string{"hub-a.azure-devices.net": dpssim.HubDrained},
			DisabledGroups:     []string{"line-a"},
		},
	}
	if !reflect.DeepEqual(file.Config, want) {
		t.Errorf("got  %+v\nwant %+v", file.Config, want)
	}
	if file.HubPolicy.Name != "iothubowner" || file.HubPolicy.PrimaryKey != key {
		t.Errorf("the hubs' policy is %q", file.HubPolicy.Name)
	}
}

func TestEnrollments(t *testing.T) {
	t.Parallel()
	file, err := parse(t, `
hubs: [{name: hub-a}, {name: hub-b}]
enrollmentGroups:
  - enrollmentGroupId: line-a
    attestation: {type: symmetricKey, symmetricKey: {primaryKey: `+key+`}}
    allocationPolicy: custom
    iotHubs: [hub-a, hub-b]
    reprovisionPolicy: reset
    initialTwin: {tags: {line: a, since: 2024-01-02, big: 4503599627370495}, properties: {desired: {on: true, left: null}}}
    capabilities: {iotEdge: false}
enrollments:
  - registrationId: lobby-1
    deviceId: Lobby
    attestation: {type: symmetricKey}
    allocationPolicy: static
    iotHubHostName: hub-b
    provisioningStatus: disabled
`)
	if err != nil {
		t.Fatal(err)
	}
	group := file.Groups[0]
	if !reflect.DeepEqual(group.IotHubs, []string{"hub-a.azure-devices.net", "hub-b.azure-devices.net"}) {
		t.Errorf("iotHubs: %v", group.IotHubs)
	}
	if got, want := *group.ReprovisionPolicy, (model.ReprovisionPolicy{UpdateHubAssignment: true}); got != want {
		t.Errorf("reprovisionPolicy: %+v", got)
	}
	if got := *group.CustomAllocationDefinition; got.WebhookURL != "http://localhost:7071/api/allocate" || got.APIVersion != "2021-10-01" {
		t.Errorf("customAllocationDefinition: %+v", got)
	}
	if got, want := string(group.InitialTwin.Tags), `{"big":4503599627370495,"line":"a","since":"2024-01-02"}`; got != want {
		t.Errorf("tags: %s, want %s", got, want)
	}
	if got, want := string(group.InitialTwin.Properties.Desired), `{"left":null,"on":true}`; got != want {
		t.Errorf("desired: %s, want %s", got, want)
	}
	if got := file.Enrollments[0]; got.DeviceID != "Lobby" || got.IotHubHostName != "hub-b.azure-devices.net" || got.ProvisioningStatus != "disabled" {
		t.Errorf("enrollment: %+v", got)
	}
}

func TestWebhookOfTheFileAndOfTheCommandLine(t *testing.T) {
	t.Parallel()
	text := []byte("hubs: [{name: hub-a}]\nwebhook: {url: 'http://file/'}\nenrollmentGroups: [{enrollmentGroupId: g, attestation: {type: symmetricKey}, allocationPolicy: Custom, certificatePolicyName: yearly}]\n")
	for _, c := range []struct {
		options configfile.Options
		want    string
	}{
		{configfile.Options{Webhook: "http://default/"}, "http://file/"},
		{configfile.Options{Webhook: "http://flag/", WebhookWins: true}, "http://flag/"},
	} {
		file, err := configfile.Parse("dps.yaml", text, c.options)
		if err != nil {
			t.Fatal(err)
		}
		if got := file.Groups[0].CustomAllocationDefinition.WebhookURL; got != c.want {
			t.Errorf("%+v: got %s", c.options, got)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	const hubs = "hubs: [{name: hub-a}]\n"
	const group = hubs + "enrollmentGroups:\n  - enrollmentGroupId: g\n    attestation: {type: symmetricKey}\n"
	for _, c := range []struct{ name, text, want string }{
		{"no hubs", "name: x", "dps.yaml:1: hubs: link at least one hub"},
		{"empty", "", "dps.yaml:1: hubs: link at least one hub"},
		{"not YAML", "name: [", "dps.yaml:1:"},
		{"a list", "- name", "dps.yaml:1: (root): want a mapping"},
		{"unknown field", hubs + "idscope: x", "dps.yaml:2: idscope: there is no such field; here can be "},
		{"twice", hubs + "name: a\nname: b", `dps.yaml:3: mapping key "name" already defined at [2:1]`},
		{"not a time", hubs + "webhook:\n  timeout: soon", "dps.yaml:3: webhook.timeout: want a time such as 5s"},
		{"not a number", "hubs:\n  - name: hub-a\n    weight: heavy", "dps.yaml:3: hubs[0].weight: want a whole number from 1, got text"},
		{"no name", "hubs:\n  - weight: 1", "dps.yaml:2: hubs[0]: the hub's name is missing"},
		{"word", hubs + "behaviour:\n  noAnswer: maybe", `dps.yaml:3: behaviour.noAnswer: want retry or fail, not "maybe"`},
		{"share", hubs + "trouble:\n  throttle: 2", "dps.yaml:3: trouble.throttle: want a share from 0 to 1, not 2"},
		{"unknown trouble", hubs + "trouble: {thrott1e: 1}", "dps.yaml:2: trouble.thrott1e: there is no such field; here can be "},
		{"key", hubs + "serviceKey: hello world", "dps.yaml:2: serviceKey: want a key"},
		{"group without id", hubs + "enrollmentGroups:\n  - attestation: {type: none}", "dps.yaml:3: enrollmentGroups[0]: enrollmentGroupId is missing"},
		{"group without attestation", hubs + "enrollmentGroups:\n  - enrollmentGroupId: g", "attestation is missing"},
		{"unknown member", group + "    iotHub: [a]", "dps.yaml:5: enrollmentGroups[0].iotHub: DPS has no such member"},
		{"unknown member below", hubs + "enrollmentGroups:\n  - enrollmentGroupId: g\n    attestation:\n      type: symmetricKey\n      symetricKey: {primaryKey: x}",
			"dps.yaml:6: enrollmentGroups[0].attestation.symetricKey: there is no such field; here can be symmetricKey, tpm, type, x509"},
		{"wrong type", group + "    iotHubs: hub-a", "dps.yaml:5: enrollmentGroups[0].iotHubs: want a list (- item), got text"},
		{"policy", group + "    reprovisionPolicy: move", "dps.yaml:5: enrollmentGroups[0].reprovisionPolicy: want migrate, reset or never"},
		{"half a policy, misspelt", group + "    reprovisionPolicy: {migrateData: false}", "dps.yaml:5: enrollmentGroups[0].reprovisionPolicy.migrateData: there is no such field; here can be migrateDeviceData, updateHubAssignment"},
		{"no file", hubs + "enrollmentGroups:\n  - enrollmentGroupId: g\n    attestation: {type: x509, x509: {signingCertificates: {primary: {certificateFile: nowhere.pem}}}}",
			"dps.yaml:4: enrollmentGroups[0].attestation.x509.signingCertificates.primary.certificateFile: open nowhere.pem"},
		{"twice the same group", group + "  - enrollmentGroupId: G\n    attestation: {type: symmetricKey}", "dps.yaml:5: enrollmentGroups[1]: another entry has the same enrollmentGroupId"},
		{"issuer without keys", hubs + "entra: {issuer: x}", "dps.yaml:2: entra: it needs both issuer"},
		{"keys that are none", hubs + "entra: {issuer: x, keys: configfile_test.go}", "dps.yaml:2: entra.keys: configfile_test.go: it has neither"},
		{"alias", hubs + "enrollments: [&a {registrationId: x}, *a]", "dps.yaml:2: enrollments[1]: another entry has the same registrationId"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestProblemsAreReportedAtOnceWithoutKeys(t *testing.T) {
	t.Parallel()
	_, err := parse(t, "serviceKey: c2hvcnQ=\nhubs: [{weight: 0}]\nretryAfter: 0s\n")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"dps.yaml:1: serviceKey", "dps.yaml:2: hubs[0].weight", "dps.yaml:3: retryAfter"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "c2hvcnQ") {
		t.Errorf("a key is in:\n%v", err)
	}
}

func TestLoadReadsFilesInItsFolder(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issuer := authority.Devices()
	for name, text := range map[string][]byte{
		"plant.pem": issuer.PEM(),
		"dps.yaml": []byte("hubs: [{name: hub-a}]\ncertificates: [{name: plant, file: plant.pem}]\nwebhook: {caFile: plant.pem}\n" +
			"enrollmentGroups:\n  - enrollmentGroupId: g\n    attestation: {type: x509, x509: {signingCertificates: {primary: {certificateFile: plant.pem}}}}\n"),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, err := configfile.Load(filepath.Join(folder, "dps.yaml"), configfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := file.Config.Certificates; len(got) != 1 || got[0].Name != "plant" || !got[0].Certificate.Equal(issuer.Certificate) {
		t.Errorf("certificates: %v", got)
	}
	if got := file.Groups[0].Attestation.X509.SigningCertificates.Primary.Certificate; got != string(issuer.PEM()) {
		t.Errorf("certificate: %q", got)
	}
	if file.Config.Webhook.RootCAs == nil {
		t.Error("webhook.caFile was not read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("hubs: [{name: a}]")
	f.Add("hubs: [{name: a}]\nenrollmentGroups: [{enrollmentGroupId: g, attestation: {type: none}}]")
	f.Add("a: &a [*a]")
	f.Add("trouble: {hubs: {a: b}}")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := configfile.Parse(filepath.Join("nowhere", "dps.yaml"), []byte(text), configfile.Options{Webhook: "http://localhost/"})
		if err == nil && len(file.Config.Hubs) == 0 {
			t.Error("no hubs, and no error")
		}
		if err != nil && !strings.Contains(err.Error(), "dps.yaml:") {
			t.Errorf("the error names no line: %v", err)
		}
	})
}

// TestDefaults checks that the example and docs/dps-behaviours.md show the defaults of the service.
func TestDefaults(t *testing.T) {
	t.Parallel()
	text := configfile.Example("ca.pem")
	text, _, _ = strings.Cut(text, "hubs:\n")
	_, settings, found := strings.Cut(configfile.Example("ca.pem"), "\nwebhook:\n")
	if !found {
		t.Fatal("the example has no webhook")
	}
	settings = "webhook:\n" + regexp.MustCompile(`(?m)^  # `).ReplaceAllString(settings, "  ")
	for _, section := range []string{"behaviour", "retryAfter", "answerDelay", "timeScale", "journalSize"} {
		settings = uncomment(settings, section)
	}
	settings, _, _ = strings.Cut(settings, "# Trouble on purpose")
	settings = strings.ReplaceAll(settings, "  caFile: ca.pem", "  # caFile: ca.pem")
	text += "hubs: [{name: hub-a}]\nallocationPolicy: hashed\n" + settings
	shown, err := parse(t, text)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := parse(t, strings.SplitAfter(text, "\nhubs: [{name: hub-a}]\n")[0])
	if err != nil {
		t.Fatal(err)
	}
	if reflect.DeepEqual(shown.Config, bare.Config) {
		t.Error("nothing was uncommented")
	}
	if got, want := effective(t, shown.Config), effective(t, bare.Config); !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v\nwhich is not what counts without it:\n%+v", got, want)
	}

	page, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "dps-behaviours.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-zA-Z0-9.]+)` \\| (\\S+) \\| ").FindAllStringSubmatch(string(page), -1)
	var onPage, inExample []string
	for _, row := range rows {
		onPage = append(onPage, row[1]+"="+row[2])
	}
	section := ""
	for _, line := range regexp.MustCompile(`(?m)^( *)(\w+):( [^ \n#]+)?`).FindAllStringSubmatch(text[strings.Index(text, "allocationPolicy"):], -1) {
		switch name, value := line[2], strings.TrimSpace(line[3]); {
		case line[1] == "" && value == "":
			section = name + "."
		case name == "url":
		case line[1] == "":
			inExample = append(inExample, name+"="+value)
		default:
			inExample = append(inExample, section+name+"="+value)
		}
	}
	slices.Sort(onPage)
	slices.Sort(inExample)
	if !reflect.DeepEqual(onPage, inExample) {
		t.Errorf("the page has    %v\nthe example has %v", onPage, inExample)
	}
}

// effective is the configuration of a service, with its defaults.
func effective(t *testing.T, config dpssim.Config) dpssim.Config {
	t.Helper()
	state := store.Memory()
	service, err := dpssim.New(config, state, hub.New(state, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	return service.Config()
}
