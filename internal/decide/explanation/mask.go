package explanation

import "github.com/usher-dps/usher/internal/decide/keymaterial"

// mask hides the key material of the request.
func (e *Explanation) mask(m keymaterial.Mask) {
	for i := range e.Entries {
		entry := &e.Entries[i]
		entry.Value = m.Value(entry.Value)
		maskDefinitions(m, entry.Definitions)
	}
	for i, text := range e.BuiltinErrors {
		e.BuiltinErrors[i] = m.Text(text)
	}
}

func maskDefinitions(m keymaterial.Mask, definitions []Definition) {
	for i := range definitions {
		d := &definitions[i]
		d.Value, d.Error = m.Value(d.Value), m.Text(d.Error)
		if d.Failed != nil {
			d.Failed.Why = m.Text(d.Failed.Why)
			maskTerms(m, d.Failed.Terms)
		}
		maskTerms(m, d.Uses)
		for j := range d.Draws {
			d.Draws[j].Key = m.Text(d.Draws[j].Key)
		}
	}
}

func maskTerms(m keymaterial.Mask, terms []Term) {
	for i := range terms {
		t := &terms[i]
		t.Why = m.Text(t.Why)
		for j, value := range t.Values {
			t.Values[j] = m.Value(value)
		}
		maskDefinitions(m, t.Definitions)
	}
}
