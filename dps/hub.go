package dps

import "strings"

// A hub has two host names, HUB.azure-devices.net and HUB.device.azure-devices.net, and likewise in other clouds. DPS
// links it under either of them (azure-iot-cli-extension, issues 813 and 822).
const (
	hubDomain    = ".azure-devices."
	deviceDomain = ".device.azure-devices."
)

// HubName returns the name by which hubs are compared: the host name in lower case, without the label "device". A text
// that is not a hub's host name, such as a first label, is only put into lower case.
func HubName(host string) string {
	host = strings.ToLower(host)
	if label, rest, ok := strings.Cut(host, deviceDomain); ok && !strings.Contains(label, ".") {
		return label + hubDomain + rest
	}
	return host
}

// SameHub reports whether two host names are names of one hub. It compares them without case, as DNS does.
func SameHub(a, b string) bool {
	return strings.EqualFold(a, b) || len(a) != len(b) && HubName(a) == HubName(b)
}
