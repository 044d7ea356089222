package schema

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// place is where a value is in a document; nil is the root. Its pointer is written only if it is needed: a property with
// a long name and many items below it would otherwise cost their product, 9 GB for a body of 256 KB.
type place struct {
	above *place
	name  string // of a property
	index int    // of an item; -1 if it is a property
}

// walk visits every value that is neither an object nor an array, and every property, in the order of their pointers.
func (p *place) walk(value any, visit func(at *place, value any)) {
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			at := &place{p, name, -1}
			switch value[name].(type) {
			case map[string]any, []any:
				visit(at, nil)
			}
			at.walk(value[name], visit)
		}
	case []any:
		for i, item := range value {
			at := place{above: p, index: i}
			at.walk(item, visit)
		}
	default:
		visit(p, value)
	}
}

// pointer is the JSON pointer, of which at most the start is written that a Violation shows.
func (p *place) pointer() string {
	var below []*place // the innermost first
	for at := p; at != nil; at = at.above {
		below = append(below, at)
	}
	var pointer jsontext.Pointer
	for _, at := range slices.Backward(below) {
		name := at.name
		if at.index >= 0 {
			name = strconv.Itoa(at.index)
		}
		if pointer = pointer.AppendToken(shorten(name, maxPointerLength)); len(pointer) > maxPointerLength {
			break
		}
	}
	return strings.ToValidUTF8(string(pointer), "\uFFFD")
}
