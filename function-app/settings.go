package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// Names of the settings. local.settings.json.example says what each is for.
const (
	settingRules           = "USHER_RULES"
	settingRulesCheck      = "USHER_RULES_CHECK"
	settingRulesBuiltins   = "USHER_RULES_BUILTINS"
	settingRulesAllowNet   = "USHER_RULES_ALLOW_NET"
	settingDecisionTimeout = "USHER_DECISION_TIMEOUT"
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

	// Set by the Functions host.
	settingHostPort = "FUNCTIONS_CUSTOMHANDLER_PORT"
	settingAppRoot  = "FUNCTIONS_APP_ROOT_PATH"

	// Set to Development by the Functions Core Tools and by usher host.
	settingEnvironment = "AZURE_FUNCTIONS_ENVIRONMENT"
)

// When rules are compiled, the values of USHER_RULES_CHECK.
const (
	checkBefore = "before" // all of them before the first answer
	checkAfter  = "after"  // each when first asked for, all right after the start
)

// Bounds of USHER_DECISION_TIMEOUT: 4 s is the longest that is advisable for
// an answer to DPS, whose own limit is not published. It lies far below
// functionTimeout in host.json, whose end kills the whole process.
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
	maxBody         int64
	logLevel        slog.Level
	listen          string
	listenSetting   string // the setting that listen came from
	keys            []string
	drainTimeout    time.Duration
	metricsListen   string
	records         recordSettings
}

// underHost reports whether the Functions host started the process.
func (s settings) underHost() bool { return s.listenSetting == settingHostPort }

// readSettings reads and checks all settings. The error names every setting
// that is wrong, none of their values where those are secret.
func readSettings(getenv func(string) string) (settings, error) {
	var problems []error
	wrong := func(name, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
	}
	get := func(name, fallback string) string {
		if value := strings.TrimSpace(getenv(name)); value != "" {
			return value
		}
		return fallback
	}
	duration := func(name string, fallback, least, most time.Duration) time.Duration {
		value, err := time.ParseDuration(get(name, fallback.String()))
		if err != nil || value < least || value > most {
			wrong(name, "not a duration from %s to %s, such as %s", least, most, fallback)
		}
		return value
	}
	s := settings{
		rulesCheck:      get(settingRulesCheck, checkBefore),
		builtins:        list(get(settingRulesBuiltins, "")),
		allowNet:        list(get(settingRulesAllowNet, "")),
		decisionTimeout: duration(settingDecisionTimeout, decider.DefaultTimeout, minDecisionTimeout, maxDecisionTimeout),
		keys:            list(get(settingFunctionKeys, "")),
		drainTimeout:    duration(settingDrainTimeout, 10*time.Second, 0, 5*time.Minute),
	}
	s.readRules(get, wrong)
	if s.rulesCheck != checkBefore && s.rulesCheck != checkAfter {
		wrong(settingRulesCheck, "neither %s nor %s", checkBefore, checkAfter)
	}
	var err error
	s.maxBody, err = strconv.ParseInt(get(settingMaxBody, strconv.Itoa(handler.DefaultMaxBody)), 10, 64)
	if err != nil || s.maxBody < 1<<10 || s.maxBody > 16<<20 {
		wrong(settingMaxBody, "not a number of bytes from 1024 to 16777216")
	}
	if err := s.logLevel.UnmarshalText([]byte(get(settingLogLevel, "info"))); err != nil {
		wrong(settingLogLevel, "none of debug, info, warn, error")
	}
	if len(s.keys) > 2 {
		wrong(settingFunctionKeys, "%d keys; at most two are valid at once, the old and the new one of a rotation", len(s.keys))
	}
	for _, key := range s.keys {
		if len(key) < 20 {
			wrong(settingFunctionKeys, "a key has fewer than 20 characters; use a random one")
		}
	}
	s.readListen(get, wrong)
	s.readMetricsListen(get, wrong)
	s.readRecords(get, wrong)
	return s, errors.Join(problems...)
}

func (s *settings) readListen(get func(name, fallback string) string, wrong func(name, format string, args ...any)) {
	port, address := get(settingHostPort, ""), get(settingListen, "")
	switch {
	case port != "":
		// The host calls on the loopback address and checks keys itself.
		s.listenSetting, s.listen = settingHostPort, net.JoinHostPort("127.0.0.1", port)
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			wrong(settingHostPort, "not a port")
		}
	case address != "":
		s.listenSetting, s.listen = settingListen, address
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			wrong(settingListen, "not an address of the form host:port, such as 127.0.0.1:8080")
			return
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && len(s.keys) == 0 {
			wrong(settingListen, "%s is reachable from elsewhere, and %s is empty: give a key that callers must show", address, settingFunctionKeys)
		}
	default:
		wrong(settingListen, "empty, and the Functions host did not start this process (%s is empty): "+
			"run `func start` or `make run`, or give an address such as 127.0.0.1:8080", settingHostPort)
	}
}

func list(text string) []string {
	var parts []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
