package dps_test

import (
	"strings"
	"testing"

	"github.com/usher-dps/usher/dps"
)

func TestHubNames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"contoso.azure-devices.net", "Contoso.Azure-Devices.NET", true},
		{"contoso.azure-devices.net", "contoso.device.azure-devices.net", true},
		{"CONTOSO.DEVICE.azure-devices.net", "contoso.azure-devices.NET", true},
		{"contoso.azure-devices.us", "contoso.device.azure-devices.us", true},
		{"contoso.azure-devices.cn", "contoso.device.azure-devices.cn", true},
		{"contoso.azure-devices.net", "contoso.device.azure-devices.us", false},
		{"contoso.azure-devices.net", "contoso2.device.azure-devices.net", false},
		{"device.azure-devices.net", "azure-devices.net", false},
		{"device.azure-devices.net", "device.device.azure-devices.net", true}, // a hub named device
		{"a.b.device.azure-devices.net", "a.b.azure-devices.net", false},      // not a hub's host name
		{"contoso.device.example.com", "contoso.example.com", false},
		{"contoso", "contoso.azure-devices.net", false},
		{"", "contoso", false},
		// Letters that Unicode folds to those of ASCII are other letters in a host name.
		{"conto\u017fo.azure-devices.net", "contoso.azure-devices.net", false},
		{"\u212aontoso.azure-devices.net", "kontoso.azure-devices.net", false},
		{"conto\u017fo.device.azure-devices.net", "contoso.azure-devices.net", false},
		{"\u00c4.azure-devices.net", "\u00e4.azure-devices.net", false},
	} {
		if dps.SameHub(test.a, test.b) != test.same || dps.SameHub(test.b, test.a) != test.same {
			t.Errorf("SameHub(%q, %q) is not %v both ways", test.a, test.b, test.same)
		}
		if (dps.HubName(test.a) == dps.HubName(test.b)) != test.same {
			t.Errorf("HubName: %q and %q", dps.HubName(test.a), dps.HubName(test.b))
		}
	}
}

func TestLinkedUnderEitherName(t *testing.T) {
	t.Parallel()
	const classic, device = "contoso.azure-devices.net", "contoso.device.azure-devices.net"
	for _, test := range []struct{ linked, current, name, want string }{
		{device, "", classic, device},
		{classic, "", strings.ToUpper(device), classic},
		{strings.ToUpper(classic), device, device, strings.ToUpper(classic)},
		{classic + " " + device, "", device, device},
		{device + " " + classic, "", classic, classic},
		{classic + " " + device, device, classic, device}, // the device stays under the name that it is on
		{device + " " + classic, classic, device, classic},
		{"other.azure-devices.net", device, classic, ""},
		{classic, "", "", ""},
		{classic, "", "conto\u017fo.azure-devices.net", ""},
		{classic, "", "conto\u017fo.device.azure-devices.net", ""},
	} {
		r := dps.AllocationRequest{LinkedHubs: strings.Fields(test.linked), Device: dps.DeviceRuntimeContext{CurrentIotHubHostName: test.current}}
		if got, ok := r.LinkedHub(test.name); got != test.want || ok != (test.want != "") {
			t.Errorf("%+v: %q, %v", test, got, ok)
		}
	}
}

// Both comparisons agree on any two names, and a name of a hub is that of its other host name.
func FuzzHubName(f *testing.F) {
	f.Add("contoso.azure-devices.net", "contoso.device.azure-devices.net")
	f.Add("device.azure-devices.", ".device.azure-devices.")
	f.Fuzz(func(t *testing.T, a, b string) {
		name := dps.HubName(a)
		if dps.HubName(name) != name && !strings.Contains(name, ".device.azure-devices.") {
			t.Errorf("the name of %q, %q, has another name: %q", a, name, dps.HubName(name))
		}
		if dps.HubName(a) == dps.HubName(b) && !dps.SameHub(a, b) {
			t.Errorf("%q and %q have one name and are not the same hub", a, b)
		}
	})
}
