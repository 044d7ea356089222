// Package configfile reads dps.yaml, the configuration of the stand-in for DPS.
package configfile

import (
	"cmp"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"text/template"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Names of the stand-in's shared access policies: Azure's own names for all rights.
const (
	ServicePolicy = "provisioningserviceowner"
	HubPolicy     = "iothubowner"
)

const (
	hubDomain = ".azure-devices.net"
	// answerDelay is the default: the SDK for Java lost one registration in three without it, and none with it.
	answerDelay = 20 * time.Millisecond
	// apiVersion is for enrollments that do not define their webhook.
	apiVersion = "2021-10-01"
)

// File is what dps.yaml says.
type File struct {
	Config      dpssim.Config
	HubPolicy   hub.Policy // of each hub; without keys if the file has none
	Groups      []model.EnrollmentGroup
	Enrollments []model.IndividualEnrollment
	// Warnings say what is allowed and probably a mistake, each with its line.
	Warnings []string
	// Place says where a value is in the file: dps.yaml:12: enrollmentGroups[0] for the path enrollmentGroups[0].
	Place func(path string) string
}

// Options complete what the file says.
type Options struct {
	// Webhook is the URL for enrollments with allocationPolicy custom that name none. The file's webhook.url takes
	// precedence unless WebhookWins.
	Webhook     string
	WebhookWins bool
}

// Load reads the file at path. Paths in it are relative to its folder.
func Load(path string, options Options) (File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return File{}, err
	}
	return Parse(path, text, options)
}

// Parse reads a configuration. Errors begin with name and a line; paths in the file are relative to name's folder. The
// error lists everything that is wrong.
func Parse(name string, text []byte, options Options) (File, error) {
	r, content, err := newReader(name, text)
	if err != nil {
		return File{}, err
	}
	file := r.file(content, options)
	if err := r.err(); err != nil {
		return File{}, err
	}
	return file, nil
}

// settings is dps.yaml without enrollments, where it differs from [dpssim.Config].
type settings struct {
	dpssim.Config
	ServiceKey key `json:"serviceKey"`
	HubKey     key `json:"hubKey"`
	Hubs       []struct {
		dpssim.LinkedHub
		ApplyAllocationPolicy *bool `json:"applyAllocationPolicy"`
	} `json:"hubs"`
	Webhook struct {
		dpssim.Webhook
		URL     string `json:"url"`
		Retries *uint  `json:"retries"`
	} `json:"webhook"`
	EnrollmentGroups []any `json:"enrollmentGroups"`
	Enrollments      []any `json:"enrollments"`
}

func (r *reader) file(content any, options Options) (file File) {
	folder := files(filepath.Dir(r.name))
	var s settings
	r.decode("", content, &s, settingTypes(folder))
	file.Config, file.Place = s.Config, r.place
	config := &file.Config
	for _, hub := range s.Hubs {
		hub.HostName = HubHostName(hub.HostName)
		hub.ExcludeFromAllocation = hub.ApplyAllocationPolicy != nil && !*hub.ApplyAllocationPolicy
		config.Hubs = append(config.Hubs, hub.LinkedHub)
	}
	config.Webhook = s.Webhook.Webhook
	if retries := s.Webhook.Retries; retries != nil {
		config.Webhook.Retries = cmp.Or(int(*retries), -1)
	}
	if s.ServiceKey != "" {
		config.Policies = []dpssim.AccessPolicy{{Name: ServicePolicy, PrimaryKey: string(s.ServiceKey)}}
	}
	file.HubPolicy = hub.Policy{Name: HubPolicy, PrimaryKey: string(s.HubKey), Entra: config.Entra}
	if config.Trouble.Hubs != nil {
		hubs := map[string]string{}
		for name, state := range config.Trouble.Hubs {
			hubs[HubHostName(name)] = state
		}
		config.Trouble.Hubs = hubs
	}
	if r.lines["answerDelay"] == 0 {
		config.AnswerDelay = answerDelay
	}
	if r.lines["timeScale"] > 0 && !(config.TimeScale > 0) {
		r.add("timeScale", "want a number above 0, not %v", config.TimeScale)
	}
	for _, wrong := range config.Check() {
		if !r.isWrong(wrong.Path) {
			r.add(wrong.Path, "%s", wrong.Problem)
		}
	}

	webhook := s.Webhook.URL
	if options.WebhookWins || webhook == "" {
		webhook = options.Webhook
	}
	e := enrollments{r, enrollmentTypes(folder), webhook, map[string]bool{}}
	for i, item := range s.EnrollmentGroups {
		type plain model.EnrollmentGroup // without methods, which do not report unknown members
		var group model.EnrollmentGroup
		e.read(fmt.Sprintf("enrollmentGroups[%d]", i), item, (*plain)(&group), &group, "enrollmentGroupId")
		file.Groups = append(file.Groups, group)
	}
	for i, item := range s.Enrollments {
		type plain model.IndividualEnrollment
		var individual model.IndividualEnrollment
		e.read(fmt.Sprintf("enrollments[%d]", i), item, (*plain)(&individual), &individual, "registrationId")
		file.Enrollments = append(file.Enrollments, individual)
	}
	file.Warnings = r.sharedKeys(file.Groups)
	return file
}

