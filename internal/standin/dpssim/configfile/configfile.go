// Package configfile reads dps.yaml, the configuration of the stand-in for DPS.
package configfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Names of the shared access policies that the stand-in has: Azure's own for all rights.
const (
	ServicePolicy = "provisioningserviceowner"
	HubPolicy     = "iothubowner"
)

const (
	hubDomain = ".azure-devices.net"
	// apiVersion is what enrollments name that leave their webhook to the stand-in.
	apiVersion = "2021-10-01"
	maxFile    = 16 << 20
)

// File is what dps.yaml says.
type File struct {
	Config      dpssim.Config
	HubPolicy   hub.Policy // of each hub; without keys if the file names none
	Groups      []model.EnrollmentGroup
	Enrollments []model.IndividualEnrollment
	// GroupPlaces and EnrollmentPlaces say where each of those is in the file, as
	// in dps.yaml:12: enrollmentGroups[0].
	GroupPlaces, EnrollmentPlaces []string
}

// Options complete what the file says.
type Options struct {
	// Webhook is the URL for enrollments that are allocated by webhook and name none.
	// The file's own webhook.url goes before it unless WebhookWins.
	Webhook     string
	WebhookWins bool
}

// Load reads the file at path. Paths in it are relative to its folder.
func Load(path string, options Options) (File, error) {
	text, err := readUpTo(path, maxFile)
	if err != nil {
		return File{}, err
	}
	return Parse(path, text, options)
}

func readUpTo(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s is larger than %d MiB", path, most>>20)
	}
	return text, err
}

// Parse reads a configuration; name stands before the line of what is wrong with
// it, and its folder is what paths are relative to. The error names all that is wrong.
func Parse(name string, text []byte, options Options) (File, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return File{}, fmt.Errorf("%s:%s", name, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "line "))
	}
	r := &fileReader{reader: reader{name: name}, folder: filepath.Dir(name), options: options}
	root := &yaml.Node{Kind: yaml.MappingNode, Line: 1}
	if len(document.Content) == 1 && !isNull(document.Content[0]) {
		root = document.Content[0]
	}
	r.root(root)
	if len(r.problems) > 0 {
		return File{}, errors.Join(r.problems...)
	}
	return r.file, nil
}

// fileReader fills a File.
type fileReader struct {
	reader
	folder  string
	options Options
	file    File
	webhook string
}

func (r *fileReader) root(root *yaml.Node) {
	config := &r.file.Config
	r.file.HubPolicy.Name = HubPolicy
	var groups, enrollments *yaml.Node
	r.mapping(root, "", fields{
		"name":             r.text(&config.Name),
		"idScope":          r.text(&config.IDScope),
		"serviceKey":       r.serviceKey,
		"hubKey":           r.key(&r.file.HubPolicy.PrimaryKey),
		"allocationPolicy": r.oneOf(&config.AllocationPolicy, model.PolicyHashed, model.PolicyGeoLatency),
		"hubs": func(node *yaml.Node, path string) {
			r.list(node, path, r.hub)
		},
		"certificates": func(node *yaml.Node, path string) {
			r.list(node, path, r.certificate)
		},
		"webhook":     r.webhookSettings,
		"behaviour":   r.behaviour,
		"quotas":      r.quotas,
		"trouble":     r.trouble,
		"retryAfter":  r.duration(&config.RetryAfter),
		"timeScale":   r.number(&config.TimeScale),
		"journalSize": r.integer(&config.JournalSize, 1),
		// Read last: they need the webhook.
		"enrollmentGroups": func(node *yaml.Node, _ string) { groups = node },
		"enrollments":      func(node *yaml.Node, _ string) { enrollments = node },
	})
	if r.options.WebhookWins || r.webhook == "" {
		r.webhook = r.options.Webhook
	}
	if groups != nil {
		r.list(groups, "enrollmentGroups", r.group)
	}
	if enrollments != nil {
		r.list(enrollments, "enrollments", r.individual)
	}
	if len(config.Hubs) == 0 && len(r.problems) == 0 {
		r.wrong(root, "hubs", "link at least one hub, such as: hubs: [{name: contoso-hub}]")
	}
}

// key reads a key in base64, and never shows it.
func (r *fileReader) key(target *string) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		r.text(target)(node, path)
		if decoded, err := attest.DecodeKey(*target); err != nil || len(decoded) < 16 {
			r.wrong(node, path, "want a key: at least 16 bytes in base64, such as openssl rand -base64 32 gives")
		}
	}
}

func (r *fileReader) serviceKey(node *yaml.Node, path string) {
	var key string
	r.key(&key)(node, path)
	r.file.Config.Policies = []dpssim.AccessPolicy{{Name: ServicePolicy, PrimaryKey: key}}
}

func (r *fileReader) hub(node *yaml.Node, path string) {
	linked := dpssim.LinkedHub{}
	allocate := true
	r.mapping(node, path, fields{
		"name":                  r.text(&linked.HostName),
		"weight":                r.integer(&linked.Weight, 1),
		"applyAllocationPolicy": r.boolean(&allocate),
		"latency":               r.duration(&linked.Latency),
	})
	if linked.HostName == "" {
		r.wrong(node, path, "the hub's name is missing, as in {name: contoso-hub}")
		return
	}
	linked.HostName = HubHostName(linked.HostName)
	linked.ExcludeFromAllocation = !allocate
	r.file.Config.Hubs = append(r.file.Config.Hubs, linked)
}

