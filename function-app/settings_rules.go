package main

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
	"github.com/usher-dps/usher/internal/serve/rulesource"
)

// rulesSettings say where rules come from and which rules answer whom.
type rulesSettings struct {
	Source    rulesource.Location
	Poll      time.Duration
	Watch     bool
	Token     string
	Key       *rulebundle.Key // nil takes unsigned bundles
	Cache     string          // folder; empty for none
	MaxAge    time.Duration   // 0 for ever
	HoldStale bool
	NoTest    bool

	Second rulesource.Location // its Kind is empty if there is none
	Shadow decider.Shares
	Canary decider.Shares
}

// Values of settings.
const (
	on, off    = "on", "off"
	staleServe = "serve" // go on with the rules that there are
	staleHold  = "hold"  // hold all devices
	noCache    = "none"
)

func (s *settings) readRules(get func(name, fallback string) string, wrong func(name, format string, args ...any)) {
	root := get(settingAppRoot, "")
	inRoot := func(path string) string {
		if !filepath.IsAbs(path) && root != "" {
			path = filepath.Join(root, path)
		}
		return path
	}
	location := func(name, fallback string) rulesource.Location {
		text := get(name, fallback)
		if text == "" {
			return rulesource.Location{}
		}
		l, err := rulesource.ParseLocation(text)
		if err != nil {
			wrong(name, "%v", err)
		}
		if l.Kind == rulesource.Folder {
			l.Path = inRoot(l.Path)
		}
		return l
	}
	choice := func(name, fallback string, values ...string) string {
		value := get(name, fallback)
		for _, v := range values {
			if value == v {
				return value
			}
		}
		wrong(name, "none of %s", strings.Join(values, ", "))
		return fallback
	}
	r := &s.rules
	r.Source = location(settingRules, "rules")
	r.Second = location(settingShadow, "")

	var err error
	if r.Poll, err = time.ParseDuration(get(settingRulesPoll, "1m")); err != nil || r.Poll < rulesource.MinPoll || r.Poll > rulesource.MaxPoll {
		wrong(settingRulesPoll, "not a duration from %s to %s, such as 1m", rulesource.MinPoll, rulesource.MaxPoll)
	}
	watch := off
	if get(settingEnvironment, "") == "Development" {
		watch = on
	}
	r.Watch = choice(settingRulesWatch, watch, on, off) == on
	r.NoTest = choice(settingRulesSelfTest, on, on, off) == off
	r.Token = get(settingRulesToken, "")
	if r.Cache = get(settingRulesCache, "/tmp/usher-rules"); r.Cache == noCache {
		r.Cache = ""
	} else {
		r.Cache = inRoot(filepath.FromSlash(r.Cache))
	}
	s.readRulesKey(get, wrong)
	s.readRulesAge(get, wrong, choice(settingRulesStale, staleServe, staleServe, staleHold))
	s.readTrial(get, wrong)
}

func (s *settings) readRulesKey(get func(name, fallback string) string, wrong func(name, format string, args ...any)) {
	key := rulebundle.Key{File: get(settingRulesKeyFile, ""), Algorithm: get(settingRulesAlgorithm, "RS256"),
		// App settings are one line; PEM is several.
		Text: strings.ReplaceAll(get(settingRulesKey, ""), `\n`, "\n")}
	name := settingRulesKeyFile
	switch {
	case key.File == "" && key.Text == "":
		return
	case key.File != "" && key.Text != "":
		wrong(settingRulesKey, "set besides %s: give one of them", settingRulesKeyFile)
		return
	case key.Text != "":
		name = settingRulesKey
	}
	if !s.rules.Source.Bundle() && (s.rules.Second == rulesource.Location{} || !s.rules.Second.Bundle()) {
		wrong(name, "a key is for bundles, and %s is a folder: its rules would not be verified", settingRules)
	}
	if err := key.Check(); err != nil {
		wrong(name, "%v (%s is %s)", err, settingRulesAlgorithm, key.Algorithm)
	}
	s.rules.Key = &key
}

func (s *settings) readRulesAge(get func(name, fallback string) string, wrong func(name, format string, args ...any), stale string) {
	s.rules.HoldStale = stale == staleHold
	text := get(settingRulesMaxAge, "")
	if text == "" {
		if s.rules.HoldStale {
			wrong(settingRulesStale, "hold, and %s is empty: say after which time", settingRulesMaxAge)
		}
		return
	}
	var err error
	s.rules.MaxAge, err = time.ParseDuration(text)
	switch {
	case err != nil || s.rules.MaxAge < 2*s.rules.Poll:
		wrong(settingRulesMaxAge, "not a duration of at least twice %s, such as 1h", settingRulesPoll)
	case s.rules.Source.Kind == rulesource.Folder:
		wrong(settingRulesMaxAge, "%s is a folder, which has no age: leave it empty", settingRules)
	}
}

func (s *settings) readTrial(get func(name, fallback string) string, wrong func(name, format string, args ...any)) {
	canary, shadowed := get(settingCanary, ""), get(settingShadowEnrollment, "")
	if s.rules.Second.Kind == "" {
		for name, value := range map[string]string{settingCanary: canary, settingShadowEnrollment: shadowed} {
			if value != "" && get(settingShadow, "") == "" {
				wrong(name, "set, and %s is empty: name the rules on trial", settingShadow)
			}
		}
	}
	var err error
	if s.rules.Canary, err = decider.ParseShares(canary); err != nil {
		wrong(settingCanary, "%v", err)
	}
	for _, pattern := range list(shadowed) {
		if strings.Contains(pattern, "=") {
			wrong(settingShadowEnrollment, "%q: these are names and globs, without percentages", pattern)
		}
		s.rules.Shadow = append(s.rules.Shadow, decider.Share{Pattern: strings.ToLower(pattern), Percent: 100})
	}
}
