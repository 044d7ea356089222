package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed rules
var benchRules embed.FS

// workload is one rule and a request for it.
type workload struct {
	name string
	body []byte
}

// The workloads, from the least that a rule can say to much of what one says.
var workloadNames = []string{"trivial", "tutorial", "medium", "mediumt", "large", "larget"}

const tenants = 1000

// writeRules lays out a rules folder: those of the repository (their library
// among them), the benchmark's own, and a table of a thousand tenants.
func writeRules(repository, folder string) error {
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(repository, "rules"))); err != nil {
		return err
	}
	own, err := fs.Sub(benchRules, "rules")
	if err != nil {
		return err
	}
	if err := os.CopyFS(folder, own); err != nil {
		return err
	}
	table := map[string]any{}
	for i := range tenants {
		hubs, hosts := map[string]any{}, map[string]any{}
		for j := range 4 {
			hubs[hubLabel(j)] = 1 + (i+j)%7
			hosts[hubLabel(j)+hubSuffix] = 1 + (i+j)%7
		}
		table[fmt.Sprintf("tenant %03d ltd", i)] = map[string]any{
			"name": fmt.Sprintf("tenant-%03d", i), "region": "eu", "interval": 30 + i%60, "hubs": hubs, "hosts": hosts,
		}
	}
	data, err := json.Marshal(map[string]any{"tenants": table})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(folder, "bench"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "bench", "data.json"), data, 0o644)
}

const hubSuffix = ".azure-devices.net"

func hubLabel(i int) string {
	return "contoso-" + []string{"toasters", "kettles", "heatpumps", "fridges"}[i]
}

// workloads builds the requests: 1 to 3 KB, in the shape that DPS sends.
func workloads(repository string) ([]workload, error) {
	certificate, err := deviceCertificate()
	if err != nil {
		return nil, err
	}
	var list []workload
	for _, name := range workloadNames {
		var request map[string]any
		if name == "tutorial" {
			// What DPS sent for the appliance of Microsoft's tutorial.
			body, err := os.ReadFile(filepath.Join(repository, "examples/requests/req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json"))
			if err != nil {
				return nil, err
			}
			list = append(list, workload{name, body})
			continue
		}
		device := map[string]any{
			"registrationId": "breakroom499-contoso-tstrsd-007",
			"payload":        map[string]any{"model": "HeatPump", "site": "Building 7, floor 3", "firmware": "12.0.2.5", "modules": []string{"a", "b", "c"}},
		}
		attestation := map[string]any{"type": "symmetricKey"}
		if strings.HasPrefix(name, "large") {
			attestation = map[string]any{"type": "x509", "x509": map[string]any{"caReferences": map[string]any{"primary": "contoso-root-ca"}}}
			device["x509"] = map[string]any{"clientCertificate": certificate}
		} else {
			device["symmetricKey"] = map[string]any{}
		}
		var hubs []string
		for i := range 4 {
			hubs = append(hubs, hubLabel(i)+hubSuffix)
		}
		request = map[string]any{
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
		}
		body, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		list = append(list, workload{name, body})
	}
	return list, nil
}
