package dpssim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

const masked = "****"

// secretMembers are members of DPS's and the hubs' bodies that no journal holds,
// in lower case.
var secretMembers = map[string]bool{
	"primarykey":        true,
	"secondarykey":      true,
	"authenticationkey": true,
	"certificate":       true,
	"sas":               true,
	"password":          true,
}

// MaskURL hides the query of a URL, which holds a webhook's code, as DPS hides it.
func MaskURL(url string) string {
	if before, _, found := strings.Cut(url, "?"); found {
		return before + "?" + masked
	}
	return url
}

// Mask returns a body for the journal: JSON with keys, certificates and queries
// of webhooks hidden, or a JSON string that tells its size. Nothing stays nil.
func Mask(body []byte) json.RawMessage {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil || decoder.More() {
		return notJSON(body)
	}
	if !hide(value) {
		var compact bytes.Buffer
		if json.Compact(&compact, body) == nil {
			return compact.Bytes() // members in the order that the caller gave
		}
	}
	out, err := json.Marshal(value)
	if err != nil {
		return notJSON(body)
	}
	return out
}

// notJSON tells the size alone: what cannot be read cannot be masked.
func notJSON(body []byte) json.RawMessage {
	return text(fmt.Appendf(nil, "(%d bytes that are not JSON)", len(body)))
}

// text is a body that is not JSON, as a JSON string, cut.
func text(body []byte) json.RawMessage {
	const most = 2 << 10
	if len(body) > most {
		body = append(bytes.Clone(body[:most]), "..."...)
	}
	out, _ := json.Marshal(string(body))
	return out
}

// hide masks in place and reports whether there was anything.
func hide(value any) (changed bool) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			changed = hide(element) || changed
		}
	case map[string]any:
		for name, member := range v {
			text, isText := member.(string)
			switch folded := strings.ToLower(name); {
			case isText && secretMembers[folded] && text != "":
				v[name], changed = masked, true
			case isText && folded == "webhookurl" && MaskURL(text) != text:
				v[name], changed = MaskURL(text), true
			default:
				changed = hide(member) || changed
			}
		}
	}
	return changed
}
