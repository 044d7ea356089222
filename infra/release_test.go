package infra_test

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func readRoot(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The default of an argument that BuildKit sets would win over BuildKit's value, and the image for arm64 would contain
// a program for amd64. Source: https://github.com/docker/buildx/issues/510
func TestImageIsOfItsPlatform(t *testing.T) {
	t.Parallel()
	text := readRoot(t, "Dockerfile")
	for _, line := range regexp.MustCompile(`(?m)^ARG .*$`).FindAllString(text, -1) {
		if strings.Contains(line, "TARGET") && strings.Contains(line, "=") {
			t.Errorf("%s: the default wins over the requested platform", line)
		}
	}
	for _, want := range []string{"ARG TARGETOS TARGETARCH", "GOOS=$TARGETOS GOARCH=$TARGETARCH"} {
		if !strings.Contains(text, want) {
			t.Errorf("the program is not built for the platform of the image: %q is missing", want)
		}
	}
}

// Goreleaser empties its folder, runs the hook, and stops if the folder is no longer empty. So the hook must write
// elsewhere. Source: https://github.com/goreleaser/goreleaser/blob/main/internal/pipe/dist/dist.go
func TestReleaseHookStaysOutOfTheReleaseFolder(t *testing.T) {
	t.Parallel()
	text := readRoot(t, ".goreleaser.yaml")
	folder := "dist"
	if match := regexp.MustCompile(`(?m)^dist: *(\S+)$`).FindStringSubmatch(text); match != nil {
		folder = match[1]
	}
	files := regexp.MustCompile(`glob: *(\S+)`).FindAllStringSubmatch(text, -1)
	if len(files) == 0 {
		t.Error("the release does not contain the deployment package")
	}
	for _, file := range files {
		if path.Dir(file[1]) == path.Clean(folder) {
			t.Errorf("%s is in %s, which must be empty after the hook that makes it", file[1], folder)
		}
	}
}

// By default, the Functions host samples what it sends to Application Insights above 20 items per second. Decision
// records and log lines are traces there, and alerts count them. Source:
// https://learn.microsoft.com/azure/azure-functions/functions-host-json
func TestRecordsAreNotSampled(t *testing.T) {
	t.Parallel()
	var host struct {
		Logging struct {
			ApplicationInsights struct {
				SamplingSettings struct {
					IsEnabled     *bool
					ExcludedTypes string
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(readRoot(t, "host.json")), &host); err != nil {
		t.Fatal(err)
	}
	sampling := host.Logging.ApplicationInsights.SamplingSettings
	off := sampling.IsEnabled != nil && !*sampling.IsEnabled
	if !off && !slices.Contains(strings.Split(sampling.ExcludedTypes, ";"), "Trace") {
		t.Errorf("traces are sampled: %+v", sampling)
	}
}

// The page about deployment lists the settings of azd with their defaults.
func TestDeploySettings(t *testing.T) {
	t.Parallel()
	var file struct {
		Parameters map[string]struct{ Value string }
	}
	if err := json.Unmarshal([]byte(readRoot(t, "infra/main.parameters.json")), &file); err != nil {
		t.Fatal(err)
	}
	page := readRoot(t, "docs/deploy.md")
	row := regexp.MustCompile("(?m)^\\| `(USHER_DEPLOY_[A-Z_]+)` \\| .* \\| (.+) \\|$")
	documented := map[string]string{}
	for _, match := range row.FindAllStringSubmatch(page, -1) {
		documented[match[1]] = strings.Trim(match[2], "`")
	}
	for parameter, p := range file.Parameters {
		name, fallback, _ := strings.Cut(strings.Trim(p.Value, "${}"), "=")
		if !strings.HasPrefix(name, "USHER_") {
			continue
		}
		if fallback == "" {
			fallback = "none"
		}
		if documented[name] != fallback {
			t.Errorf("parameter %s: %s has the default %q, but the page says %q", parameter, name, fallback, documented[name])
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("nothing reads %s", name)
	}
}
