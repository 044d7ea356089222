package lint

import (
	"context"
	"fmt"
)

// reasonsObject finds a reject or a hold that is an object rather than a set. One object with a reason is as good as a
// set of one reason. An object that is put together of its members does not load.
func reasonsObject(_ context.Context, s *subject, add report) {
	for entry, does := range map[string]string{"reject": "refuses", "hold": "holds"} {
		for _, v := range s.analysis.Entries[entry] {
			if v.IsObject() && !mayHave(v, "reason") && v.Place.Location != nil {
				add(v.Place.Location, fmt.Sprintf("%s is an object here, which %s every device for which it is defined, even if it is empty", entry, does),
					fmt.Sprintf("write `%s contains \"reason\" if ...`; for no reasons, leave %s out", entry, entry))
			}
		}
	}
}
