// Package doctor examines the whole chain from the enrollments of a DPS instance over the webhook to the rules, and
// reports for each problem how to fix it.
package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/enrollment"
)

// Level is the severity of a finding.
type Level string

// An Error makes devices fail; a Warning deserves a look.
const (
	Error   Level = "error"
	Warning Level = "warning"
)

// Kind is a kind of problem that the doctor looks for.
type Kind struct {
	ID    string
	Level Level
	Title string
}

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		{"webhook-missing", Error, "an enrollment has custom allocation and no webhook"},
		{"webhook-elsewhere", Error, "an enrollment calls another webhook"},
		{"webhook-insecure", Error, "an enrollment calls the webhook on another machine without TLS"},
		{"key-missing", Error, "the URL in an enrollment has no function key"},
		{"key-differs", Error, "an enrollment has a different function key"},
		{"label-invalid", Error, "the URL in an enrollment names the DPS instance in a way that the webhook refuses"},
		{"label-differs", Warning, "enrollments of the DPS instance give it different names"},
		{"api-version", Warning, "an enrollment asks for AllocationRequests of an unknown api-version"},
		{"hub-twice", Warning, "a hub is linked, or selected in an enrollment, under both of its host names"},
		{"unserved", Error, "no rule serves an enrollment that calls the webhook"},
		{"not-custom", Warning, "a rule names an enrollment that does not call the webhook"},
		{"no-such-enrollment", Warning, "a rule names an enrollment that does not exist"},
		{"unlinked-hub", Error, "a rule names a hub that none of its enrollments can use"},
		{"attestation-blind", Error, "a rule decides nothing for the attestation type of its enrollment"},
		{"lookup-failed", Error, "a source of a look-up does not answer, or gives what is not declared"},
		{"lookup-doubtful", Warning, "a look-up is answered with old rows, or with rows that lack a misspelt member"},
		{"unreachable", Error, "the webhook does not answer"},
		{"wrong-url", Error, "there is no webhook at the URL"},
		{"restricted", Warning, "the webhook does not admit calls from this machine, so it was not examined"},
		{"keyless", Error, "the webhook answers without a key"},
		{"key-refused", Error, "the webhook does not accept the key"},
		{"undecided", Warning, "the webhook reaches no decision about a made-up device"},
		{"cold", Warning, "the first answer takes longer than DPS may wait"},
		{"slow", Warning, "answers take longer than a second"},
	}
}

// Finding is one problem.
type Finding struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Where is the enrollment, the rule with its file and line, or the webhook.
	Where   string `json:"where"`
	Message string `json:"message"`
	Fix     string `json:"mend"`
}

// Probe describes the requests that were sent to the webhook.
type Probe struct {
	// Enrollment is the enrollment of the made-up device.
	Enrollment string `json:"enrollment"`
	Status     int    `json:"status"`
	// ColdMs is the time of the first answer, WarmMs the median of those after it.
	ColdMs float64 `json:"coldMs"`
	WarmMs float64 `json:"warmMs"`
	Warm   int     `json:"warm"` // number of answers in the median
}

// Report is the result of an examination.
type Report struct {
	Enrollments int       `json:"enrollments"`
	Custom      int       `json:"custom"` // enrollments with custom allocation
	Rules       int       `json:"rules"`
	Findings    []Finding `json:"findings"`
	Probe       *Probe    `json:"probe,omitempty"`
}

// Options select what is examined.
type Options struct {
	Enrollments []enrollment.Enrollment
	// Rules are the rules of the webhook. If they are nil, they are not examined.
	Rules *decider.Rules
	// Lints are what a check of the rules against the enrollments found, each of one of the kinds. Their level is not
	// used.
	Lints []Finding
	// Hubs are the hubs that are linked to the DPS instance, if known.
	Hubs []string
	// Webhook is the webhook that enrollments should call, with its key. The zero value compares the enrollments with
	// one another and calls nothing.
	Webhook enrollment.Webhook
	// Client calls the webhook; nil means Go's default.
	Client *http.Client
	// Now returns the time.
	Now func() time.Time
}

// Examine examines everything and changes nothing. It returns an error only if ctx ends.
func Examine(ctx context.Context, options Options) (Report, error) {
	e := &examination{Options: options}
	e.report.Enrollments = len(options.Enrollments)
	for _, one := range options.Enrollments {
		if one.AllocationPolicy() == "custom" {
			e.custom = append(e.custom, one)
		}
	}
	e.report.Custom = len(e.custom)
	e.examineHubs("the DPS instance", options.Hubs)
	e.examineDefinitions()
	if options.Rules != nil {
		e.report.Rules = len(options.Rules.All())
		e.examineRules()
	}
	for _, f := range options.Lints {
		e.add(f.ID, f.Where, f.Message, f.Fix)
	}
	if options.Webhook.URL != "" {
		e.examineWebhook(ctx)
	}
	slices.SortStableFunc(e.report.Findings, func(a, b Finding) int { return cmp.Compare(a.Level, b.Level) })
	return e.report, ctx.Err()
}

type examination struct {
	Options
	custom []enrollment.Enrollment
	report Report
}