// HubHostName completes a hub's first label to its host name.
func HubHostName(name string) string {
	if strings.Contains(name, ".") {
		return name
	}
	return name + hubDomain
}

func (r *fileReader) certificate(node *yaml.Node, path string) {
	var uploaded dpssim.CACertificate
	var file string
	r.mapping(node, path, fields{"name": r.text(&uploaded.Name), "file": r.text(&file)})
	if uploaded.Name == "" || file == "" {
		r.wrong(node, path, "an uploaded CA certificate needs name and file")
		return
	}
	text, ok := r.read(node, path, file)
	if !ok {
		return
	}
	certificate, err := attest.ParseCertificate(string(text))
	if err != nil {
		r.wrong(node, path, "%s: %v", file, err)
		return
	}
	uploaded.Certificate = certificate
	r.file.Config.Certificates = append(r.file.Config.Certificates, uploaded)
}

// read reads a file beside the configuration.
func (r *fileReader) read(node *yaml.Node, path, file string) ([]byte, bool) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(r.folder, file)
	}
	text, err := readUpTo(file, maxFile)
	if err != nil {
		r.wrong(node, path, "%v", err)
		return nil, false
	}
	return text, true
}

func (r *fileReader) webhookSettings(node *yaml.Node, path string) {
	webhook := &r.file.Config.Webhook
	maxAnswer, caFile := 0, ""
	r.mapping(node, path, fields{
		"url":             r.text(&r.webhook),
		"timeout":         r.duration(&webhook.Timeout),
		"retries":         r.retries,
		"firstInterval":   r.duration(&webhook.FirstInterval),
		"increment":       r.duration(&webhook.Increment),
		"maxConcurrent":   r.integer(&webhook.MaxConcurrent, 1),
		"maxAnswer":       r.integer(&maxAnswer, 1),
		"followRedirects": r.boolean(&webhook.FollowRedirects),
		"acceptAny2xx":    r.boolean(&webhook.AcceptAny2xx),
		"caFile":          r.text(&caFile),
	})
	webhook.MaxAnswer = int64(maxAnswer)
	if caFile != "" {
		if text, ok := r.read(node, below(path, "caFile"), caFile); ok {
			webhook.RootCAs = poolOf(text)
			if webhook.RootCAs == nil {
				r.wrong(node, below(path, "caFile"), "%s has no certificate in PEM", caFile)
			}
		}
	}
}

// retries reads a number whose 0 means none, where that of the Service means the default.
func (r *fileReader) retries(node *yaml.Node, path string) {
	n := 0
	r.integer(&n, 0)(node, path)
	if n == 0 {
		n = -1
	}
	r.file.Config.Webhook.Retries = n
}

func (r *fileReader) behaviour(node *yaml.Node, path string) {
	b := &r.file.Config.Behaviour
	r.mapping(node, path, fields{
		"noAnswer":                 r.oneOf(&b.NoAnswer, dpssim.NoAnswerRetries, dpssim.NoAnswerFails),
		"retriesExhaustedCode":     r.integer(&b.RetriesExhaustedCode, 400000),
		"unknownHubCode":           r.integer(&b.UnknownHubCode, 400000),
		"badAnswerCode":            r.integer(&b.BadAnswerCode, 400000),
		"hubRefusedCode":           r.integer(&b.HubRefusedCode, 400000),
		"sameHubSubstatus":         r.oneOf(&b.SameHubSubstatus, model.SubstatusInitialAssignment, model.SubstatusReprovisionedInitialAssignment),
		"unsetReprovision":         r.oneOf(&b.UnsetReprovision, dpssim.ReprovisionMigrate, dpssim.ReprovisionReset, dpssim.ReprovisionNever),
		"concurrent":               r.oneOf(&b.Concurrent, dpssim.ConcurrentRefused, dpssim.ConcurrentJoins),
		"excludedHubsInLinkedHubs": r.boolean(&b.ExcludedHubsInLinkedHubs),
	})
}

func (r *fileReader) quotas(node *yaml.Node, path string) {
	q := &r.file.Config.Quota
	r.mapping(node, path, fields{
		"registrationsPerMinute": r.integer(&q.RegistrationsPerMinute, 0),
		"operationsPerMinute":    r.integer(&q.OperationsPerMinute, 0),
	})
}

// trouble is what the management endpoint takes, with hubs by first label too.
func (r *fileReader) trouble(node *yaml.Node, path string) {
	if isNull(node) {
		return
	}
	text, ok := r.json(node, path, 0)
	if !ok {
		return
	}
	trouble, err := dpssim.ParseTrouble(text)
	if err != nil {
		r.wrong(node, path, "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "trouble: "), "json: "))
		return
	}
	hubs := map[string]string{}
	for name, state := range trouble.Hubs {
		hubs[HubHostName(name)] = state
	}
	trouble.Hubs = hubs
	r.file.Config.Trouble = trouble
}
