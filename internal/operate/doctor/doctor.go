// Package doctor examines the whole chain from the enrollments of a DPS instance over
// the webhook to the rules, and says of each fault how to mend it.
package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/enrollment"
)

// Level says how much a finding weighs.
type Level string

// The levels: devices fail, or somebody should look.
const (
	Error   Level = "error"
	Warning Level = "warning"
)

// Kind is a kind of fault that is looked for.
type Kind struct {
	ID    string
	Level Level
	Title string
}

// Kinds lists them all.
func Kinds() []Kind {
	return []Kind{
		{"webhook-missing", Error, "an enrollment has custom allocation and no webhook"},
		{"webhook-elsewhere", Error, "an enrollment calls another webhook"},
		{"webhook-insecure", Error, "the webhook is called without TLS"},
		{"key-missing", Error, "the URL in an enrollment has no function key"},
		{"key-differs", Error, "the function key in an enrollment is another one"},
		{"api-version", Warning, "an enrollment asks for AllocationRequests of an unknown api-version"},
		{"unserved", Error, "no rule serves an enrollment that asks the webhook"},
		{"not-custom", Warning, "a rule names an enrollment for which DPS does not ask"},
		{"no-such-enrollment", Warning, "a rule names an enrollment that there is not"},
		{"unlinked-hub", Error, "a rule names a hub that no enrollment can go to"},
		{"attestation-blind", Error, "a rule says nothing for the attestation type of its enrollment"},
		{"unreachable", Error, "the webhook does not answer"},
		{"wrong-url", Error, "there is no webhook at the URL"},
		{"restricted", Warning, "the webhook admits no calls from here, so it was not looked at"},
		{"keyless", Error, "the webhook answers without a key"},
		{"key-refused", Error, "the webhook does not take the key"},
		{"undecided", Warning, "the webhook has no decision about a made-up device"},
		{"cold", Warning, "the first answer takes longer than DPS may wait"},
		{"slow", Warning, "answers take longer than a second"},
	}
}

// Finding is one fault.
type Finding struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Where is the enrollment, the rule with its file and line, or the webhook.
	Where   string `json:"where"`
	Message string `json:"message"`
	Mend    string `json:"mend"`
}

// Probe is one request that the webhook was asked.
type Probe struct {
	// Enrollment is whose request it was.
	Enrollment string `json:"enrollment"`
	Status     int    `json:"status"`
	// ColdMs is how long the first answer took, WarmMs the median of those after it.
	ColdMs float64 `json:"coldMs"`
	WarmMs float64 `json:"warmMs"`
	Warm   int     `json:"warm"` // how many went into the median
}

// Report is what was found.
type Report struct {
	Enrollments int       `json:"enrollments"`
	Custom      int       `json:"custom"` // those with custom allocation
	Rules       int       `json:"rules"`
	Findings    []Finding `json:"findings"`
	Probe       *Probe    `json:"probe,omitempty"`
}

// Options say what is examined.
type Options struct {
	Enrollments []enrollment.Enrollment
	// Rules are those of the webhook, and Files where they were read from; without
	// them nothing about rules is told.
	Rules *decider.Rules
	Files fs.FS
	// Hubs are those that are linked to the DPS instance, if known.
	Hubs []string
	// Webhook is where enrollments should point, with its key; the zero value
	// compares them with one another and asks nothing.
	Webhook enrollment.Webhook
	// Client calls the webhook; nil means one of Go's.
	Client *http.Client
	// Now tells the time.
	Now func() time.Time
}

// Examine looks at everything and changes nothing. Its error is that something could
// not be looked at.
func Examine(ctx context.Context, options Options) (Report, error) {
	e := &examination{Options: options}
	e.report.Enrollments = len(options.Enrollments)
	for _, one := range options.Enrollments {
		if one.AllocationPolicy() == "custom" {
			e.custom = append(e.custom, one)
		}
	}
	e.report.Custom = len(e.custom)
	e.definitions()
	if options.Rules != nil {
		e.report.Rules = len(options.Rules.All())
		if err := e.rules(ctx); err != nil {
			return Report{}, err
		}
	}
	if options.Webhook.URL != "" {
		e.call(ctx)
	}
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	slices.SortStableFunc(e.report.Findings, func(a, b Finding) int { return cmp.Compare(a.Level, b.Level) })
	return e.report, nil
}

type examination struct {
	Options
	custom []enrollment.Enrollment
	report Report
}

// find adds a finding. Its level is that of the list.
func (e *examination) find(id, where, message, mend string) {
	kinds := Kinds()
	kind := kinds[slices.IndexFunc(kinds, func(k Kind) bool { return k.ID == id })]
	e.report.Findings = append(e.report.Findings, Finding{ID: id, Level: kind.Level, Where: where, Message: message, Mend: mend})
}

