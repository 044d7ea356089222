package play

import (
	"context"
	"errors"
	"strings"

	"github.com/usher-dps/usher/internal/decide/lookups"
)

// row is what a look-up finds for a key, instead of what the fixture has.
type row struct {
	Lookup string         `json:"lookup"`
	Key    string         `json:"key"`
	Row    map[string]any `json:"row"` // null if there is none
	Fails  bool           `json:"fails,omitempty"`
}

// rows answer look-ups. What they do not have, the fixtures next to the rules answer.
type rows []row

var errFails = errors.New("the source fails, as the request pane says")

// Find implements [lookups.Sources].
func (r rows) Find(_ context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	for _, one := range r {
		if one.Lookup != d.Name || one.Key != key && (d.CaseSensitive || !strings.EqualFold(one.Key, key)) {
			continue
		}
		found := lookups.Found{Source: "request pane"}
		if one.Fails {
			return found, errFails
		}
		found.Row = one.Row
		return found, nil
	}
	return lookups.Found{}, lookups.ErrUseFixture
}
