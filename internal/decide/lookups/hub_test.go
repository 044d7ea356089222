package lookups_test

import (
	"encoding/json"
	"testing"

	"github.com/usher-dps/usher/internal/decide/lookups"
)

func TestHubDeclaration(t *testing.T) {
	t.Parallel()
	d := lookups.HubDeclaration()
	for _, name := range d.Recordable {
		if d.RowSchema["properties"].(map[string]any)[name] == nil {
			t.Errorf("%s is recordable, but no member of a row", name)
		}
	}
	one := json.Number("1")
	for _, test := range []struct {
		row   map[string]any
		valid bool
	}{
		{map[string]any{"name": "a", "state": "open", "limit": one, "devices": one, "room": json.Number("0"), "full": true}, true},
		{map[string]any{"name": "a", "state": "down", "limit": one, "note": "storm"}, true},
		{map[string]any{"name": "a", "state": "closed", "limit": one}, false},
		{map[string]any{"name": "a", "state": "open"}, false},
		{map[string]any{"name": "a", "state": "open", "limit": one, "devices": "1"}, false},
	} {
		if violations := d.Row.Validate(test.row); (len(violations) == 0) != test.valid {
			t.Errorf("%v: %v", test.row, violations)
		}
	}
}