// apiVersions are those that DPS takes for the shape of AllocationRequests.
// Source: docs/dps-behaviours.md
var apiVersions = []string{"2018-09-01-preview", "2018-11-01", "2019-03-31", "2021-06-01", "2021-10-01", "2021-11-01-preview", "2025-07-01-preview"}

// definitions looks at what each enrollment says of its webhook.
func (e *examination) definitions() {
	reference := e.Webhook
	if reference.URL == "" && len(e.custom) > 0 {
		reference = e.commonest()
	}
	for _, one := range e.custom {
		webhook, where := one.Webhook(), one.String()
		switch {
		case webhook.URL == "":
			e.find("webhook-missing", where, "its allocation policy is custom, and it has no webhook: no device gets a hub",
				"usher enroll with --webhook")
			continue
		case !webhook.SameAddress(reference):
			e.find("webhook-elsewhere", where, "it calls "+webhook.Address()+", not "+reference.Address(),
				"usher enroll with --webhook, unless it is meant to")
			continue
		case !strings.HasPrefix(webhook.URL, "https:"):
			e.find("webhook-insecure", where, "it calls "+webhook.Address()+" without TLS: keys and devices are readable on the way",
				"usher enroll with the https URL")
		}
		switch key := webhook.Key(); {
		case key == "" && reference.Key() != "":
			e.find("key-missing", where, "the URL has no function key: the webhook answers 401, devices fail with 400209",
				"usher enroll with --key-file")
		case key != reference.Key() && reference.Key() != "":
			e.find("key-differs", where, "the function key is another one than that of the webhook",
				"usher enroll --rotate-key, before the old key is taken back")
		}
		if !slices.Contains(apiVersions, webhook.APIVersion) {
			e.find("api-version", where, fmt.Sprintf("it asks for the AllocationRequests of api-version %q, which is not known", webhook.APIVersion),
				"usher enroll, which sets "+enrollment.DefaultAPIVersion)
		}
	}
}

// commonest is the webhook that most enrollments call, with the key that most have.
func (e *examination) commonest() enrollment.Webhook {
	count := map[enrollment.Webhook]int{}
	var best enrollment.Webhook
	for _, one := range e.custom {
		webhook := enrollment.Webhook{URL: one.Webhook().URL}
		if count[webhook]++; count[webhook] > count[best] {
			best = webhook
		}
	}
	return best
}

func asDPS(one enrollment.Enrollment) dps.Enrollment {
	kind := dps.EnrollmentGroup
	if one.Kind == enrollment.Individual {
		kind = dps.IndividualEnrollment
	}
	return dps.Enrollment{Kind: kind, ID: one.ID()}
}

// rules holds the enrollments against the rules.
func (e *examination) rules(ctx context.Context) error {
	options := lint.Options{Hubs: e.Hubs}
	for _, one := range e.Enrollments {
		rule := e.Rules.Serving(asDPS(one))
		custom := one.AllocationPolicy() == "custom"
		switch {
		case custom && rule == nil:
			e.find("unserved", one.String(), "no rule serves it: its devices are held, and fail after about seven minutes",
				"name it in a rule's METADATA, or write a rule for all others (package allocation.default)")
		case !custom && rule != nil && !rule.IsDefault():
			e.find("not-custom", one.String(), fmt.Sprintf("the rule %s serves it, and DPS does not ask: its allocation policy is %s",
				rule.Package, cmp.Or(one.AllocationPolicy(), "that of the DPS instance")), "usher enroll, or take it out of the rule's METADATA")
		}
		known := lint.Enrollment{Hubs: one.Hubs(), Attestation: one.Attestation()}
		if one.Kind == enrollment.Group {
			known.GroupID = one.ID()
		} else {
			known.RegistrationID = one.ID()
		}
		options.Enrollments = append(options.Enrollments, known)
	}
	found, err := lint.Run(ctx, e.Files, e.Rules, options)
	if err != nil {
		return err
	}
	for _, f := range found.Findings {
		switch f.Lint {
		case "unlinked-hub", "attestation-blind", "no-such-enrollment":
			e.find(f.Lint, fmt.Sprintf("%s:%d", f.File, f.Line), f.Message, f.Mend)
		}
	}
	return nil
}

// warmProbes is how often the webhook is asked after the first time.
const warmProbes = 5

// Limits for answers. DPS publishes none; 4 s is the longest that is advisable.
const (
	coldLimit = 4 * time.Second
	warmLimit = time.Second
)

