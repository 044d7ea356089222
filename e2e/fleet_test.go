package e2e_test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// fleetJob is what a page says of a job: its containers, and how many there are of them.
type fleetJob struct {
	Kind string
	Type string
	Spec struct {
		CompletionMode string `yaml:"completionMode"`
		Completions    int
		Parallelism    int
		Template       struct{ Spec fleetPod }
	}
	Properties struct {
		Configuration struct {
			TriggerType string `yaml:"triggerType"`
		}
		Template fleetPod
	}
}

type fleetPod struct {
	Containers []struct {
		Args         []string
		VolumeMounts []struct {
			Name       string
			VolumeName string `yaml:"volumeName"`
			MountPath  string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	Volumes []struct{ Name string }
}

var fleetBlock = regexp.MustCompile("(?ms)^```(\\w+) ?([^\\n]*)\\n(.*?)^```$")

// The jobs of docs/fleets.md: each replays its shard of the records in Azurite as a process of its own, and what they
// report is merged to the bytes of one replay.
func TestFleet(t *testing.T) {
	t.Parallel()
	needStorage(t)
	page, err := os.ReadFile("../docs/fleets.md")
	if err != nil {
		t.Fatal(err)
	}
	ca, who := newAuthority(t), startIdentity(t)
	store := startStorage(t, ca, who)
	folder := t.TempDir()
	// The old rules are those of the repository, the new ones move a part of the devices.
	for _, name := range []string{"rules", "new"} {
		if err := os.CopyFS(filepath.Join(folder, name), os.DirFS("../rules")); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(folder, "new/staged/data.json")
	text, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, bytes.Replace(text, []byte(`"percent": 10`), []byte(`"percent": 25`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	const files, devices = 12, 400
	for n := range files {
		var log strings.Builder
		for i := range 200 {
			id := fmt.Sprintf("%s-%06d", []string{"dev", "DEV"}[n%2], (n*131+i*7)%devices)
			fmt.Fprintf(&log, `{"enrollmentGroup": {"enrollmentGroupId": "staged-devices"}, "deviceRuntimeContext": {"registrationId": %q, `+
				`"currentIotHubHostName": "contoso-v1-hub.azure-devices.net"}, "linkedHubs": ["contoso-v1-hub.azure-devices.net", "contoso-v2-hub.azure-devices.net"]}`+"\n", id)
		}
		log.WriteString("a line of no use\n")
		if _, err := store.client.UploadBuffer(t.Context(), "decisions", fmt.Sprintf("records/2026/11/%02d/i-1.ndjson", n+1), []byte(log.String()), nil); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) ([]byte, error) {
		command := exec.CommandContext(t.Context(), program(t, "usher"), args...)
		command.Dir = folder
		command.Env = append(os.Environ(), "SSL_CERT_FILE="+ca.file, "IDENTITY_ENDPOINT="+who.URL+"/msi/token", "IDENTITY_HEADER="+who.header)
		var stderr bytes.Buffer
		command.Stderr = &stderr
		output, err := command.Output()
		if err != nil {
			err = fmt.Errorf("usher %s: %w\n%s%s", strings.Join(args, " "), err, output, &stderr)
		}
		for _, secret := range []string{who.header, who.token, store.key} {
			if bytes.Contains(append(output, stderr.Bytes()...), []byte(secret)) {
				t.Errorf("usher %s prints a secret", strings.Join(args, " "))
			}
		}
		return output, err
	}
	jobs := 0
	for _, block := range fleetBlock.FindAllStringSubmatch(string(page), -1) {
		if block[1] != "yaml" {
			continue
		}
		var job fleetJob
		if err := yaml.UnmarshalWithOptions([]byte(block[3]), &job); err != nil {
			t.Fatalf("%v\n%s", err, block[3])
		}
		pod, of := job.Spec.Template.Spec, job.Spec.Completions
		if job.Kind == "" {
			pod, of = job.Properties.Template, 8
		}
		kind := cmp.Or(job.Kind, job.Type)
		if len(pod.Containers) != 1 || len(pod.Containers[0].VolumeMounts) != 1 || len(pod.Volumes) != 1 ||
			cmp.Or(pod.Containers[0].VolumeMounts[0].Name, pod.Containers[0].VolumeMounts[0].VolumeName) != pod.Volumes[0].Name ||
			kind == "Job" && job.Spec.CompletionMode != "Indexed" || kind != "Job" && job.Properties.Configuration.TriggerType != "Manual" {
			t.Fatalf("%s: %+v", kind, job)
		}
		jobs++
		reports := filepath.Join(folder, fmt.Sprintf("reports-%d", jobs))
		if err := os.Mkdir(reports, 0o700); err != nil {
			t.Fatal(err)
		}
		// What is in the image and on the volume is in folders of the test.
		local := strings.NewReplacer("https://ACCOUNT.blob.core.windows.net/", store.url(""), "=/new", "=new", "=/rules", "=rules",
			"="+pod.Containers[0].VolumeMounts[0].MountPath+"/", "="+reports+string(filepath.Separator))
		args := func(index int) []string {
			var list []string
			for _, arg := range pod.Containers[0].Args {
				list = append(list, strings.NewReplacer("$(JOB_COMPLETION_INDEX)", fmt.Sprint(index), "SHARD", fmt.Sprint(index)).Replace(local.Replace(arg)))
			}
			return list
		}
		failed := make(chan error, of)
		for i := range of {
			go func() {
				_, err := run(args(i)...)
				failed <- err
			}()
		}
		for range of {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		parts, err := filepath.Glob(filepath.Join(reports, "*.json"))
		if err != nil || len(parts) != of || t.Failed() {
			t.Fatalf("%s: %d reports of %d, %v", kind, len(parts), of, err)
		}
		slices.Reverse(parts) // their order does not matter
		whole := slices.DeleteFunc(args(0), func(arg string) bool {
			return strings.HasPrefix(arg, "--shard=") || strings.HasPrefix(arg, "--report=")
		})
		for _, format := range []string{"json", "text"} {
			want, err := run(append(slices.Clone(whole), "-o", format)...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := run(append([]string{"replay", "merge", "-o", format}, parts...)...)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s, -o %s: merged is\n%s\nand not\n%s", kind, format, got, want)
			}
			if format == "json" && (!bytes.Contains(want, []byte(`"malformed": 12,`)) || !bytes.Contains(want, []byte(`"counted": 400,`)) || !bytes.Contains(want, []byte(`"moved": 62,`))) {
				t.Errorf("%s: one replay reports\n%s", kind, want)
			}
		}
	}
	if jobs != 2 {
		t.Errorf("the page shows %d jobs", jobs)
	}
}
