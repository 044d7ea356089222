package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwt"

	webhook "github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/doctor"
	"github.com/usher-dps/usher/internal/operate/enrollment"
	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
	"github.com/usher-dps/usher/internal/standin/dpssim/web"
)

// Secrets of a chain, that no command may print.
const (
	oldFunctionKey = "old-function-key-of-the-test"
	newFunctionKey = "new-function-key-of-the-test"
	serviceKey     = "c2VydmljZS1rZXktb2YtdGhlLXRlc3Q="
)

// chain is a stand-in for DPS and a webhook with the starter rules, both with TLS.
type chain struct {
	shell
	service *dpssim.Service
	webhook string // its URL without a key
}

// newChain starts one. The groups are there already, as hashed ones with symmetric keys.
func newChain(t *testing.T, groups ...string) *chain {
	t.Helper()
	return newChainTrusting(t, entra.Issuer{}, groups...)
}

// newChainTrusting starts one that also takes the issuer's tokens.
func newChainTrusting(t *testing.T, issuer entra.Issuer, groups ...string) *chain {
	t.Helper()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	serve := func(server *httptest.Server) *httptest.Server {
		server.TLS = authority.ServerConfig()
		server.TLS.NextProtos = []string{"http/1.1"}
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	rules, err := decider.LoadRules(t.Context(), os.DirFS(filepath.Join("..", "..", "rules")), decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	hook := serve(httptest.NewUnstartedServer(webhook.New(webhook.Options{Allocator: allocator, Keys: []string{oldFunctionKey, newFunctionKey}})))

	state := store.Memory()
	registry := hub.New(state, time.Now)
	config := dpssim.Config{Name: "usher", IDScope: "0ne00000000", Entra: issuer,
		Policies: []dpssim.AccessPolicy{{Name: "provisioningserviceowner", PrimaryKey: serviceKey}},
		Hubs:     []dpssim.LinkedHub{{HostName: "contoso-toasters-hub-1098.azure-devices.net"}, {HostName: "contoso-eu-hub.azure-devices.net"}}}
	service, err := dpssim.New(config, state, registry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	dps := serve(httptest.NewUnstartedServer(web.New(web.Options{Service: service})))
	c := &chain{service: service, webhook: hook.URL + webhook.AllocatePath}
	c.folder = t.TempDir()
	host := strings.TrimPrefix(dps.URL, "https://")
	c.env = []string{
		"SSL_CERT_FILE=" + authority.CAFile(),
		"WEBHOOK=" + c.webhook,
		envProvisioningHost + "=" + host,
		envConnectionString + "=HostName=" + config.HostName() + ";SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=" + serviceKey,
	}
	c.rewrite = strings.NewReplacer(c.webhook, "https://usher.example/api/allocate")
	for name, text := range map[string]string{"key": oldFunctionKey, "new-key": newFunctionKey, "wrong-key": "wrong-function-key-of-the-test"} {
		if err := os.WriteFile(filepath.Join(c.folder, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(c.folder, "rules"), os.DirFS(filepath.Join("..", "..", "rules"))); err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		c.put(t, group, hashed())
	}
	return c
}

// put makes an enrollment group with symmetric keys.
func (c *chain) put(t *testing.T, id string, group model.EnrollmentGroup) {
	t.Helper()
	group.EnrollmentGroupID = id
	group.Attestation.Type = "symmetricKey"
	if err := c.service.Groups.Put(id, &group, ""); err != nil {
		t.Fatal(err)
	}
}

// custom is a group that calls a webhook.
func custom(url string) model.EnrollmentGroup {
	return model.EnrollmentGroup{Enrollment: model.Enrollment{AllocationPolicy: "custom",
		CustomAllocationDefinition: &model.CustomAllocationDefinition{WebhookURL: url, APIVersion: "2021-10-01"}}}
}

func hashed() model.EnrollmentGroup {
	return model.EnrollmentGroup{Enrollment: model.Enrollment{AllocationPolicy: "hashed"}}
}

// usher runs a command as a process, since a process reads the authorities that it trusts once. What it prints must
// hold no secret.
func (c *chain) usher(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "usher", args...)
	command.Dir, command.Env = c.folder, append(os.Environ(), c.env...)
	output, err := command.CombinedOutput()
	code := exitOK
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	printed := c.rewrite.Replace(string(output))
	if code != wantCode {
		t.Errorf("usher %s exits with %d, want %d:\n%s", strings.Join(args, " "), code, wantCode, printed)
	}
	for _, secret := range []string{"function-key", serviceKey, "c2VydmljZS", "code="} {
		if strings.Contains(printed, secret) {
			t.Errorf("usher %s prints %s:\n%s", strings.Join(args, " "), secret, printed)
		}
	}
	return printed
}

func (c *chain) group(t *testing.T, id string) model.EnrollmentGroup {
	t.Helper()
	group, err := c.service.Groups.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return *group.(*model.EnrollmentGroup)
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
}

func TestDocsOfProvisioning(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"enroll.md", "doctor.md"} {
		ran := 0
		for _, section := range strings.Split(page(t, name), "\n## ") {
			c := newChain(t, "breakroom", "field-devices")
			c.put(t, "contoso-custom-allocated-devices", custom(c.webhook+"?code="+oldFunctionKey))
			c.put(t, "tenant-devices", custom(c.webhook))
			ran += c.run(t, section)
		}
		if ran == 0 {
			t.Errorf("%s shows nothing", name)
		}
	}
}

// Both ends call the mark of a probe the same.
func TestProbeHeader(t *testing.T) {
	t.Parallel()
	if enrollment.ProbeHeader != webhook.ProbeHeader {
		t.Errorf("the doctor marks probes with %s, the webhook looks for %s", enrollment.ProbeHeader, webhook.ProbeHeader)
	}
}

// The page of usher doctor lists what is looked for.
func TestPageOfDoctor(t *testing.T) {
	t.Parallel()
	var want []string
	for _, kind := range doctor.Kinds() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", kind.ID, kind.Level, kind.Title))
	}
	if diff := cmp.Diff(want, rowsUnder(t, page(t, "doctor.md"), "## What is looked for")); diff != "" {
		t.Errorf("findings (-code +page):\n%s", diff)
	}
}

// A dry run changes nothing, what is written is what it showed, and keys and members that usher does not know outlive
// it.
func TestEnroll(t *testing.T) {
	t.Parallel()
	c := newChain(t, "breakroom")
	before, err := c.service.Groups.Attestation("breakroom")
	if err != nil {
		t.Fatal(err)
	}
	etag := c.group(t, "breakroom").ETag
	args := []string{"enroll", "--group", "breakroom", "--webhook", c.webhook, "--key-file", "key", "--hubs", "contoso-eu-hub", "--reprovision", "never"}
	shown := c.usher(t, exitOK, append(args, "--dry-run")...)
	wants(t, shown, "group breakroom: would change", "+ /iotHubs", `"updateHubAssignment":false`, "****")
	if c.group(t, "breakroom").ETag != etag {
		t.Error("the dry run wrote")
	}
	wants(t, c.usher(t, exitOK, args...), "group breakroom: changed")
	group := c.group(t, "breakroom")
	if group.AllocationPolicy != "custom" || group.CustomAllocationDefinition.WebhookURL != c.webhook+"?code="+oldFunctionKey ||
		!slices.Equal(group.IotHubs, []string{"contoso-eu-hub.azure-devices.net"}) || group.ReprovisionPolicy == nil || group.ReprovisionPolicy.UpdateHubAssignment {
		t.Errorf("the group is %+v", group)
	}
	after, err := c.service.Groups.Attestation("breakroom")
	if err != nil {
		t.Fatal(err)
	}
	if *after.SymmetricKey != *before.SymmetricKey {
		t.Error("the keys of the group are others now: its devices are locked out")
	}
	wants(t, c.usher(t, exitOK, args...), "group breakroom: as it should be")

	wants(t, c.usher(t, exitFailure, "enroll", "--group", "line-x", "--webhook", c.webhook), "there is no such enrollment", "--create")
	wants(t, c.usher(t, exitOK, "enroll", "--group", "line-x", "--individual", "Press-1", "--create", "--webhook", c.webhook, "--key-file", "key"),
		"group line-x: created", "individual Press-1: created")
	if _, err := c.service.Enrollments.Get("press-1"); err != nil {
		t.Error(err)
	}
	wants(t, c.usher(t, exitUsage, "enroll", "--group", "breakroom", "--webhook", c.webhook+"?co"+"de=x"), "change the key")
	wants(t, c.usher(t, exitUsage, "enroll", "--webhook", c.webhook), "which enrollments?")
}

// The stand-in hides and resets members by the version of a call, as DPS does.
func TestEnrollLosesNoMember(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	put := func(id string, members func(*model.EnrollmentGroup)) {
		t.Helper()
		e := custom(c.webhook + "?code=" + oldFunctionKey)
		e.CustomAllocationDefinition.APIVersion = "2019-03-31"
		members(&e)
		c.put(t, id, e)
	}
	put("one", func(e *model.EnrollmentGroup) { e.CertificatePolicyName = "devices" })
	for _, args := range [][]string{
		{"--group", "one", "--reprovision", "never", "--key-file", "key"}, {"--rotate-key", "--key-file", "new-key"},
	} {
		wants(t, c.usher(t, exitOK, append([]string{"enroll", "--webhook", c.webhook}, args...)...), "group one: changed")
		if got := c.group(t, "one"); got.CertificatePolicyName != "devices" || got.CustomAllocationDefinition.APIVersion != "2019-03-31" {
			t.Errorf("%s: the group is %+v", args[0], got)
		}
	}
	put("two", func(e *model.EnrollmentGroup) { e.DeviceTypeRefs = []string{"press"} })
	args := []string{"enroll", "--group", "two", "--webhook", c.webhook, "--key-file", "key", "--reprovision", "reset"}
	wants(t, c.usher(t, exitFailure, args...), "it has deviceTypeRefs", "--service-version 2026-11-")
	wants(t, c.usher(t, exitOK, append(args, "--service-version", "2026-11-02-preview")...), "group two: changed")
	if got := c.group(t, "two"); len(got.DeviceTypeRefs) != 1 {
		t.Errorf("the group is %+v", got)
	}
}

// The label of a DPS instance is in the URL of its enrollments, where it stays, and rules see it.
func TestEnrollLabel(t *testing.T) {
	t.Parallel()
	c := newChain(t, "breakroom")
	enroll := []string{"enroll", "--group", "breakroom", "--webhook", c.webhook, "--key-file", "key"}
	wants(t, c.usher(t, exitOK, append(enroll, "--label", "contoso-eu")...), "https://usher.example/api/allocate?dps=contoso-eu&****")
	wants(t, c.usher(t, exitOK, enroll...), "group breakroom: as it should be")
	wants(t, c.usher(t, exitOK, append(enroll, "--label", "contoso-us")...), "?dps=contoso-eu&****", "?dps=contoso-us&****")
	c.usher(t, exitOK, "enroll", "--rotate-key", "--webhook", c.webhook, "--key-file", "new-key")
	if got, want := c.group(t, "breakroom").CustomAllocationDefinition.WebhookURL, c.webhook+"?code="+newFunctionKey+"&dps=contoso-us"; got != want {
		t.Errorf("the webhook is %s, want %s", got, want)
	}
	for _, label := range []string{"a b", "a/b", strings.Repeat("a", 65), "ä"} {
		wants(t, c.usher(t, exitUsage, append(enroll, "--label", label)...), "1 to 64 letters")
	}
	wants(t, c.usher(t, exitUsage, "enroll", "--rotate-key", "--label", "x", "--webhook", c.webhook, "--key-file", "key"), "--rotate-key changes only the key")

	c.put(t, "other", custom(c.webhook+"?code="+newFunctionKey))
	c.put(t, "odd", custom(c.webhook+"?dps=a+b&code="+newFunctionKey))
	wants(t, c.usher(t, exitDoctor, "doctor", "--webhook", c.webhook, "--key-file", "new-key"),
		"group other: warning: its URL does not name the DPS instance, another one has ?dps=contoso-us [label-differs]",
		"group odd: error: ?dps= in its URL is not a name", "[label-invalid]")
}

// With a managed identity, no connection string is needed. The endpoint is a double of App Service's.
func TestProvisioningWithEntra(t *testing.T) {
	t.Parallel()
	const issuer = "https://sts.windows.net/tenant/"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := entra.ParseKeys(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	identity := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := jwt.NewBuilder().Issuer(issuer).Audience([]string{r.URL.Query().Get("resource")}).Expiration(time.Now().Add(time.Hour)).Build()
		if err != nil {
			t.Error(err)
		}
		signed, err := jwt.Sign(token, jwt.WithKey(jwa.RS256(), key))
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{
			"access_token": string(signed), "token_type": "Bearer", "expires_on": strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10),
		})
	}))
	t.Cleanup(identity.Close)
	enroll := func(c *chain, code int) string {
		t.Helper()
		c.env = append(c.env, envConnectionString+"=", "IDENTITY_ENDPOINT="+identity.URL, "IDENTITY_HEADER=of-the-test")
		return c.usher(t, code, "enroll", "--group", "contoso-custom-allocated-devices", "--webhook", c.webhook, "--key-file", "key")
	}
	c := newChainTrusting(t, entra.Issuer{Name: issuer, Keys: keys}, "contoso-custom-allocated-devices")
	wants(t, enroll(c, exitOK), "group contoso-custom-allocated-devices: changed")
	wants(t, c.usher(t, exitOK, "doctor", "--webhook", c.webhook, "--key-file", "key"), "1 enrollments, 1 with custom allocation")
	wants(t, enroll(newChain(t, "contoso-custom-allocated-devices"), exitFailure), "DPS answers 401, error 401000")
}

