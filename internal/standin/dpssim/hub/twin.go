package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Limits of a twin, from "Understand and use device twins in IoT Hub".
const (
	maxTagBytes      = 8 << 10
	maxPropertyBytes = 32 << 10 // desired and reported properties, each
	maxDepth         = 10       // of objects below the section
	maxKeyBytes      = 1 << 10
	maxStringBytes   = 4 << 10
	minInteger       = -4503599627370496
	maxInteger       = 4503599627370495
)

const (
	metadataKey    = "$metadata"
	versionKey     = "$version"
	lastUpdated    = "$lastUpdated"
	lastUpdatedVer = "$lastUpdatedVersion"
)

// Object is a JSON object. Its numbers are json.Number, so that they are written as they were read.
type Object map[string]any

// UnmarshalJSON implements [json.Unmarshaler].
func (o *Object) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	*o = nil // Decode would add to it
	return decoder.Decode((*map[string]any)(o))
}

// ParseObject reads one JSON object and nothing after it.
func ParseObject(data []byte) (o Object, err error) {
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if o == nil {
		return nil, errors.New("not a JSON object: null")
	}
	return o, nil
}

// Properties is the desired or the reported part of a twin.
type Properties struct {
	Values   Object `json:"values"`
	Metadata Object `json:"metadata"` // times (and versions, in the desired part) of changes
	Version  int64  `json:"version"`
}

func newProperties() Properties { return Properties{Values: Object{}, Metadata: Object{}} }

// patch merges a patch, in which null deletes a member, and increments the version.
func (p *Properties) patch(patch Object, desired bool, now time.Time) {
	p.Version++
	stamp := func() map[string]any {
		m := map[string]any{lastUpdated: model.Time{Time: now}}
		if desired {
			m[lastUpdatedVer] = p.Version
		}
		return m
	}
	merge(p.Values, p.Metadata, patch, stamp)
}

// document returns the values with their $version and $metadata.
func (p Properties) document() Object {
	document := Object{versionKey: p.Version, metadataKey: p.Metadata}
	maps.Copy(document, p.Values)
	return document
}

// versioned writes members as a device receives them. $version is the last: Azure's samples for embedded C stop there.
func versioned(members Object, version int64) (json.RawMessage, error) {
	text, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	text = text[:len(text)-1]
	if len(members) > 0 {
		text = append(text, ',')
	}
	return fmt.Appendf(text, "%q:%d}", versionKey, version), nil
}

// merge applies patch to values, and stamps the metadata of what changed and of everything above it. stamp makes a new
// stamp.
func merge(values, metadata, patch map[string]any, stamp func() map[string]any) {
	maps.Copy(metadata, stamp())
	for key, value := range patch {
		if value == nil {
			delete(values, key)
			delete(metadata, key)
			continue
		}
		inner, isObject := value.(map[string]any)
		if !isObject {
			values[key] = value
			metadata[key] = stamp()
			continue
		}
		below, ok := values[key].(map[string]any)
		if !ok {
			below = map[string]any{}
			metadata[key] = map[string]any{}
		}
		belowMetadata, ok := metadata[key].(map[string]any)
		if !ok {
			belowMetadata = map[string]any{}
		}
		merge(below, belowMetadata, inner, stamp)
		values[key], metadata[key] = below, belowMetadata
	}
}

// withoutSystem drops the two members that documents have and patches must not set, because some clients send back what
// they received.
func withoutSystem(patch Object) Object {
	patch = maps.Clone(patch)
	delete(patch, metadataKey)
	delete(patch, versionKey)
	return patch
}

// check reports what in a section exceeds a limit. name is "tags", "properties.desired" or "properties.reported".
func check(name string, section Object, maxBytes int) error {
	if err := checkValue(name, map[string]any(section), 0); err != nil {
		return err
	}
	if size := sizeOf(map[string]any(section)); size > maxBytes {
		return fmt.Errorf("%s has %d bytes, more than the %d that IoT Hub accepts", name, size, maxBytes)
	}
	return nil
}

func checkValue(name string, value any, depth int) error {
	switch value := value.(type) {
	case map[string]any:
		if depth > maxDepth {
			return fmt.Errorf("%s is nested deeper than %d objects", name, maxDepth)
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if err := checkKey(name, key); err != nil {
				return err
			}
			if err := checkValue(name+"."+key, value[key], depth+1); err != nil {
				return err
			}
		}
	case []any:
		if depth > maxDepth {
			return fmt.Errorf("%s is nested deeper than %d objects", name, maxDepth)
		}
		for i, element := range value {
			if err := checkValue(fmt.Sprintf("%s[%d]", name, i), element, depth+1); err != nil {
				return err
			}
		}
	case string:
		if len(value) > maxStringBytes {
			return fmt.Errorf("%s has %d bytes, more than the %d of a string", name, len(value), maxStringBytes)
		}
	case json.Number:
		if strings.ContainsAny(value.String(), ".eE") {
			return nil
		}
		if n, ok := new(big.Int).SetString(value.String(), 10); !ok || n.Cmp(big.NewInt(minInteger)) < 0 || n.Cmp(big.NewInt(maxInteger)) > 0 {
			return fmt.Errorf("%s is an integer outside of %d to %d", name, int64(minInteger), int64(maxInteger))
		}
	}
	return nil
}

func checkKey(name, key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%s has a member without a name", name)
	case len(key) > maxKeyBytes:
		return fmt.Errorf("%s has a member name of %d bytes, more than %d", name, len(key), maxKeyBytes)
	case !utf8.ValidString(key):
		return fmt.Errorf("%s has a member name that is not UTF-8", name)
	}
	for _, r := range key {
		if strings.ContainsRune(".$ ", r) || unicode.IsControl(r) {
			return fmt.Errorf("%s has a member name with %q: dots, dollar signs, spaces and control characters are not allowed", name, r)
		}
	}
	return nil
}

// sizeOf counts as IoT Hub does: names and strings by length, 8 for a number, 4 for a boolean, and the sum of the parts
// for an object or array.
func sizeOf(value any) int {
	size := 0
	switch value := value.(type) {
	case map[string]any:
		for key, element := range value {
			size += len(key) + sizeOf(element)
		}
	case []any:
		for _, element := range value {
			size += sizeOf(element)
		}
	case string:
		size = len(value)
	case json.Number:
		size = 8
	case bool:
		size = 4
	}
	return size
}