// add adds a finding, with the level of its kind.
func (e *examination) add(id, where, message, fix string) {
	kinds := Kinds()
	kind := kinds[slices.IndexFunc(kinds, func(k Kind) bool { return k.ID == id })]
	e.report.Findings = append(e.report.Findings, Finding{ID: id, Level: kind.Level, Where: where, Message: message, Fix: fix})
}

// examineDefinitions compares what the enrollments say about their webhook.
func (e *examination) examineDefinitions() {
	reference := e.Webhook
	if reference.URL == "" && len(e.custom) > 0 {
		reference = e.mostCommonWebhook()
	}
	label := reference.Label()
	for _, one := range e.custom {
		label = cmp.Or(label, one.Webhook().Label())
	}
	for _, one := range e.custom {
		webhook, where := one.Webhook(), one.String()
		e.examineHubs(where, one.Hubs())
		switch {
		case webhook.URL == "":
			e.add("webhook-missing", where, "its allocation policy is custom, but it has no webhook: no device gets a hub",
				"usher enroll with --webhook")
			continue
		case !webhook.SameAddress(reference):
			e.add("webhook-elsewhere", where, "it calls "+webhook.Address()+", not "+reference.Address(),
				"usher enroll with --webhook, unless this is intended")
			continue
		case webhook.Exposed():
			e.add("webhook-insecure", where, "it calls "+webhook.Address()+" without TLS: keys and devices are readable on the way",
				"usher enroll with the https URL")
		}
		switch key := webhook.Key(); {
		case key == "" && reference.Key() != "":
			e.add("key-missing", where, "the URL has no function key: the webhook answers 401, and devices fail with 400209",
				"usher enroll with --key-file")
		case key != reference.Key() && reference.Key() != "":
			e.add("key-differs", where, "its function key is not that of the webhook",
				"usher enroll --rotate-key, before the old key is revoked")
		}
		switch own := webhook.Label(); {
		case own != "" && !dps.ValidService(own):
			e.add("label-invalid", where, "?dps= in its URL is not a name: the webhook answers 400, and devices fail with 400207",
				"usher enroll with --label: 1 to 64 letters, digits, dots, hyphens and underscores")
		case own == "" && label != "":
			e.add("label-differs", where, "its URL does not name the DPS instance, another one has ?dps="+shownLabel(label), "usher enroll with --label")
		case own != label:
			e.add("label-differs", where, "its URL has ?dps="+own+", another one has ?dps="+shownLabel(label), "usher enroll with --label")
		}
		if !slices.Contains(enrollment.WebhookVersions(), webhook.APIVersion) {
			e.add("api-version", where, fmt.Sprintf("it asks for AllocationRequests of the unknown api-version %q", webhook.APIVersion),
				"usher enroll with --api-version "+enrollment.DefaultAPIVersion)
		}
	}
}

// shownLabel returns a label that may be printed: one that is no name could be a key.
func shownLabel(label string) string {
	if !dps.ValidService(label) {
		return "****"
	}
	return label
}

// examineHubs finds hubs that devices can be assigned to under two names.
func (e *examination) examineHubs(where string, hubs []string) {
	for i, hub := range hubs {
		if first := slices.IndexFunc(hubs, func(other string) bool { return dps.SameHub(hub, other) }); first < i {
			e.add("hub-twice", where, hubs[first]+" and "+hub+" are one hub: a device stays under the name that it is on, and a new one gets the shorter",
				"remove one of the two names")
		}
	}
}

