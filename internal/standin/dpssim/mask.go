package dpssim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
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
	lenient := []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
	decoder := jsontext.NewDecoder(bytes.NewReader(body), lenient...)
	var out bytes.Buffer
	encoder := jsontext.NewEncoder(&out, lenient...)
	name := "" // of the member whose value is next
	for values := 0; ; {
		token, err := decoder.ReadToken()
		if errors.Is(err, io.EOF) && values == 1 {
			return bytes.TrimSpace(out.Bytes())
		}
		inside, read := decoder.StackIndex(decoder.StackDepth())
		switch isString := err == nil && token.Kind() == '"'; {
		case isString && inside == '{' && read%2 == 1:
			name = strings.ToLower(token.String())
		case isString && inside == '{' && secretMembers[name] && token.String() != "":
			token = jsontext.String(masked)
		case isString && inside == '{' && name == "webhookurl":
			token = jsontext.String(MaskURL(token.String()))
		}
		if err == nil {
			err = encoder.WriteToken(token)
		}
		if decoder.StackDepth() == 0 {
			values++
		}
		if err != nil || values > 1 { // what cannot be read cannot be masked
			return text(fmt.Appendf(nil, "(%d bytes that are not JSON)", len(body)))
		}
	}
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
	const limit = 2 << 10
	if len(body) > limit {
		body = append(bytes.Clone(body[:limit]), "..."...)
	}
	out, _ := json.Marshal(string(body)) // never fails
	return out
}
