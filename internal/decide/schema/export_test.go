package schema

// Fast runs the fast check alone. Where decided is false, it leaves the answer
// to the library.
func (s *Schema) Fast(doc any) (accepts, decided bool) {
	var c checking
	accepts = s.fast.accepts(&c, doc)
	return accepts, !c.undecided
}

// Library runs the library alone. The document must be judgeable.
func (s *Schema) Library(doc any) bool { return s.library.Validate(doc) == nil }

// Judgeable reports whether the library may see the document.
func Judgeable(doc any) bool { return len(unjudgeable(doc)) == 0 }

// AsksLibrary reports whether the fast check leaves any part of the schema to
// the library.
func (s *Schema) AsksLibrary() bool {
	seen := map[*node]bool{}
	var asks func(n *node) bool
	asks = func(n *node) bool {
		if n == nil || seen[n] {
			return false
		}
		seen[n] = true
		children := []*node{n.ref, n.not}
		children = append(children, n.allOf...)
		children = append(children, n.anyOf...)
		children = append(children, n.oneOf...)
		if n.when != nil {
			children = append(children, n.when.condition, n.when.then, n.when.otherwise)
		}
		if n.object != nil {
			children = append(children, n.object.names, n.object.additional)
			for _, p := range append(n.object.properties, n.object.dependentSubs...) {
				children = append(children, p.node)
			}
			for _, p := range n.object.patterns {
				children = append(children, p.node)
			}
		}
		if n.array != nil {
			children = append(children, n.array.items, n.array.contains)
			children = append(children, n.array.prefix...)
		}
		for _, child := range children {
			if asks(child) {
				return true
			}
		}
		return n.library != nil
	}
	return asks(s.fast)
}
