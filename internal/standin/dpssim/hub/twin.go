package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
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

// Object is a JSON object. Numbers in it are json.Number, so that they come back as
// they came in.
type Object map[string]any

// UnmarshalJSON implements [json.Unmarshaler].
func (o *Object) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var m map[string]any
	if err := decoder.Decode(&m); err != nil {
		return err
	}
	*o = m
	return nil
}

// ParseObject reads one JSON object and nothing after it.
func ParseObject(data []byte) (Object, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var m map[string]any
	if err := decoder.Decode(&m); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if m == nil {
		return nil, errors.New("not a JSON object: null")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	return m, nil
}

// Properties is the desired or the reported part of a twin.
type Properties struct {
	Values   Object `json:"values"`
	Metadata Object `json:"metadata"` // times (and versions, in the desired part) of changes
	Version  int64  `json:"version"`
}

func newProperties(values Object, desired bool, now time.Time) Properties {
	p := Properties{Values: Object{}, Metadata: Object{}}
	p.patch(values, desired, now)
	return p
}

// patch merges a patch: members that are null are deleted. It bumps the version.
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

// document gives the values with their $version and, if asked, $metadata.
func (p Properties) document(metadata bool) Object {
	document := maps.Clone(p.Values)
	if document == nil {
		document = Object{}
	}
	if metadata {
		document[metadataKey] = p.Metadata
	}
	document[versionKey] = p.Version
	return document
}

// merge applies patch to values, and stamps the metadata of what changed and of all
// above it. stamp makes a new stamp.
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

// withoutSystem drops the two members that documents carry and patches must not set,
// for there are clients that send back what they got.
func withoutSystem(patch Object) Object {
	patch = maps.Clone(patch)
	delete(patch, metadataKey)
	delete(patch, versionKey)
	return patch
}

// check tells what of a section breaks a limit. name is "tags", "properties.desired"
// or "properties.reported".
func check(name string, section Object, maxBytes int) error {
	if err := checkValue(name, map[string]any(section), 0); err != nil {
		return err
	}
	if size := sizeOf(map[string]any(section)); size > maxBytes {
		return fmt.Errorf("%s has %d bytes, more than the %d that IoT Hub takes", name, size, maxBytes)
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
		if r == '.' || r == '$' || r == ' ' || r < 0x20 || r >= 0x7f && r <= 0x9f {
			return fmt.Errorf("%s has a member name with %q: no dot, dollar, space or control character may be in one", name, r)
		}
	}
	return nil
}

// sizeOf counts as IoT Hub does: names and strings by length, 8 for a number, 4 for a
// boolean, and what is nested by its parts.
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