// A key that the webhook does not take reaches no enrollment; one that it takes reaches all that call it, and no other.
func TestRotateKey(t *testing.T) {
	t.Parallel()
	c := newChain(t, "hashed")
	c.put(t, "one", custom(c.webhook+"?code="+oldFunctionKey))
	c.put(t, "two", custom(c.webhook))
	c.put(t, "elsewhere", custom("https://other.example/api/allocate?code=other"))
	wants(t, c.usher(t, exitFailure, "enroll", "--rotate-key", "--webhook", c.webhook, "--key-file", "wrong-key"), "nothing was changed", "answers 401")
	if got := c.group(t, "one").CustomAllocationDefinition.WebhookURL; !strings.HasSuffix(got, oldFunctionKey) {
		t.Errorf("the webhook of one is %s", got)
	}
	c.usher(t, exitOK, "enroll", "--rotate-key", "--webhook", c.webhook, "--key-file", "new-key", "--dry-run")
	printed := c.usher(t, exitOK, "enroll", "--rotate-key", "--webhook", c.webhook, "--key-file", "new-key")
	wants(t, printed, "group one: changed", "group two: changed", "with another key")
	if strings.Contains(printed, "elsewhere") {
		t.Errorf("it touched another webhook's enrollment:\n%s", printed)
	}
	for _, id := range []string{"one", "two"} {
		if got := c.group(t, id).CustomAllocationDefinition.WebhookURL; got != c.webhook+"?code="+newFunctionKey {
			t.Errorf("the webhook of %s is %s", id, got)
		}
	}
}

