package configfile

import (
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"strings"
)

//go:embed example.yaml
var example string

// Example is a commented configuration for the starter rules, with new keys. deviceCA is the path of the certificate
// that signs made-up devices, as the file is to name it.
func Example(deviceCA string) string {
	text := strings.ReplaceAll(example, "@DEVICE_CA@", deviceCA)
	for strings.Contains(text, "@KEY@") {
		text = strings.Replace(text, "@KEY@", newKey(), 1)
	}
	return text
}

func newKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}
