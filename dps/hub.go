package dps

import "strings"

// A hub has two host names, HUB.azure-devices.net and HUB.device.azure-devices.net, and likewise in other clouds. DPS
// links it under either of them (azure-iot-cli-extension, issues 813 and 822).
const (
	hubDomain    = ".azure-devices."
	deviceDomain = ".device.azure-devices."
)

// HubName returns the name by which hubs are compared: the host name in lower case, without the label "device". A text
// that is not a hub's host name, such as a first label, is only put into lower case. Only ASCII letters have another
// case in DNS: U+017F and U+212A, which Unicode folds to s and k, are other letters.
func HubName(host string) string {
	host = lowerASCII(host)
	if label, rest, ok := strings.Cut(host, deviceDomain); ok && !strings.Contains(label, ".") {
		return label + hubDomain + rest
	}
	return host
}

// SameHub reports whether two host names are names of one hub. It compares them without case, as DNS does.
func SameHub(a, b string) bool {
	if len(a) == len(b) {
		return sameHost(a, b)
	}
	const label = len(deviceDomain) - len(hubDomain)
	return (len(a)-len(b) == label || len(b)-len(a) == label) && HubName(a) == HubName(b)
}

// sameHost is [strings.EqualFold] for ASCII.
func sameHost(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lowerByte(a[i]) != lowerByte(b[i]) {
			return false
		}
	}
	return true
}

func lowerASCII(text string) string {
	isUpper := func(r rune) bool { return 'A' <= r && r <= 'Z' }
	if strings.IndexFunc(text, isUpper) < 0 {
		return text
	}
	lower := []byte(text)
	for i, c := range lower {
		lower[i] = lowerByte(c)
	}
	return string(lower)
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
