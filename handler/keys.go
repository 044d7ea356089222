package handler

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
)

// keys are digests of the function keys that a caller may present. Digests have one length, so a comparison takes the
// same time for every guess.
type keys [][sha256.Size]byte

func newKeys(texts []string) keys {
	digests := make(keys, len(texts))
	for i, text := range texts {
		digests[i] = sha256.Sum256([]byte(text))
	}
	return digests
}

// admit reports whether a request presents one of the keys where the Azure Functions host looks for it: in the query
// parameter code, which is all that DPS can send, or in the header x-functions-key. Without keys it admits every
// request.
func (k keys) admit(r *http.Request) bool {
	if len(k) == 0 {
		return true
	}
	shown := r.Header.Get("X-Functions-Key")
	if shown == "" {
		shown = r.URL.Query().Get("code")
	}
	digest := sha256.Sum256([]byte(shown))
	match := 0
	for i := range k {
		match |= subtle.ConstantTimeCompare(k[i][:], digest[:])
	}
	return match == 1
}
