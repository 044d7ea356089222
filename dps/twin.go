package dps

import (
	"cmp"
	"encoding/json"
	"fmt"
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
func CheckInitialTwin(twin *Value) []TwinProblem {
	var few [16]twinStep // most twins are not that deep: no allocation
	c := twinCheck{path: few[:0]}
	c.initialTwin(twin)
	slices.SortFunc(c.problems, func(a, b TwinProblem) int {
		return cmp.Or(strings.Compare(a.Pointer, b.Pointer), strings.Compare(a.Problem, b.Problem))
	})
	return c.problems
}

type twinCheck struct {
	problems []TwinProblem
	path     []twinStep // to the current place
}

func (c *twinCheck) initialTwin(twin *Value) {
	c.onlyMembers("", twin, "tags", "properties")
	if tags, ok := c.section("/tags", twin, "tags"); ok {
		c.sized(tags, MaxTagsSize, "tags")
	}
	properties, ok := c.section("/properties", twin, "properties")
	if !ok {
		return
	}
	c.onlyMembers("/properties", properties, "desired")
	if desired, ok := c.section("/properties/desired", properties, "desired"); ok {
		c.sized(desired, MaxDesiredSize, "properties", "desired")
	}
}

func (c *twinCheck) add(pointer, format string, args ...any) {
	c.problems = append(c.problems, TwinProblem{pointer, fmt.Sprintf(format, args...)})
}

func (c *twinCheck) onlyMembers(at string, object *Value, allowed ...string) {
	for i := range object.Len() {
		if name := object.At(i).name; !slices.Contains(allowed, name) {
			c.add(pointer(jsontext.Pointer(at).AppendToken(name)), "an initial twin has no such member here, only %s", strings.Join(allowed, " and "))
		}
	}
}

func (c *twinCheck) section(pointer string, object *Value, name string) (section *Value, ok bool) {
	section = object.Get(name)
	if section == nil {
		return nil, false
	}
	if ok = section.kind == Object; !ok {
		c.add(pointer, "not an object")
	}
	return section, ok
}

// twinStep leads to a member, or to an element of an array.
type twinStep struct {
	name      string
	index     int
	isElement bool
}

// pointer is the JSON pointer of the current place, of which at most 256 bytes are written. It is written only for a
// problem: a rule can copy a device's payload, in which a long name stands above many values.
func (c *twinCheck) pointer() string {
	var text jsontext.Pointer
	for _, step := range c.path {
		if step.isElement {
			step.name = strconv.Itoa(step.index)
		}
		if text = text.AppendToken(step.name[:min(len(step.name), 2*maxPointer)]); len(text) > maxPointer {
			break
		}
	}
	return pointer(text)
}

func (c *twinCheck) sized(section *Value, limit int, path ...string) {
	c.path = c.path[:0]
	for _, name := range path {
		c.path = append(c.path, twinStep{name: name})
	}
	if size := c.object(section, 0); size > limit {
		c.add(c.pointer(), "%d bytes as IoT Hub counts them, over its limit of %d", size, limit)
	}
}

// object checks an object and returns its size as IoT Hub counts it.
func (c *twinCheck) object(object *Value, depth int) int {
	if depth > MaxTwinDepth {
		c.add(c.pointer(), "nested deeper than %d objects", MaxTwinDepth)
		return 0
	}
	size, here := 0, len(c.path)
	for i := range object.Len() {
		member := object.At(i)
		if depth == 0 && (member.name == "$version" || member.name == "$metadata") {
			continue // IoT Hub writes them itself, and does not count them
		}
		c.path = append(c.path[:here], twinStep{name: member.name})
		if problem := keyProblem(member.name); problem != "" {
			c.add(c.pointer(), "%s", problem)
		}
		size += textSize(member.name)
		size += c.value(member, depth)
	}
	c.path = c.path[:here]
	return size
}

// value checks the value at the current place, and returns its size.
func (c *twinCheck) value(value *Value, depth int) int {
	switch value.kind {
	case Object:
		return c.object(value, depth+1)
	case Array:
		size, here := 0, len(c.path)
		for i := range value.Len() {
			c.path = append(c.path[:here], twinStep{index: i, isElement: true})
			size += c.value(value.At(i), depth)
		}
		c.path = c.path[:here]
		return size
	case String:
		if len(value.text) > MaxTwinStringBytes {
			c.add(c.pointer(), "a string of %d bytes, over the limit of %d", len(value.text), MaxTwinStringBytes)
		}
		return textSize(value.text)
	case Number:
		if !twinNumber(value.Number()) {
			c.add(c.pointer(), "an integer beyond %d to %d", int64(minTwinInteger), int64(maxTwinInteger))
		}
		return 8
	case True, False:
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
