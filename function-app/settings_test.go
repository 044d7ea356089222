package main

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/internal/serve/rulesource"
)

func variables(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

// rulesIn are the defaults for rules in a folder.
func rulesIn(folder string) rulesSettings {
	return rulesSettings{Source: rulesource.Location{Location: remotefile.Location{Kind: remotefile.Path, Path: folder}}, Poll: time.Minute, Cache: "/tmp/usher-rules"}
}

// defaultRecords are the defaults for records.
func defaultRecords() sink.Settings {
	return sink.Settings{Sinks: []sink.Spec{{Kind: sink.KindStdout}}, Sync: appender.Interval, SpoolBytes: 256 << 20,
		FileBytes: 100 << 20, FileAge: 24 * time.Hour, FileKeep: 14, IDs: decisionlog.Plain}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	underHost := settings{
		rules: rulesIn(filepath.Join("/home/site/wwwroot", "rules")), rulesCheck: checkBefore,
		decisionTimeout: 2 * time.Second, decisionMemory: 64 << 20, evaluator: decider.ByPlan, maxBody: 256 << 10, logLevel: slog.LevelInfo,
		listen: "127.0.0.1:4711", listenSetting: settingHostPort, drainTimeout: 10 * time.Second, records: defaultRecords(), lookupsFolder: "/tmp/usher-lookups",
	}
	for name, c := range map[string]struct {
		environment map[string]string
		want        settings
	}{
		"defaults under the Functions host": {
			map[string]string{settingHostPort: "4711", settingAppRoot: "/home/site/wwwroot"}, underHost},
		"the host's port goes before an address": {
			map[string]string{settingHostPort: "4711", settingAppRoot: "/home/site/wwwroot", settingListen: "0.0.0.0:80"}, underHost},
		"everything set": {
			map[string]string{
				settingListen: ":8080", settingFunctionKeys: "aaaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbb", settingRules: "/rules",
				settingRulesCheck: checkAfter, settingRulesBuiltins: "time.now_ns, http.send", settingRulesAllowNet: "example.com",
				settingDecisionTimeout: "1500ms", settingDecisionMemory: "1048576", settingEvaluator: "topdown", settingMaxBody: "65536", settingLogLevel: "WARN", settingDrainTimeout: "0s",
			},
			settings{
				rules: rulesIn("/rules"), rulesCheck: checkAfter, builtins: []string{"time.now_ns", "http.send"}, allowNet: []string{"example.com"},
				decisionTimeout: 1500 * time.Millisecond, decisionMemory: 1 << 20, evaluator: decider.ByTopdown, maxBody: 65536, logLevel: slog.LevelWarn, listen: ":8080",
				listenSetting: settingListen, keys: []string{"aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb"}, records: defaultRecords(), lookupsFolder: "/tmp/usher-lookups",
			},
		},
		"loopback needs no key": {
			map[string]string{settingListen: "[::1]:8080"},
			settings{
				rules: rulesIn("rules"), rulesCheck: checkBefore, decisionTimeout: 2 * time.Second, decisionMemory: 64 << 20, evaluator: decider.ByPlan, maxBody: 256 << 10,
				listen: "[::1]:8080", listenSetting: settingListen, drainTimeout: 10 * time.Second, records: defaultRecords(), lookupsFolder: "/tmp/usher-lookups",
			},
		},
	} {
		got, err := readSettings(variables(c.environment), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(settings{})); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestSettingsNameEveryProblem(t *testing.T) {
	t.Parallel()
	const secret = "short-secret"
	for name, c := range map[string]struct {
		environment map[string]string
		want        []string
	}{
		"nothing set": {nil, []string{"USHER_LISTEN: empty", "`func start` or `make run`"}},
		"all wrong": {
			map[string]string{
				settingListen: "8080", settingRulesCheck: "never", settingDecisionTimeout: "10s", settingMaxBody: "a lot",
				settingLogLevel: "loud", settingDrainTimeout: "-1s", settingFunctionKeys: secret,
			},
			[]string{
				"USHER_LISTEN: not an address", "USHER_RULES_CHECK: neither before nor after",
				"USHER_DECISION_TIMEOUT: not a duration from 10ms to 4s, such as 2s", "USHER_MAX_BODY_BYTES: not a number of bytes",
				"USHER_LOG_LEVEL: none of debug, info, warn, error", "USHER_DRAIN_TIMEOUT: not a duration", "USHER_FUNCTION_KEYS: a key has fewer than 20",
			},
		},
		"a public address without a key":     {map[string]string{settingListen: ":8080"}, []string{"USHER_FUNCTION_KEYS is empty"}},
		"all addresses without a key":        {map[string]string{settingListen: "0.0.0.0:8080"}, []string{"USHER_FUNCTION_KEYS is empty"}},
		"a private address without a key":    {map[string]string{settingListen: "10.0.0.4:8080"}, []string{"USHER_FUNCTION_KEYS is empty"}},
		"a name that could be any address":   {map[string]string{settingListen: "webhook:8080"}, []string{"USHER_FUNCTION_KEYS is empty"}},
		"three keys":                         {map[string]string{settingListen: "[::1]:1", settingFunctionKeys: strings.Repeat(secret+secret+",", 3)}, []string{"3 keys; at most two"}},
		"a port of the host that is no port": {map[string]string{settingHostPort: "x"}, []string{"FUNCTIONS_CUSTOMHANDLER_PORT: not a port"}},
	} {
		_, err := readSettings(variables(c.environment), nil)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in\n%v", name, want, err)
			}
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
	}
}
