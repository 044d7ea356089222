package lookups

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/decide/schema"
)

// HubName is the name of the look-up that every rule has without declaring it.
const HubName = "hub"

// HubStaleFor is how old the count of a hub's devices may be.
const HubStaleFor = 15 * time.Minute

//go:embed hub.schema.json
var hubSchema string

// HubDeclaration returns the declaration of lookup.hub(name), the state of a hub by its host name or first label. Its
// rows are not kept, because its source has them in memory. Its fixture is in the folder of the rules itself, because
// all rules have the same hubs.
func HubDeclaration() *Declaration {
	d := &Declaration{
		Name:        HubName,
		Description: "The state of a hub: how many devices it has, whether there is room for more, and whether the operator drains it.",
		Place:       "built in",
		Key:         "hub",
		Fixture:     "hub_fixture.csv",
		OnFault:     Stale,
		StaleFor:    HubStaleFor,
		Timeout:     500 * time.Millisecond,
		Recordable:  []string{"name", "state", "limit", "devices", "room", "full"},
	}
	decoder := json.NewDecoder(strings.NewReader(hubSchema))
	decoder.UseNumber()
	err := decoder.Decode(&d.RowSchema)
	if err == nil {
		d.Row, err = schema.Compile("hub", []byte(hubSchema))
	}
	if err != nil {
		panic(fmt.Sprintf("hub.schema.json: %v", err)) // a test compiles it
	}
	return d
}