// mostCommonWebhook returns the webhook, with its key, that most enrollments call.
func (e *examination) mostCommonWebhook() enrollment.Webhook {
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

// examineRules compares the enrollments with the rules that serve them.
func (e *examination) examineRules() {
	for _, one := range e.Enrollments {
		kind := dps.EnrollmentGroup
		if one.Kind == enrollment.Individual {
			kind = dps.IndividualEnrollment
		}
		rule := e.Rules.Serving(dps.Enrollment{Kind: kind, ID: one.ID()})
		custom := one.AllocationPolicy() == "custom"
		switch {
		case custom && rule == nil:
			e.add("unserved", one.String(), "no rule serves it: its devices are held, and fail after about seven minutes",
				"name it in a rule's METADATA, or write a rule for all others (package allocation.default)")
		case !custom && rule != nil && !rule.IsDefault():
			e.add("not-custom", one.String(), fmt.Sprintf("the rule %s serves it, but DPS does not call the webhook: its allocation policy is %s",
				rule.Package, cmp.Or(one.AllocationPolicy(), "that of the DPS instance")), "usher enroll, or remove it from the rule's METADATA")
		}
	}
}

// warmProbes is the number of requests after the first.
const warmProbes = 5

// Limits for the time of an answer. DPS publishes none; more than 4 s is not advisable.
const (
	coldLimit = 4 * time.Second
	warmLimit = time.Second
)

// examineWebhook calls the webhook: with the key, without it, and about a made-up device.
func (e *examination) examineWebhook(ctx context.Context) {
	where := e.Webhook.Address()
	// The first call has the key: without it the Functions host answers by itself, and the time of the first answer
	// would not include the start of the handler.
	start := e.Now()
	status, _, err := enrollment.Post(ctx, e.Client, e.Webhook, []byte("{}"))
	cold := e.Now().Sub(start)
	keyless := status
	if err == nil && e.Webhook.Key() != "" {
		keyless, _, err = enrollment.Post(ctx, e.Client, enrollment.Webhook{URL: where}, []byte("{}"))
	}
	switch {
	case err != nil:
		e.add("unreachable", where, err.Error(), "check the URL, the access restrictions of the Function App, and whether it runs")
		return
	case status == http.StatusNotFound:
		e.add("wrong-url", where, "nothing is at this URL: it answers 404", "the path of the webhook is /api/allocate")
		return
	case status == http.StatusForbidden:
		e.add("restricted", where, "it does not admit calls from this address: the rest could not be examined",
			"it should admit only DPS; to continue, admit this address for a while (allowedAddresses in infra/)")
		return
	case keyless != http.StatusUnauthorized && e.Webhook.Key() != "":
		e.add("keyless", where, fmt.Sprintf("it answers %d without a key: anyone who knows the URL can call it", keyless),
			"set authLevel to function in allocate/function.json; outside Functions set USHER_FUNCTION_KEYS")
	}
	if err := enrollment.TryKey(ctx, e.Client, e.Webhook); err != nil {
		e.add("key-refused", where, err.Error(), "give the key of the function allocate, or of the host, with --key-file")
		return
	}
	e.probe(ctx, cold)
}

// probe sends requests of a made-up device of the first enrollment that calls the webhook.
func (e *examination) probe(ctx context.Context, cold time.Duration) {
	index := slices.IndexFunc(e.custom, func(one enrollment.Enrollment) bool { return !one.Disabled() })
	if index < 0 {
		return
	}
	one := e.custom[index]
	body, err := json.Marshal(probeRequest(one, e.Hubs))
	if err != nil {
		return // impossible: it was decoded from JSON
	}
	webhook := e.Webhook.WithLabel(one.Webhook().Label())
	probe := Probe{Enrollment: one.String(), ColdMs: milliseconds(cold), Warm: warmProbes}
	var warm []time.Duration
	for range warmProbes {
		start := e.Now()
		status, answer, err := enrollment.Post(ctx, e.Client, webhook, body)
		if err != nil {
			e.add("unreachable", e.Webhook.Address(), err.Error(), "it answered a moment ago: see its log")
			return
		}
		warm = append(warm, e.Now().Sub(start))
		probe.Status = status
		if status >= http.StatusTooManyRequests && len(warm) == 1 {
			e.add("undecided", one.String(), fmt.Sprintf("the answer for a made-up device of it is %d%s", status, reason(answer)),
				"run usher explain with a request of a real device; the webhook's record has the reason")
		}
	}
	slices.Sort(warm)
	median := warm[len(warm)/2]
	probe.WarmMs = milliseconds(median)
	e.report.Probe = &probe
	if cold > coldLimit {
		e.add("cold", e.Webhook.Address(), fmt.Sprintf("the first answer took %s; DPS may not wait that long", cold.Round(time.Millisecond)),
			"keep an instance ready (alwaysReadyInstances in infra/)")
	}
	if median > warmLimit {
		e.add("slow", e.Webhook.Address(), fmt.Sprintf("an answer takes %s", median.Round(time.Millisecond)),
			"find slow rules with usher bench; or give the instances more memory, or use a region closer to DPS")
	}
}

// reason returns the code and the detail of a problem document, in brackets.
func reason(answer []byte) string {
	var problem struct{ Code, Detail string }
	if json.Unmarshal(answer, &problem) != nil || problem.Code == "" {
		return ""
	}
	return fmt.Sprintf(" (%s: %s)", problem.Code, problem.Detail)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// probeID is the registration ID of the device that is made up for a group.
const probeID = "usher-doctor-probe"

// probeRequest returns an AllocationRequest as DPS would send it for the first registration of a made-up device. hubs
// are the hubs that are linked to the DPS instance, if known.
func probeRequest(one enrollment.Enrollment, hubs []string) map[string]any {
	record := maps.Clone(one.Document)
	delete(record, "registrationState")
	webhook := one.Webhook()
	record["customAllocationDefinition"] = map[string]any{"webhookUrl": webhook.Address() + "?****", "apiVersion": webhook.APIVersion}
	record["attestation"] = map[string]any{"type": one.Attestation()}
	linked := one.Hubs()
	if len(linked) == 0 {
		linked = hubs
	}
	if len(linked) == 0 {
		linked = []string{probeID + ".azure-devices.net"}
	}
	device := map[string]any{"registrationId": probeID}
	member := "enrollmentGroup"
	if one.Kind == enrollment.Individual {
		member, device["registrationId"] = "individualEnrollment", one.ID()
	}
	if one.Attestation() == "symmetricKey" {
		device["symmetricKey"] = map[string]any{}
	}
	return map[string]any{member: record, "deviceRuntimeContext": device, "linkedHubs": linked}
}
