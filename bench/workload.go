package main

import (
	"embed"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed rules device.pem
var files embed.FS

// workloads are the names of the benchmark's rules, from the simplest to the most complex.
var workloads = []string{"trivial", "tutorial", "medium", "mediumt", "large", "larget"}

const tenants = 1000

// writeRules fills a rules folder with the rules of the repository, which include the library, with the benchmark's
// own, and with a table of a thousand tenants.
func writeRules(repository, folder string) error {
	own, err := fs.Sub(files, "rules")
	if err != nil {
		return err
	}
	for _, rules := range []fs.FS{os.DirFS(filepath.Join(repository, "rules")), own} {
		if err := os.CopyFS(folder, rules); err != nil {
			return err
		}
	}
	table := map[string]any{}
	for i := range tenants {
		labels, hosts := map[string]any{}, map[string]any{}
		for j, label := range hubLabels {
			labels[label] = 1 + (i+j)%7
			hosts[label+hubSuffix] = 1 + (i+j)%7
		}
		table[fmt.Sprintf("tenant %03d ltd", i)] = map[string]any{
			"name": fmt.Sprintf("tenant-%03d", i), "region": "eu", "interval": 30 + i%60, "hubs": labels, "hosts": hosts,
		}
	}
	data, err := json.Marshal(map[string]any{"tenants": table})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(folder, "bench", "data.json"), data)
}

func writeFile(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

const hubSuffix = ".azure-devices.net"

var hubLabels = []string{"contoso-toasters", "contoso-kettles", "contoso-heatpumps", "contoso-fridges"}

// readRequests returns a request for each workload: 1 to 3 KB, in the shape that DPS sends.
func readRequests(repository string) (map[string][]byte, error) {
	// What DPS sent for the appliance of Microsoft's tutorial.
	tutorial, err := os.ReadFile(filepath.Join(repository, "examples/requests/req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json"))
	if err != nil {
		return nil, err
	}
	text, err := files.ReadFile("device.pem")
	if err != nil {
		return nil, err
	}
	certificate, _ := pem.Decode(text)
	var hubs []string
	for _, label := range hubLabels {
		hubs = append(hubs, label+hubSuffix)
	}
	requests := map[string][]byte{"tutorial": tutorial}
	for _, name := range workloads {
		if name == "tutorial" {
			continue
		}
		device := map[string]any{
			"registrationId": "breakroom499-contoso-tstrsd-007",
			"payload":        map[string]any{"model": "HeatPump", "site": "Building 7, floor 3", "firmware": "12.0.2.5", "modules": []string{"a", "b", "c"}},
		}
		attestation := map[string]any{"type": "symmetricKey"}
		if strings.HasPrefix(name, "large") {
			attestation = map[string]any{"type": "x509", "x509": map[string]any{"caReferences": map[string]any{"primary": "contoso-root-ca"}}}
			device["x509"] = map[string]any{"clientCertificate": base64.StdEncoding.EncodeToString(certificate.Bytes)}
		} else {
			device["symmetricKey"] = map[string]any{}
		}
		requests[name], err = json.Marshal(map[string]any{
			"enrollmentGroup": map[string]any{
				"enrollmentGroupId": "bench-" + name, "attestation": attestation,
				"capabilities": map[string]any{"iotEdge": false}, "etag": `"13003fea-0000-0300-0000-62d1d5e50000"`,
				"provisioningStatus": "enabled", "reprovisionPolicy": map[string]any{"updateHubAssignment": true, "migrateDeviceData": true},
				"createdDateTimeUtc": "2022-07-05T21:27:16.8123235Z", "lastUpdatedDateTimeUtc": "2022-07-15T21:02:29.5922255Z",
				"allocationPolicy": "custom", "iotHubs": hubs,
				"initialTwin":                map[string]any{"tags": map[string]any{"fleet": "bench"}, "properties": map[string]any{"desired": map[string]any{"interval": 10}}},
				"customAllocationDefinition": map[string]any{"webhookUrl": "https://contoso.azurewebsites.net/api/allocate?****", "apiVersion": "2021-10-01"},
			},
			"deviceRuntimeContext": device,
			"linkedHubs":           hubs,
		})
		if err != nil {
			return nil, err
		}
	}
	return requests, nil
}
