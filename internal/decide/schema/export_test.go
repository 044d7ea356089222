package schema

// Fast runs the fast check alone. Where decided is false, it leaves the answer to the library.
func (s *Schema) Fast(doc any) (accepts, decided bool) {
	var c checking
	accepts = s.fast.accepts(&c, doc)
	return accepts, !c.undecided
}

// Library runs the library alone. The document must be judgeable.
func (s *Schema) Library(doc any) bool { return s.library.Validate(doc) == nil }

// Judgeable reports whether the library may see the document.
func Judgeable(doc any) bool { return len(unjudgeable(doc)) == 0 }

// AsksLibrary reports whether the fast check leaves any part of the schema to the library.
func (s *Schema) AsksLibrary() bool {
	seen := map[*node]bool{}
	var asks func(n *node) bool
	asks = func(n *node) bool {
		if n == nil || seen[n] {
			return false
		}
		seen[n] = true
		children := append([]*node{n.ref, n.items}, n.oneOf...)
		for _, child := range n.properties {
			children = append(children, child)
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
