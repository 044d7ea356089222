package decisionlog

import (
	"encoding/json"
	"fmt"
	"strings"
)

// allowance says what a record holds of one member of a request.
type allowance int

const (
	never    allowance = iota
	plain              // as it is
	identity           // it names the device: recorded like registration IDs
	declared           // only what a rule's METADATA declares recordable
)

// node is a member of the AllocationRequest with its allowance, from the schema.
type node struct {
	allowance allowance
	// pointer is its JSON pointer; empty below an array, and at the root.
	pointer string
	// root is its name in paths of custom.recordable; set only for declared.
	root    string
	members map[string]*node // of an object; nil if it has none that are known
	items   *node            // of an array
}

// recordable is the schema's annotation.
const recordable = "x-recordable"

// roots are the places that rules can declare recordable, by the last names of the pointer, and their names in
// METADATA. What DPS keeps of a device's last registration is the payload of an earlier answer.
var roots = []struct{ pointer, root string }{
	{"/deviceRuntimeContext/payload", "payload"},
	{"/initialTwin", "initialTwin"},
	{"/optionalDeviceInformation", "optionalDeviceInformation"},
	{"/registrationState/payload", answerPayload},
}

// Roots of the parts of an answer.
const (
	answerTwin    = "answer.initialTwin"
	answerPayload = "answer.payload"
)

// readAllowances reads the allow-list from the JSON Schema, so that the two cannot drift apart: a member without the
// annotation is never recorded.
func readAllowances(schema []byte) (*node, error) {
	var root map[string]any
	if err := json.Unmarshal(schema, &root); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	reader := allowanceReader{root: root}
	return reader.read(root, "")
}

type allowanceReader struct{ root map[string]any }

func (r allowanceReader) read(schema map[string]any, pointer string) (*node, error) {
	annotation, annotated := schema[recordable]
	if reference, ok := schema["$ref"].(string); ok {
		target, ok := r.resolve(reference)
		if !ok {
			return nil, fmt.Errorf("schema: %s refers to %s, which does not exist", pointer, reference)
		}
		if annotated { // an annotation at the reference overrides that at the definition
			target = mergeInto(target, recordable, annotation)
		}
		return r.read(target, pointer)
	}
	n := &node{allowance: plain, pointer: pointer}
	if strings.Contains(pointer, "*") {
		n.pointer = ""
	}
	if pointer != "" { // the request itself is recorded
		var err error
		if n.allowance, err = parseAllowance(annotation); err != nil {
			return nil, fmt.Errorf("schema: %s: %w", pointer, err)
		}
	}
	switch n.allowance {
	case never:
		return n, nil
	case declared:
		for _, known := range roots {
			if strings.HasSuffix(pointer, known.pointer) {
				n.root = known.root
				return n, nil
			}
		}
		return nil, fmt.Errorf("schema: %s is %q, but has no name in METADATA", pointer, "declared")
	}
	properties, _ := schema["properties"].(map[string]any)
	if schema["type"] == "object" {
		n.members = map[string]*node{}
	}
	for name, property := range properties {
		child, err := r.child(property, pointer+"/"+name, n.allowance)
		if err != nil {
			return nil, err
		}
		n.members[name] = child
	}
	if items, ok := schema["items"]; ok {
		var err error
		n.items, err = r.child(items, pointer+"/*", n.allowance)
		return n, err
	}
	return n, nil
}

// child reads a member. Below an identity, everything that is recordable is an identity as well.
func (r allowanceReader) child(schema any, pointer string, around allowance) (*node, error) {
	object, ok := schema.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("schema: %s is not an object", pointer)
	}
	child, err := r.read(object, pointer)
	if err == nil && around == identity {
		child.identify()
	}
	return child, err
}

func (n *node) identify() {
	if n == nil {
		return
	}
	if n.allowance == plain {
		n.allowance = identity
	}
	for _, member := range n.members {
		member.identify()
	}
	n.items.identify()
}

func (r allowanceReader) resolve(reference string) (map[string]any, bool) {
	var at any = r.root
	for _, name := range strings.Split(strings.TrimPrefix(reference, "#/"), "/") {
		object, _ := at.(map[string]any)
		at = object[name]
	}
	target, ok := at.(map[string]any)
	return target, ok
}

func mergeInto(schema map[string]any, name string, value any) map[string]any {
	merged := map[string]any{name: value}
	for key, member := range schema {
		if key != name {
			merged[key] = member
		}
	}
	return merged
}

func parseAllowance(annotation any) (allowance, error) {
	switch annotation {
	case nil:
		return never, nil
	case true:
		return plain, nil
	case "id":
		return identity, nil
	case "declared":
		return declared, nil
	}
	return never, fmt.Errorf("%s is %v; allowed are true, \"id\" and \"declared\"", recordable, annotation)
}