// The doctor finds each fault that is planted, and nothing where all is well.
func TestDoctor(t *testing.T) {
	t.Parallel()
	well := newChain(t)
	well.put(t, "contoso-custom-allocated-devices", custom(well.webhook+"?code="+oldFunctionKey))
	args := []string{"doctor", "--webhook", well.webhook, "--key-file", "key"}
	printed := well.usher(t, exitOK, args...)
	wants(t, printed, "probe of group contoso-custom-allocated-devices: ", "1 enrollments, 1 with custom allocation")
	if strings.Contains(printed, ": error: ") {
		t.Errorf("nothing is wrong, and it says\n%s", printed)
	}

	c := newChain(t)
	c.put(t, "contoso-custom-allocated-devices", custom(c.webhook+"?code="+oldFunctionKey))
	c.put(t, "field-devices", hashed())
	c.put(t, "tenant-devices", custom(c.webhook))
	c.put(t, "staged-devices", custom(c.webhook+"?code=some-other-function-key-of-the-test"))
	elsewhere := custom("https://other.example/api/allocate?code=other")
	c.put(t, "a-factory", elsewhere)
	old := custom(c.webhook + "?code=" + oldFunctionKey)
	old.CustomAllocationDefinition.APIVersion = "2099-01-01"
	c.put(t, "b-factory", old)
	found := c.usher(t, exitDoctor, "doctor", "--webhook", c.webhook, "--key-file", "key", "--hubs", "contoso-eu-hub")
	wants(t, c.usher(t, exitDoctor, "doctor", "--hubs", "contoso-eu-hub", "--hub", "Contoso-EU-hub.device.azure-devices.net"),
		"[hub-twice]", "contoso-eu-hub.azure-devices.net and Contoso-EU-hub.device.azure-devices.net are one hub")
	wants(t, found, "group tenant-devices: error: ", "[key-missing]", "group staged-devices: error: ", "[key-differs]",
		"group a-factory: error: ", "[webhook-elsewhere]", "[api-version]", "group field-devices: warning: ", "[not-custom]",
		"[unlinked-hub]", "fix: ")
	wants(t, c.usher(t, exitDoctor, "doctor", "--webhook", c.webhook, "--key-file", "wrong-key"), "[key-refused]")
	wants(t, c.usher(t, exitDoctor, "doctor", "--webhook", strings.Replace(c.webhook, "allocate", "alocate", 1), "--key-file", "key"), "[wrong-url]")
	wants(t, c.usher(t, exitDoctor, "doctor", "--webhook", "https://127.0.0.1:1/api/allocate", "--key-file", "key"), "[unreachable]")
	// Without the rule for all others, an enrollment that no rule names is served by none.
	if err := os.RemoveAll(filepath.Join(c.folder, "rules", "default")); err != nil {
		t.Fatal(err)
	}
	c.put(t, "forgotten", custom(c.webhook+"?code="+oldFunctionKey))
	wants(t, c.usher(t, exitDoctor, "doctor", "-o", "json"), `"id": "unserved"`, `"where": "group forgotten"`)
}
