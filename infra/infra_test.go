// Package infra_test checks the templates. They were never deployed to Azure.
package infra_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// templates returns all templates by their paths from this folder.
func templates(t *testing.T) map[string]template {
	t.Helper()
	all := map[string]template{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".bicep" {
			all[filepath.ToSlash(name)] = read(t, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("only %d templates", len(all))
	}
	return all
}

// Every symbol is declared, everything declared is used, and modules get exactly the parameters that they have.
func TestTemplatesFitTogether(t *testing.T) {
	t.Parallel()
	all := templates(t)
	for name, one := range all {
		used := map[string]bool{}
		use := func(n node) {
			for _, symbol := range n.all() {
				base, _, _ := strings.Cut(symbol, "::")
				used[base] = true
				_, isParam := one.params[base]
				_, isVar := one.vars[base]
				_, isResource := one.resources[symbol]
				_, isModule := one.modules[base]
				if !isParam && !isVar && !isResource && !isModule {
					t.Errorf("%s: %s is not declared", name, symbol)
				}
			}
		}
		for _, n := range one.vars {
			use(n)
		}
		for _, n := range one.outputs {
			use(n)
		}
		for symbol, r := range one.resources {
			use(r.body)
			for _, n := range []*node{r.when, r.loop} {
				if n != nil {
					use(*n)
				}
			}
			if !strings.Contains(symbol, "::") && !strings.Contains(r.kind, "@20") {
				t.Errorf("%s: %s has no API version: %q", name, symbol, r.kind)
			}
		}
		for symbol, m := range one.modules {
			use(m.body)
			if m.when != nil {
				use(*m.when)
			}
			file := filepath.ToSlash(filepath.Join(filepath.Dir(name), m.kind))
			module, found := all[file]
			if !found && filepath.Ext(file) == ".json" {
				module, found = compiled(t, file), true
			}
			if !found {
				t.Errorf("%s: module %s: %s does not exist", name, symbol, m.kind)
				continue
			}
			given := m.body.at("params").object
			for param := range given {
				if _, declared := module.params[param]; !declared {
					t.Errorf("%s: module %s has no parameter %s", name, symbol, param)
				}
			}
			for param, d := range module.params {
				if _, there := given[param]; !there && !d.byDefault {
					t.Errorf("%s: module %s does not get %s", name, symbol, param)
				}
			}
		}
		for param := range one.params {
			if !used[param] {
				t.Errorf("%s: parameter %s is not used", name, param)
			}
		}
		for variable := range one.vars {
			if !used[variable] {
				t.Errorf("%s: variable %s is not used", name, variable)
			}
		}
	}
}

// compiled returns the parameters of a template in ARM's JSON.
func compiled(t *testing.T, file string) template {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var arm struct {
		Parameters map[string]struct {
			Type         string
			DefaultValue any
		}
	}
	if err := json.Unmarshal(text, &arm); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	read := template{file: file, params: map[string]declaration{}}
	for name, p := range arm.Parameters {
		read.params[name] = declaration{kind: p.Type, byDefault: p.DefaultValue != nil}
	}
	return read
}

func ofType(all map[string]template, kind string) map[string]resource {
	found := map[string]resource{}
	for name, one := range all {
		for symbol, r := range one.resources {
			if strings.HasPrefix(r.kind, kind+"@") && !r.existing {
				found[name+" "+symbol] = r
			}
		}
	}
	return found
}

func TestStorageHasNoSharedKeys(t *testing.T) {
	t.Parallel()
	all := templates(t)
	accounts := ofType(all, "Microsoft.Storage/storageAccounts")
	if len(accounts) != 2 {
		t.Errorf("%d storage accounts", len(accounts))
	}
	properties := all["modules/storage.bicep"].vars["properties"]
	for name, account := range accounts {
		if account.body.at("properties").source != "properties" {
			t.Errorf("%s has its own properties", name)
		}
	}
	for member, want := range map[string]string{
		"minimumTlsVersion": "TLS1_2", "allowSharedKeyAccess": "false", "allowBlobPublicAccess": "false", "supportsHttpsTrafficOnly": "true",
	} {
		if got := properties.at(member).value(); got != want {
			t.Errorf("%s is %q, want %q", member, got, want)
		}
	}
}

func TestFunctionApp(t *testing.T) {
	t.Parallel()
	apps := ofType(templates(t), "Microsoft.Web/sites")
	if len(apps) != 1 {
		t.Fatalf("%d apps", len(apps))
	}
	for _, app := range apps {
		properties := app.body.at("properties")
		for want, got := range map[string]string{
			"SystemAssigned":                   app.body.at("identity", "type").value(),
			"functionapp,linux":                app.body.at("kind").value(),
			"true":                             properties.at("httpsOnly").value(),
			"custom":                           properties.at("functionAppConfig", "runtime", "name").value(),
			"1.0":                              properties.at("functionAppConfig", "runtime", "version").value(),
			"1.2":                              properties.at("siteConfig", "minTlsVersion").value(),
			"SystemAssignedIdentity":           properties.at("functionAppConfig", "deployment", "storage", "authentication", "type").value(),
			"restrictToDps ? 'Deny' : 'Allow'": properties.at("siteConfig", "ipSecurityRestrictionsDefaultAction").source,
			"updateStrategy":                   properties.at("functionAppConfig", "siteUpdateStrategy", "type").source,
			"instanceMemoryMB":                 properties.at("functionAppConfig", "scaleAndConcurrency", "instanceMemoryMB").source,
		} {
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if ready := properties.at("functionAppConfig", "scaleAndConcurrency", "alwaysReady").source; !strings.Contains(ready, "name: 'http', instanceCount: alwaysReadyInstances") {
			t.Errorf("always ready: %s", ready)
		}
	}
	webhook := templates(t)["modules/webhook.bicep"]
	rule := webhook.vars["dpsOnly"].array
	if len(rule) != 1 || rule[0].at("tag").value() != "ServiceTag" || rule[0].at("ipAddress").value() != "AzureIoTHub" || rule[0].at("action").value() != "Allow" {
		t.Errorf("callers: %s", webhook.vars["dpsOnly"].source)
	}
}

// Zone redundancy reaches the plan and the account without which the host does not start.
func TestZoneRedundancy(t *testing.T) {
	t.Parallel()
	all := templates(t)
	for want, got := range map[string]string{
		"zoneRedundant": all["modules/webhook.bicep"].resources["plan"].body.at("properties", "zoneRedundant").source,
		"zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS'": all["modules/storage.bicep"].resources["host"].body.at("sku", "name").source,
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, module := range []string{"storage", "webhook"} {
		if got := all["main.bicep"].modules[module].body.at("params", "zoneRedundant").source; got != "zoneRedundant" {
			t.Errorf("the module %s gets zoneRedundant %q", module, got)
		}
	}
}

// A type has one API version everywhere, which is not a preview, and one that knows the properties that we set.
func TestAPIVersions(t *testing.T) {
	t.Parallel()
	first := map[string]string{
		"Microsoft.Devices/provisioningServices": "2026-08-31", // links by identity, disableLocalAuth
		"Microsoft.Devices/IotHubs":              "2023-06-30", // disableLocalAuth
		"Microsoft.Web/sites":                    "2024-11-01", // siteUpdateStrategy
	}
	versions := map[string]string{}
	for name, one := range templates(t) {
		for symbol, r := range one.resources {
			kind, version, found := strings.Cut(r.kind, "@")
			if !found {
				continue // a nested resource has that of its parent
			}
			if len(version) != len("2026-08-31") || version < first[kind] {
				t.Errorf("%s: %s has API version %s, want a stable one from %s on", name, symbol, version, first[kind])
			}
			if other, seen := versions[kind]; seen && other != version {
				t.Errorf("%s: %s has API version %s, and another %s has %s", name, symbol, version, kind, other)
			}
			versions[kind] = version
		}
	}
	for kind := range first {
		if versions[kind] == "" {
			t.Errorf("there is no %s", kind)
		}
	}
}

// DPS has no key of a hub, and the switch for keys reaches all of them.
func TestHubsAreLinkedByIdentity(t *testing.T) {
	t.Parallel()
	template := templates(t)["modules/provisioning.bicep"]
	dps := template.resources["dps"]
	linked := dps.body.at("properties", "iotHubs").source
	for _, want := range []string{"authenticationType: 'UserAssigned'", "selectedUserAssignedIdentityResourceId: identity.id", "hostName: hub[i].properties.hostName"} {
		if !strings.Contains(linked, want) {
			t.Errorf("the links have no %s: %s", want, linked)
		}
	}
	for symbol, resource := range template.resources {
		if strings.Contains(resource.body.source, "listKeys") || strings.Contains(resource.body.source, "connectionString") {
			t.Errorf("%s uses a key", symbol)
		}
	}
	for _, symbol := range []string{"hub", "dps"} {
		if got := template.resources[symbol].body.at("properties", "disableLocalAuth").source; got != "disableLocalAuth" {
			t.Errorf("%s: disableLocalAuth is %q", symbol, got)
		}
	}
	if got := dps.body.at("dependsOn").source; got != "[link]" {
		t.Errorf("DPS may link the hubs before it has its role: dependsOn is %q", got)
	}
}

// The route in the URL for enrollments is that of the function.
func TestURLIsThatOfTheFunction(t *testing.T) {
	t.Parallel()
	url := templates(t)["modules/webhook.bicep"].outputs["url"].source
	folders, err := filepath.Glob(filepath.Join("..", "*", "function.json"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("functions: %v, %v", folders, err)
	}
	name := filepath.Base(filepath.Dir(folders[0]))
	text, err := os.ReadFile(folders[0])
	if err != nil {
		t.Fatal(err)
	}
	var function struct {
		Bindings []struct{ Type, AuthLevel, Route string }
	}
	if err := json.Unmarshal(text, &function); err != nil {
		t.Fatal(err)
	}
	if b := function.Bindings[0]; b.Type != "httpTrigger" || b.AuthLevel != "function" || b.Route != "" {
		t.Errorf("binding %+v", b)
	}
	if !strings.HasSuffix(url, "/api/"+name+"'") {
		t.Errorf("the URL is %s, the function %s", url, name)
	}
}

// appSettings returns the settings that the template gives to the app.
func appSettings(t *testing.T) []string {
	t.Helper()
	settings := templates(t)["modules/webhook.bicep"].resources["app::settings"]
	var names []string
	var collect func(node)
	collect = func(n node) {
		for name := range n.object {
			names = append(names, name)
		}
		for _, part := range n.parts {
			collect(part)
		}
	}
	collect(settings.body.at("properties"))
	return names
}

// The settings in the template exist: those of Usher are in the example of all settings, which another test compares
// with the code.
func TestAppSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "local.settings.json.example"))
	if err != nil {
		t.Fatal(err)
	}
	var example struct{ Values map[string]string }
	if err := json.Unmarshal(text, &example); err != nil {
		t.Fatal(err)
	}
	known := []string{"AzureWebJobsStorage__accountName", "AzureWebJobsStorage__credential",
		"APPLICATIONINSIGHTS_CONNECTION_STRING", "APPLICATIONINSIGHTS_AUTHENTICATION_STRING"}
	names := appSettings(t)
	if !slices.Contains(names, "USHER_RULES") || !slices.Contains(names, "USHER_RECORD_SINKS") {
		t.Errorf("settings %q", names)
	}
	for _, name := range names {
		if _, ours := example.Values[name]; !ours && !slices.Contains(known, name) {
			t.Errorf("nothing reads the setting %s", name)
		}
		// Flex Consumption refuses an app that has these.
		for _, never := range []string{"FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "WEBSITE_RUN_FROM_PACKAGE", "AzureWebJobsStorage"} {
			if name == never {
				t.Errorf("Flex Consumption has no setting %s", name)
			}
		}
	}
}

// An operator's settings of look-ups reach the app, and replace none of the template's own: union keeps the last value.
func TestLookupSettings(t *testing.T) {
	t.Parallel()
	source := templates(t)["modules/webhook.bicep"].resources["app::settings"].body.at("properties").source
	if !strings.HasPrefix(source, "union(lookups,") {
		t.Errorf("settings are %.40q", source)
	}
}

// Roles are as narrow as possible: each is assigned on only the resource named here.
func TestRoles(t *testing.T) {
	t.Parallel()
	all := templates(t)
	want := map[string]string{
		"modules/webhook.bicep hostStorage":      "blobDataOwner on host",
		"modules/webhook.bicep readRules":        "blobDataReader on data::blobs::rules",
		"modules/webhook.bicep readSnapshots":    "blobDataReader on data::blobs::lookups",
		"modules/webhook.bicep readRows":         "tableDataReader on data::tables::lookups",
		"modules/storage.bicep writeRows":        "tableDataContributor on data::tables::lookups",
		"modules/webhook.bicep appendRecords":    "appender on data::blobs::records",
		"modules/webhook.bicep publishTelemetry": "monitoringMetricsPublisher on appInsights",
		"modules/storage.bicep uploadRules":      "blobDataContributor on data::blobs::rules",
		"modules/storage.bicep uploadSnapshots":  "blobDataContributor on data::blobs::lookups",
		"modules/storage.bicep readRecords":      "blobDataReader on data::blobs::records",
		"modules/provisioning.bicep enroll":      "provisioningDataContributor on dps",
		"modules/provisioning.bicep link":        "hubDataContributor on hub[i]",
	}
	got := map[string]string{}
	for name, assignment := range ofType(all, "Microsoft.Authorization/roleAssignments") {
		definition := assignment.body.at("properties", "roleDefinitionId")
		role := "?"
		for _, symbol := range definition.all() {
			role = symbol
		}
		got[name] = role + " on " + assignment.body.at("scope").source
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: got %q, want %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s is an unexpected role: %s", name, got[name])
		}
	}
	// Source: https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
	ids := map[string]string{
		"blobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b", "blobDataContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
		"tableDataReader": "76199698-9eea-4c19-bc75-cec21354c6b6", "tableDataContributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
		"blobDataReader": "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1", "monitoringMetricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",
		"provisioningDataContributor": "dfce44e4-17b7-4bd1-a6d1-04996ec95633", "hubDataContributor": "4fc6c259-987e-4a07-842e-c321cc9d413f",
	}
	for _, one := range all {
		for name, id := range ids {
			if v, there := one.vars[name]; there && v.value() != id {
				t.Errorf("%s: %s is %s", one.file, name, v.value())
			}
		}
	}
	for name, role := range ofType(all, "Microsoft.Authorization/roleDefinitions") {
		permissions := role.body.at("properties", "permissions").array[0]
		if len(permissions.at("actions").array) != 0 {
			t.Errorf("%s may manage resources", name)
		}
		for _, action := range permissions.at("dataActions").array {
			if strings.HasSuffix(action.value(), "/write") || strings.HasSuffix(action.value(), "/delete") || strings.Contains(action.value(), "*") {
				t.Errorf("%s may %s", name, action.value())
			}
		}
	}
}

// The templates output no keys.
func TestOutputsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	for name, one := range templates(t) {
		for output, value := range one.outputs {
			if strings.Contains(strings.ToLower(value.source), "key") {
				t.Errorf("%s: output %s is %s", name, output, value.source)
			}
		}
	}
}

// azd only sets parameters that the template has.
func TestParameters(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("main.parameters.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Parameters map[string]struct{ Value string }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	main := templates(t)["main.bicep"]
	for name := range file.Parameters {
		if _, there := main.params[name]; !there {
			t.Errorf("main.bicep has no parameter %s", name)
		}
	}
	for name, d := range main.params {
		if _, there := file.Parameters[name]; !there && !d.byDefault {
			t.Errorf("azd does not set the parameter %s", name)
		}
	}
}
