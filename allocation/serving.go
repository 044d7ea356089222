package allocation

import "github.com/usher-dps/usher/dps"

// Serving returns the rule that serves an enrollment. It reports false where none
// does, not even a default.
func (r *Rules) Serving(enrollment dps.Enrollment) (Binding, bool) {
	rule := find(r.set, enrollment)
	if rule == nil {
		return Binding{}, false
	}
	return bindingOf(rule), true
}
