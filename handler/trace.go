package handler

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/usher-dps/usher/answer"
)

// continueTrace reads a traceparent header and opens a span below it.
func continueTrace(traceparent string) answer.Trace {
	parts := strings.Split(traceparent, "-")
	// Later versions may append parts; version 00 has four.
	if len(parts) < 4 || parts[0] == "00" && len(parts) != 4 ||
		!isHex(parts[0], 2) || parts[0] == "ff" || !isHex(parts[1], 32) || !isHex(parts[2], 16) || !isHex(parts[3], 2) ||
		strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return answer.Trace{}
	}
	var span [8]byte
	rand.Read(span[:]) // never fails
	return answer.Trace{TraceID: parts[1], ParentID: parts[2], SpanID: hex.EncodeToString(span[:])}
}

func isHex(text string, length int) bool {
	return len(text) == length && strings.Trim(text, "0123456789abcdef") == ""
}
