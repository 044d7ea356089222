package dps

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of IoT Hub for a device twin. Source: https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins
const (
	MaxTagsSize        = 8 << 10
	MaxDesiredSize     = 32 << 10
	MaxTwinDepth       = 10 // objects below tags or desired
	MaxTwinKeyBytes    = 1 << 10
	MaxTwinStringBytes = 4 << 10
	maxTwinInteger     = 1<<52 - 1  // 4503599627370495
	minTwinInteger     = -(1 << 52) // -4503599627370496
)

// TwinProblem is a part of an initial twin that IoT Hub would refuse or DPS would ignore.
type TwinProblem struct {
	Pointer string // JSON pointer from the twin, such as /tags/site; it is cut off after 256 bytes
	Problem string
}

func (p TwinProblem) String() string { return p.Pointer + ": " + p.Problem }

// CheckInitialTwin lists what IoT Hub would refuse in an initial twin; nothing if it is good. Problems name keys and
// limits, never values.
func CheckInitialTwin(twin map[string]any) []TwinProblem {
	var c twinCheck
	c.initialTwin(twin)
	slices.SortFunc(c.problems, func(a, b TwinProblem) int {
		return cmp.Or(strings.Compare(a.Pointer, b.Pointer), strings.Compare(a.Problem, b.Problem))
	})
	return c.problems
}

type twinCheck struct{ problems []TwinProblem }

func (c *twinCheck) initialTwin(twin map[string]any) {
	c.onlyMembers("", twin, "tags", "properties")
	if tags, ok := c.section("/tags", twin, "tags"); ok {
		c.sized(&twinPlace{name: "tags"}, tags, MaxTagsSize)
	}
	properties, ok := c.section("/properties", twin, "properties")
	if !ok {
		return
	}
	c.onlyMembers("/properties", properties, "desired")
	if desired, ok := c.section("/properties/desired", properties, "desired"); ok {
		c.sized(&twinPlace{above: &twinPlace{name: "properties"}, name: "desired"}, desired, MaxDesiredSize)
	}
}

func (c *twinCheck) add(pointer, format string, args ...any) {
	c.problems = append(c.problems, TwinProblem{pointer, fmt.Sprintf(format, args...)})
}

func (c *twinCheck) onlyMembers(at string, object map[string]any, allowed ...string) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(allowed, name) {
			c.add(pointer(jsontext.Pointer(at).AppendToken(name)), "an initial twin has no such member here, only %s", strings.Join(allowed, " and "))
		}
	}
}

func (c *twinCheck) section(pointer string, object map[string]any, name string) (map[string]any, bool) {
	value, present := object[name]
	if !present {
		return nil, false
	}
	section, ok := value.(map[string]any)
	if !ok {
		c.add(pointer, "not an object")
	}
	return section, ok
}

// twinPlace is a place in a twin. Its pointer is written only for a problem: a rule can copy a device's payload, in which
// a long name stands above many values.
type twinPlace struct {
	above *twinPlace
	name  string // of a member
	index int    // of an element, if it has no name
	item  bool   // it is an element
}

// pointer is the JSON pointer, of which at most 256 bytes are written.
func (p *twinPlace) pointer() string {
	var below []*twinPlace // the innermost first
	for at := p; at != nil; at = at.above {
		below = append(below, at)
	}
	var text jsontext.Pointer
	for _, at := range slices.Backward(below) {
		name := at.name
		if at.item {
			name = strconv.Itoa(at.index)
		}
		if text = text.AppendToken(name[:min(len(name), 2*maxPointer)]); len(text) > maxPointer {
			break
		}
	}
	return pointer(text)
}

func (c *twinCheck) sized(at *twinPlace, section map[string]any, limit int) {
	if size := c.object(at, section, 0); size > limit {
		c.add(at.pointer(), "%d bytes as IoT Hub counts them, over its limit of %d", size, limit)
	}
}

// object checks an object and returns its size as IoT Hub counts it.
func (c *twinCheck) object(at *twinPlace, object map[string]any, depth int) int {
	if depth > MaxTwinDepth {
		c.add(at.pointer(), "nested deeper than %d objects", MaxTwinDepth)
		return 0
	}
	size := 0
	for name, value := range object {
		if depth == 0 && (name == "$version" || name == "$metadata") {
			continue // IoT Hub writes them itself, and does not count them
		}
		member := twinPlace{above: at, name: name}
		if problem := keyProblem(name); problem != "" {
			c.add(member.pointer(), "%s", problem)
		}
		size += textSize(name)
		size += c.value(&member, value, depth)
	}
	return size
}

// value checks the value at a place, and returns its size.
func (c *twinCheck) value(at *twinPlace, value any, depth int) int {
	switch v := value.(type) {
	case map[string]any:
		return c.object(at, v, depth+1)
	case []any:
		size := 0
		for i, element := range v {
			size += c.value(&twinPlace{above: at, index: i, item: true}, element, depth)
		}
		return size
	case string:
		if len(v) > MaxTwinStringBytes {
			c.add(at.pointer(), "a string of %d bytes, over the limit of %d", len(v), MaxTwinStringBytes)
		}
		return textSize(v)
	case json.Number:
		if !twinNumber(v) {
			c.add(at.pointer(), "an integer beyond %d to %d", int64(minTwinInteger), int64(maxTwinInteger))
		}
		return 8
	case bool:
		return 4
	default: // null deletes a property in a patch; here it means absent
		return 0
	}
}

// textSize counts characters as IoT Hub does, without the control characters C0 and C1.
func textSize(text string) int {
	size := 0
	for _, r := range text {
		if !isControl(r) {
			size++
		}
	}
	return size
}

func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// keyProblem says what IoT Hub refuses in a key. It allows an empty one:
// https://github.com/Azure/azure-iot-sdk-java/pull/1756.
func keyProblem(name string) string {
	if len(name) > MaxTwinKeyBytes {
		return fmt.Sprintf("a key of %d bytes, over the limit of %d", len(name), MaxTwinKeyBytes)
	}
	for _, r := range name {
		switch {
		case isControl(r):
			return "a key with a control character"
		case r == '.', r == '$', r == ' ':
			return fmt.Sprintf("a key with %q", r)
		}
	}
	return ""
}

// twinNumber reports whether IoT Hub accepts the number. Only integers have a limit.
func twinNumber(number json.Number) bool {
	if i, err := number.Int64(); err == nil {
		return minTwinInteger <= i && i <= maxTwinInteger
	}
	f, _, err := big.ParseFloat(string(number), 10, 64, big.ToNearestEven)
	if err != nil || f.IsInf() {
		return false
	}
	if !f.IsInt() {
		return true
	}
	return f.Cmp(big.NewFloat(minTwinInteger)) >= 0 && f.Cmp(big.NewFloat(maxTwinInteger)) <= 0
}
