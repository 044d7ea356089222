package main

import (
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/lookupsource"
)

// Names of the settings. local.settings.json.example says what each is for.
const (
	settingRules           = "USHER_RULES"
	settingRulesCheck      = "USHER_RULES_CHECK"
	settingRulesBuiltins   = "USHER_RULES_BUILTINS"
	settingRulesAllowNet   = "USHER_RULES_ALLOW_NET"
	settingDecisionTimeout = "USHER_DECISION_TIMEOUT"
	settingDecisionMemory  = "USHER_DECISION_MEMORY"
	settingEvaluator       = "USHER_EVALUATOR"
	settingMaxBody         = "USHER_MAX_BODY_BYTES"
	settingLogLevel        = "USHER_LOG_LEVEL"
	settingListen          = "USHER_LISTEN"
	settingFunctionKeys    = "USHER_FUNCTION_KEYS"
	settingDrainTimeout    = "USHER_DRAIN_TIMEOUT"
	settingMetricsListen   = "USHER_METRICS_LISTEN"

	settingRulesPoll        = "USHER_RULES_POLL"
	settingRulesWatch       = "USHER_RULES_WATCH"
	settingRulesToken       = "USHER_RULES_TOKEN"
	settingRulesKeyFile     = "USHER_RULES_KEY_FILE"
	settingRulesKey         = "USHER_RULES_KEY"
	settingRulesAlgorithm   = "USHER_RULES_ALG"
	settingRulesCache       = "USHER_RULES_CACHE"
	settingRulesMaxAge      = "USHER_RULES_MAX_AGE"
	settingRulesStale       = "USHER_RULES_STALE"
	settingRulesSelfTest    = "USHER_RULES_SELFTEST"
	settingShadow           = "USHER_RULES_SHADOW"
	settingShadowEnrollment = "USHER_RULES_SHADOW_ENROLLMENTS"
	settingCanary           = "USHER_RULES_CANARY"

	settingLookupsFolder = "USHER_LOOKUPS_FOLDER"

	// Set by the Functions host.
	settingHostPort = "FUNCTIONS_CUSTOMHANDLER_PORT"
	settingAppRoot  = "FUNCTIONS_APP_ROOT_PATH"

	// Set to Development by the Functions Core Tools and by usher host.
	settingEnvironment = "AZURE_FUNCTIONS_ENVIRONMENT"
	development        = "Development"
)

// When rules are compiled, the values of USHER_RULES_CHECK.
const (
	checkBefore = "before" // all of them before the first answer
	checkAfter  = "after"  // each at its first request, and all in the background right after the start
)

// Bounds of USHER_DECISION_TIMEOUT. An answer to DPS, whose own limit is not published, should take no more than 4 s.
// That is far below functionTimeout in host.json, which kills the whole process.
const (
	minDecisionTimeout = 10 * time.Millisecond
	maxDecisionTimeout = 4 * time.Second
)

type settings struct {
	rules           rulesSettings
	rulesCheck      string
	builtins        []string
	allowNet        []string
	decisionTimeout time.Duration
	decisionMemory  int64 // in bytes
	evaluator       decider.Evaluator
	maxBody         int64
	logLevel        slog.Level
	listen          string
	listenSetting   string // the setting that listen came from
	keys            []string
	drainTimeout    time.Duration
	metricsListen   string
	records         sink.Settings
	lookups         lookupsource.Settings
	lookupsFolder   string
	// development is set under usher host and func start.
	development bool
}

// underHost reports whether the Functions host started the process.
func (s settings) underHost() bool { return s.listenSetting == settingHostPort }

// logsCalls reports whether each call has a line in the log. It replaces a record on standard output, but shows
// registration IDs.
func (s settings) logsCalls() bool {
	return !s.records.ToStdout() && s.records.IDs == decisionlog.Plain
}

// readSettings reads and checks all settings. The error names every setting that is wrong, and no value that is secret.
func readSettings(getenv func(string) string, environ []string) (settings, error) {
	r := environment.NewReader(getenv)
	s := settings{
		rules:           readRules(r),
		rulesCheck:      r.OneOf(settingRulesCheck, checkBefore, checkBefore, checkAfter),
		builtins:        r.List(settingRulesBuiltins),
		allowNet:        r.List(settingRulesAllowNet),
		decisionTimeout: r.Duration(settingDecisionTimeout, decider.DefaultTimeout, minDecisionTimeout, maxDecisionTimeout),
		decisionMemory:  r.Int(settingDecisionMemory, "number of bytes", decider.DefaultMemory, 1<<20, 1<<30),
		evaluator:       decider.Evaluator(r.OneOf(settingEvaluator, string(decider.ByPlan), string(decider.ByPlan), string(decider.ByTopdown), string(decider.Compare))),
		maxBody:         r.Int(settingMaxBody, "number of bytes", handler.DefaultMaxBody, 1<<10, 16<<20),
		keys:            r.List(settingFunctionKeys),
		drainTimeout:    r.Duration(settingDrainTimeout, 10*time.Second, 0, 5*time.Minute),
		records:         readRecords(r),
		lookups:         lookupsource.Read(r, environ),
		lookupsFolder:   inAppRoot(r, filepath.FromSlash(r.Get(settingLookupsFolder, "/tmp/usher-lookups"))),
		development:     r.Get(settingEnvironment, "") == development,
	}
	if err := s.logLevel.UnmarshalText([]byte(r.Get(settingLogLevel, "info"))); err != nil {
		r.Wrong(settingLogLevel, "none of debug, info, warn, error")
	}
	if len(s.keys) > 2 {
		r.Wrong(settingFunctionKeys, "%d keys; at most two are valid at once, the old and the new one of a rotation", len(s.keys))
	}
	if slices.ContainsFunc(s.keys, func(key string) bool { return len(key) < 20 }) {
		r.Wrong(settingFunctionKeys, "a key has fewer than 20 characters; use a random one")
	}
	s.listenSetting, s.listen = readListen(r, len(s.keys) > 0)
	s.metricsListen = readMetricsListen(r, s.listen)
	return s, r.Err()
}

// readListen returns the address to listen on, and the setting that it comes from.
func readListen(r *environment.Reader, hasKeys bool) (setting, listen string) {
	if port := r.Get(settingHostPort, ""); port != "" {
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			r.Wrong(settingHostPort, "not a port")
		}
		// The host calls on the loopback address and checks keys itself.
		return settingHostPort, net.JoinHostPort("127.0.0.1", port)
	}
	listen = r.Get(settingListen, "")
	host, _, err := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	switch {
	case listen == "":
		r.Wrong(settingListen, "empty, and the Functions host did not start this process (%s is empty): "+
			"run `func start` or `make run`, or give an address such as 127.0.0.1:8080", settingHostPort)
	case err != nil:
		r.Wrong(settingListen, "not an address of the form host:port, such as 127.0.0.1:8080")
	case host != "localhost" && (ip == nil || !ip.IsLoopback()) && !hasKeys:
		r.Wrong(settingListen, "%s can be reached from other machines, and %s is empty: give a key that callers must send", listen, settingFunctionKeys)
	}
	return settingListen, listen
}

// inAppRoot resolves a path that is relative to the Function App's root.
func inAppRoot(r *environment.Reader, path string) string {
	if root := r.Get(settingAppRoot, ""); path != "" && !filepath.IsAbs(path) && root != "" {
		return filepath.Join(root, path)
	}
	return path
}
