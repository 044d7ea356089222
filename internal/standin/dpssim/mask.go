package dpssim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

const masked = "****"

// secretMembers are the members of DPS's and the hubs' bodies that must not reach the journal, in lower case.
var secretMembers = map[string]bool{
	"primarykey":        true,
	"secondarykey":      true,
	"authenticationkey": true,
	"certificate":       true,
	"sas":               true,
	"password":          true,
}

// MaskURL hides the query of a URL, which holds a webhook's code, as DPS does.
func MaskURL(url string) string {
	if before, _, found := strings.Cut(url, "?"); found {
		return before + "?" + masked
	}
	return url
}

// Mask returns a body for the journal: JSON with keys, certificates and queries of webhooks hidden, or, for a body that
// is not JSON, a JSON string with its size. It returns nil for an empty body.
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
			return compact.Bytes() // members in the caller's order
		}
	}
	out, err := json.Marshal(value)
	if err != nil {
		return notJSON(body)
	}
	return out
}

// notJSON describes a body that cannot be read and therefore cannot be masked.
func notJSON(body []byte) json.RawMessage {
	return text(fmt.Appendf(nil, "(%d bytes that are not JSON)", len(body)))
}

// maskedJSON is [Mask] of a value's JSON; nil for nil.
func maskedJSON(value any) json.RawMessage {
	if value == nil {
		return nil
	}
	body, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	return Mask(body)
}

// text is a body that is not JSON as a JSON string, cut to 2 KiB.
func text(body []byte) json.RawMessage {
	const most = 2 << 10
	if len(body) > most {
		body = append(bytes.Clone(body[:most]), "..."...)
	}
	out, _ := json.Marshal(string(body))
	return out
}

// hide masks secrets in place and reports whether there were any.
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