// sharedKeys warns of groups that have a key in common. A registration names no group, so a device's key fits all of
// them. It is no error: nothing is known of DPS refusing such groups, whose keys people choose.
func (r *reader) sharedKeys(groups []model.EnrollmentGroup) (warnings []string) {
	type owner struct {
		group int
		path  string
	}
	owners := map[string]owner{}
	for i, group := range groups {
		symmetric := group.Attestation.SymmetricKey
		if symmetric == nil {
			continue
		}
		for _, of := range []struct{ name, key string }{{"primaryKey", symmetric.PrimaryKey}, {"secondaryKey", symmetric.SecondaryKey}} {
			path := fmt.Sprintf("enrollmentGroups[%d].attestation.symmetricKey.%s", i, of.name)
			first, known := owners[of.key]
			switch {
			case of.key == "":
			case !known:
				owners[of.key] = owner{i, path}
			case first.group != i:
				warnings = append(warnings, fmt.Sprintf("%s: the group %s has the same key, at %s:%d. A registration names no group, so devices of both get the enrollment of one: give each group a key of its own",
					r.place(path), groups[first.group].EnrollmentGroupID, r.name, r.line(first.path)))
			}
		}
	}
	return warnings
}

// HubHostName completes a hub's first label to its host name; "" stays "".
func HubHostName(name string) string {
	if name == "" || strings.Contains(name, ".") {
		return name
	}
	return name + hubDomain
}

// enrollments reads enrollments. They are written as the service API has them, with some short forms:
//
//   - hubs by their first label
//   - reprovisionPolicy: migrate, reset or never
//   - certificateFile: PATH, where the API has a certificate's text
//   - allocationPolicy: custom without a customAllocationDefinition
type enrollments struct {
	*reader
	types   types
	webhook string
	seen    map[string]bool // by ID, with the name of its field
}

// read reads an enrollment into target, which is record without its methods.
func (e *enrollments) read(path string, item, target any, record model.Record, idField string) {
	e.decode(path, item, target, e.types)
	common := record.Common()
	for name := range common.Unknown {
		e.add(below(path, name), "DPS has no such member; it has %s", fieldNames(reflect.TypeOf(record).Elem()))
	}
	id := idField + "=" + strings.ToLower(*record.ID())
	switch {
	case e.isWrong(path):
	case *record.ID() == "":
		e.add(path, "%s is missing", idField)
	case e.seen[id]:
		e.add(path, "another entry has the same %s", idField)
	}
	e.seen[id] = true
	if common.Attestation.Type == "" && !e.isWrong(path) {
		e.add(path, "attestation is missing, as in attestation: {type: symmetricKey}")
	}
	for i, name := range common.IotHubs {
		common.IotHubs[i] = HubHostName(name)
	}
	common.IotHubHostName = HubHostName(common.IotHubHostName)
	if strings.EqualFold(common.AllocationPolicy, model.PolicyCustom) && common.CustomAllocationDefinition == nil {
		if e.webhook == "" {
			e.add(path, "a webhook allocates it, and none is named: set webhook.url")
		}
		common.CustomAllocationDefinition = &model.CustomAllocationDefinition{WebhookURL: e.webhook, APIVersion: apiVersion}
	}
}

//go:embed example.yaml
var example string

// Example is a commented configuration with new keys. deviceCA is the path of the certificate that signs made-up devices,
// as the file should name it. Without hubs it is for the starter rules.
func Example(deviceCA string, hubs ...string) string {
	functions := template.FuncMap{"key": func() string {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		return base64.StdEncoding.EncodeToString(key)
	}}
	var text strings.Builder
	err := template.Must(template.New("example").Funcs(functions).Parse(example)).Execute(&text, struct {
		DeviceCA string
		Hubs     []string
	}{deviceCA, hubs})
	if err != nil {
		panic(err) // impossible: the template is part of the program, and tested
	}
	return text.String()
}