// call asks the webhook: with the key, without it, and about a device that there is not.
func (e *examination) call(ctx context.Context) {
	where := e.Webhook.Address()
	// With the key first: without it the Functions host answers by itself, and the
	// handler's start would not be in the time of the first answer.
	start := e.Now()
	status, _, err := enrollment.Post(ctx, e.Client, e.Webhook, []byte("{}"))
	cold := e.Now().Sub(start)
	keyless := status
	if err == nil && e.Webhook.Key() != "" {
		keyless, _, err = enrollment.Post(ctx, e.Client, enrollment.Webhook{URL: where}, []byte("{}"))
	}
	switch {
	case err != nil:
		e.find("unreachable", where, err.Error(), "look at the URL, at the access restrictions of the Function App, and whether it runs")
		return
	case status == http.StatusNotFound:
		e.find("wrong-url", where, "there is nothing at this URL: it answers 404", "the path of the webhook is /api/allocate")
		return
	case status == http.StatusForbidden:
		e.find("restricted", where, "it admits no calls from this address: what follows could not be looked at",
			"that is right for all but DPS; to go on, admit this address for a while (allowedAddresses in infra/)")
		return
	case keyless != http.StatusUnauthorized && e.Webhook.Key() != "":
		e.find("keyless", where, fmt.Sprintf("it answers %d without a key: whoever knows the URL may ask", keyless),
			"authLevel function in allocate/function.json; outside of Functions USHER_FUNCTION_KEYS")
	}
	if err := enrollment.TryKey(ctx, e.Client, e.Webhook); err != nil {
		e.find("key-refused", where, err.Error(), "give the key of the function allocate, or of the host, by --key-file")
		return
	}
	e.probe(ctx, cold)
}

// probe asks about a device of the first enrollment that calls the webhook.
func (e *examination) probe(ctx context.Context, cold time.Duration) {
	index := slices.IndexFunc(e.custom, func(one enrollment.Enrollment) bool { return !one.Disabled() })
	if index < 0 {
		return
	}
	one := e.custom[index]
	body, err := json.Marshal(Request(one, e.Hubs))
	if err != nil {
		return // it came from JSON
	}
	probe := Probe{Enrollment: one.String(), ColdMs: milliseconds(cold), Warm: warmProbes}
	var warm []time.Duration
	for range warmProbes {
		start := e.Now()
		status, answer, err := enrollment.Post(ctx, e.Client, e.Webhook, body)
		if err != nil {
			e.find("unreachable", e.Webhook.Address(), err.Error(), "it answered a moment ago: look at its log")
			return
		}
		warm = append(warm, e.Now().Sub(start))
		probe.Status = status
		if status >= http.StatusTooManyRequests && len(warm) == 1 {
			e.find("undecided", one.String(), fmt.Sprintf("a made-up device of it is answered %d%s", status, reason(answer)),
				"usher explain with a request of a real device; the webhook's record has the reason")
		}
	}
	slices.Sort(warm)
	median := warm[len(warm)/2]
	probe.WarmMs = milliseconds(median)
	e.report.Probe = &probe
	if cold > coldLimit {
		e.find("cold", e.Webhook.Address(), fmt.Sprintf("the first answer took %s; DPS may not wait that long", cold.Round(time.Millisecond)),
			"keep an instance ready (alwaysReadyInstances in infra/)")
	}
	if median > warmLimit {
		e.find("slow", e.Webhook.Address(), fmt.Sprintf("an answer takes %s", median.Round(time.Millisecond)),
			"usher bench finds slow rules; else more memory for the instances, or a region nearer to DPS")
	}
}

// reason is what a problem document says, in brackets.
func reason(answer []byte) string {
	var problem struct{ Code, Detail string }
	if json.Unmarshal(answer, &problem) != nil || problem.Code == "" {
		return ""
	}
	return fmt.Sprintf(" (%s: %s)", problem.Code, problem.Detail)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// ProbeID is the registration ID of the device that is made up for a group.
const ProbeID = "usher-doctor-probe"

// Request is an AllocationRequest as DPS would post it for a first registration of a
// made-up device. hubs are those that are linked to the DPS instance, if known.
func Request(one enrollment.Enrollment, hubs []string) map[string]any {
	record := map[string]any{}
	for name, member := range one.Document {
		record[name] = member
	}
	delete(record, "registrationState")
	webhook := one.Webhook()
	record["customAllocationDefinition"] = map[string]any{"webhookUrl": webhook.Address() + "?****", "apiVersion": webhook.APIVersion}
	record["attestation"] = map[string]any{"type": one.Attestation()}
	linked := one.Hubs()
	if len(linked) == 0 {
		linked = hubs
	}
	if len(linked) == 0 {
		linked = []string{"usher-doctor-probe.azure-devices.net"}
	}
	device := map[string]any{"registrationId": ProbeID}
	member := "enrollmentGroup"
	if one.Kind == enrollment.Individual {
		member, device["registrationId"] = "individualEnrollment", one.ID()
	}
	if one.Attestation() == "symmetricKey" {
		device["symmetricKey"] = map[string]any{}
	}
	return map[string]any{member: record, "deviceRuntimeContext": device, "linkedHubs": linked}
}
