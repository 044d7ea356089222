package main

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
	"github.com/usher-dps/usher/internal/serve/rulesource"
)

// rulesSettings say where rules come from, and which rules answer which devices.
type rulesSettings struct {
	Source    rulesource.Location
	Poll      time.Duration
	Watch     bool
	Token     string
	Key       *rulebundle.Key // nil takes unsigned bundles
	Cache     string          // folder; empty for none
	MaxAge    time.Duration   // 0 for no limit
	HoldStale bool
	NoTest    bool

	Second rulesource.Location // its Kind is empty if there is none
	Shadow decider.Shares
	Canary decider.Shares
}

// Values of settings.
const (
	on, off    = "on", "off"
	staleServe = "serve" // go on with the last rules
	staleHold  = "hold"  // hold all devices
	noCache    = "none"
)

func readRules(r *environment.Reader) rulesSettings {
	watch, test := off, on
	developing := r.Get(settingEnvironment, "") == development
	if developing {
		watch = on
	}
	s := rulesSettings{
		Source:    readLocation(r, settingRules, "rules"),
		Second:    readLocation(r, settingShadow, ""),
		Poll:      r.Duration(settingRulesPoll, time.Minute, rulesource.MinPoll, rulesource.MaxPoll),
		Watch:     r.OneOf(settingRulesWatch, watch, on, off) == on,
		Token:     r.Get(settingRulesToken, ""),
		HoldStale: r.OneOf(settingRulesStale, staleServe, staleServe, staleHold) == staleHold,
	}
	if developing && s.Source.Kind == remotefile.Path {
		test = off // who writes a rule wants to see it at work, also if its tests are not written yet
	}
	s.NoTest = r.OneOf(settingRulesSelfTest, test, on, off) == off
	if cache := r.Get(settingRulesCache, "/tmp/usher-rules"); cache != noCache {
		s.Cache = inAppRoot(r, filepath.FromSlash(cache))
	}
	s.readKey(r)
	s.readMaxAge(r)
	s.readTrial(r)
	return s
}

func readLocation(r *environment.Reader, name, fallback string) rulesource.Location {
	text := r.Get(name, fallback)
	if text == "" {
		return rulesource.Location{}
	}
	l, err := rulesource.ParseLocation(text)
	if err != nil {
		r.Wrong(name, "%v", err)
	}
	if l.Kind == remotefile.Path {
		l.Path = inAppRoot(r, l.Path)
	}
	return l
}

func (s *rulesSettings) readKey(r *environment.Reader) {
	key := rulebundle.Key{
		File: r.Get(settingRulesKeyFile, ""), Algorithm: r.Get(settingRulesAlgorithm, "RS256"),
		// App settings are one line; PEM is several.
		Text: strings.ReplaceAll(r.Get(settingRulesKey, ""), `\n`, "\n"),
	}
	if key.File == "" && key.Text == "" {
		return
	}
	if key.File != "" && key.Text != "" {
		r.Wrong(settingRulesKey, "set besides %s: give one of them", settingRulesKeyFile)
		return
	}
	name := settingRulesKeyFile
	if key.Text != "" {
		name = settingRulesKey
	}
	if !s.Source.Bundle() && (s.Second == rulesource.Location{} || !s.Second.Bundle()) {
		r.Wrong(name, "a key is for bundles, and %s is a folder: its rules would not be verified", settingRules)
	}
	if err := key.Check(); err != nil {
		r.Wrong(name, "%v (%s is %s)", err, settingRulesAlgorithm, key.Algorithm)
	}
	s.Key = &key
}

func (s *rulesSettings) readMaxAge(r *environment.Reader) {
	text := r.Get(settingRulesMaxAge, "")
	if text == "" {
		if s.HoldStale {
			r.Wrong(settingRulesStale, "hold, and %s is empty: set the time after which devices are held", settingRulesMaxAge)
		}
		return
	}
	var err error
	s.MaxAge, err = time.ParseDuration(text)
	switch {
	case err != nil || s.MaxAge < 2*s.Poll:
		r.Wrong(settingRulesMaxAge, "not a duration of at least twice %s, such as 1h", settingRulesPoll)
	case s.Source.Kind == remotefile.Path:
		r.Wrong(settingRulesMaxAge, "%s is a folder, which has no age: leave it empty", settingRules)
	}
}

func (s *rulesSettings) readTrial(r *environment.Reader) {
	for _, name := range []string{settingCanary, settingShadowEnrollment} {
		if r.Get(name, "") != "" && r.Get(settingShadow, "") == "" {
			r.Wrong(name, "set, and %s is empty: name the rules on trial", settingShadow)
		}
	}
	var err error
	if s.Canary, err = decider.ParseShares(r.Get(settingCanary, "")); err != nil {
		r.Wrong(settingCanary, "%v", err)
	}
	for _, pattern := range r.List(settingShadowEnrollment) {
		if strings.Contains(pattern, "=") {
			r.Wrong(settingShadowEnrollment, "%q: only names and globs are allowed here, without percentages", pattern)
		}
		s.Shadow = append(s.Shadow, decider.Share{Pattern: strings.ToLower(pattern), Percent: 100})
	}
}
