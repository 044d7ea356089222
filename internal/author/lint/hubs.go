package lint

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

// hubLabel finds comparisons of the host name of a hub with a first label, and the other way around.
func hubLabel(_ context.Context, s *subject, add report) {
	s.eachUse(func(_ string, use dataflow.Use) {
		left, right := use.Args[0], use.Args[1]
		switch {
		case use.Name == "lookup" && !isCollection(left):
			return
		case use.Name == "lookup":
			left, right = right, keysOf(left)
		case use.Name == "internal.member_2":
			right = valuesOf(right)
		case use.Name == "minus" || use.Name == "and":
			left, right = valuesOf(left), valuesOf(right)
		}
		message, fix := wrongHubName(left, right)
		if message == "" {
			message, fix = wrongHubName(right, left)
		}
		if message != "" {
			add(use.Location, message, fix)
		}
	}, "equal", "neq", "lookup", "internal.member_2", "minus", "and")
}

var label = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*$`)

// wrongHubName says what is wrong if hosts are hubs, and one of the constants is a name of another form.
func wrongHubName(hosts, constants dataflow.Alternatives) (message, fix string) {
	isLabel := slices.ContainsFunc(hosts, dataflow.Value.IsHostLabel)
	if !isLabel && !slices.ContainsFunc(hosts, dataflow.Value.IsHostName) {
		return "", ""
	}
	for _, v := range constants {
		switch name, ok := v.Text(); {
		case !ok:
		case isLabel && strings.Contains(name, ".azure-devices."):
			return fmt.Sprintf("the host name %q%s is compared with a first label, and they are never equal", name, from(v.Place)),
				"compare host names, or first labels"
		case !isLabel && label.MatchString(name):
			return fmt.Sprintf("the first label %q%s is compared with a host name, and they are never equal", name, from(v.Place)),
				fmt.Sprintf("compare with dps.hub_named(%q), or write the host name out", name)
		}
	}
	return "", ""
}

// isCollection reports whether what is looked up in is a table or a set of the rule, and not usher.linked, which has the
// first labels too.
func isCollection(in dataflow.Alternatives) bool {
	return !slices.ContainsFunc(in, func(v dataflow.Value) bool { return v.Kind == dataflow.Unknown })
}

func keysOf(in dataflow.Alternatives) dataflow.Alternatives {
	keys, _ := in.Inside()
	return keys
}

func valuesOf(in dataflow.Alternatives) dataflow.Alternatives {
	_, values := in.Inside()
	return values
}

// weights finds tables by which usher.choose fails, or chooses nothing.
func weights(_ context.Context, s *subject, add report) {
	s.eachUse(func(_ string, use dataflow.Use) {
		for _, table := range use.Args[1] {
			if !table.IsObject() {
				continue
			}
			allZero, hubs := true, members(table)
			for _, hub := range hubs {
				for _, weight := range hub.is {
					allZero = allZero && isNumber(weight) && sign(weight) == 0
					if weight.Kind == dataflow.Constant && !(isNumber(weight) && sign(weight) >= 0) {
						add(use.Location, fmt.Sprintf("the weight %s of %s%s is not a number of at least 0, so no hub is chosen", weight.Constant, cmp.Or(hub.name, "a hub"), from(table.Place)),
							"use a number above 0, or 0 to drain the hub")
					}
				}
			}
			if allZero && len(valuesOf(dataflow.Alternatives{table})) > 0 {
				add(use.Location, fmt.Sprintf("all weights%s are 0, so no hub is chosen", from(table.Place)), "give one of the hubs a weight above 0")
			}
		}
	}, "usher.choose")
}

func isNumber(v dataflow.Value) bool {
	_, ok := v.Constant.(ast.Number)
	return v.Kind == dataflow.Constant && ok
}

// sign is negative, zero or positive like the number v.
func sign(v dataflow.Value) int { return v.Constant.Compare(ast.Number("0")) }

// sameForAll finds choices and percentages by something that is the same for all devices of an enrollment group.
func sameForAll(_ context.Context, s *subject, add report) {
	if len(s.rule.Groups) == 0 && !s.rule.IsDefault() {
		return // each device has its own enrollment
	}
	s.eachUse(func(_ string, use dataflow.Use) {
		for _, key := range use.Args[0] {
			sources := dataflow.Sources(dataflow.Alternatives{key})
			if key.Kind != dataflow.Constant && !slices.ContainsFunc(sources, isShared) || slices.ContainsFunc(sources, isOfDevice) {
				continue
			}
			add(use.Location, fmt.Sprintf("%s depends on %s, which is the same for all devices of an enrollment group: all of them go the same way", use.Name, nameOf(sources)),
				"use dps.in_percentage, dps.weighted or dps.spread, or dps.registration_id as the key")
			return
		}
	}, "usher.choose", "usher.fraction")
}

func nameOf(sources []dataflow.Source) string {
	i := slices.IndexFunc(sources, isShared)
	if i < 0 {
		return "a constant"
	}
	return strings.TrimPrefix(sources[i].Name(), ".")
}

// isOfDevice reports whether a part of the request differs between the devices of an enrollment group.
func isOfDevice(source dataflow.Source) bool {
	return source.Pointer == "" || strings.HasPrefix(source.Pointer, "/deviceRuntimeContext") && source.Pointer != "/deviceRuntimeContext/currentIotHubHostName"
}

// isShared reports whether a part of the request is the same for all devices of an enrollment group. They have no
// individual enrollment.
func isShared(source dataflow.Source) bool {
	return !isOfDevice(source) && !strings.HasPrefix(source.Pointer, "/individualEnrollment/")
}
