package hub_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const (
	hubA = "contoso-hub-a.azure-devices.net"
	hubB = "contoso-hub-b.azure-devices.net"
)

var deviceKey = base64.StdEncoding.EncodeToString([]byte("the key of the device in the tests"))

// fixture is a registry with a clock that only the test advances.
type fixture struct {
	*hub.Registry
	store *store.Store
	time  time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{store: store.Memory(), time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.Registry = hub.New(f.store, func() time.Time { return f.time })
	return f
}

func (f *fixture) create(t *testing.T, host, id, twin string) {
	t.Helper()
	identity := model.DeviceIdentity{DeviceID: id, SymmetricKey: &model.SymmetricKey{PrimaryKey: deviceKey}}
	if err := f.createIdentity(host, identity, twin); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) createIdentity(host string, identity model.DeviceIdentity, twin string) error {
	var initial *model.InitialTwin
	if twin != "" {
		initial = new(model.InitialTwin)
		if err := json.Unmarshal([]byte(twin), initial); err != nil {
			return err
		}
	}
	return f.store.Update(func(tx *store.Tx) error { return f.Create(tx, host, identity, initial) })
}

// deviceTwin is the twin as the device reads it.
func (f *fixture) deviceTwin(t *testing.T, host, id string) string {
	t.Helper()
	twin, err := f.DeviceTwin(host, id)
	if err != nil {
		t.Fatal(err)
	}
	return string(twin)
}

func TestPatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, initial string
		service       []string // patches of the service side
		reported      []string
		tags, device  string // what comes of it
	}{
		{
			name: "an empty twin",
			tags: `{}`, device: `{"desired":{"$version":1},"reported":{"$version":1}}`,
		},
		{
			name:    "an initial twin",
			initial: `{"tags":{"site":"oslo"},"properties":{"desired":{"state":"ready","level":3}}}`,
			tags:    `{"site":"oslo"}`,
			device:  `{"desired":{"state":"ready","level":3,"$version":1},"reported":{"$version":1}}`,
		},
		{
			name:    "nulls in an initial twin",
			initial: `{"tags":{"a":null,"b":{"c":null,"d":1}},"properties":{"desired":{"x":null}}}`,
			tags:    `{"b":{"d":1}}`,
			device:  `{"desired":{"$version":1},"reported":{"$version":1}}`,
		},
		{
			name:    "merge, replace and delete",
			initial: `{"tags":{"site":"oslo","floor":{"no":1,"wing":"east"}},"properties":{"desired":{"a":{"b":1,"c":2},"d":[1,2]}}}`,
			service: []string{`{"tags":{"floor":{"no":2,"wing":null},"new":true},"properties":{"desired":{"a":{"b":null,"e":3},"d":[3]}}}`},
			tags:    `{"site":"oslo","floor":{"no":2},"new":true}`,
			device:  `{"desired":{"a":{"c":2,"e":3},"d":[3],"$version":2},"reported":{"$version":1}}`,
		},
		{
			name:    "an object in place of a value, and back",
			initial: `{"properties":{"desired":{"a":1,"b":{"c":1}}}}`,
			service: []string{`{"properties":{"desired":{"a":{"x":1,"y":null},"b":7}}}`},
			tags:    `{}`,
			device:  `{"desired":{"a":{"x":1},"b":7,"$version":2},"reported":{"$version":1}}`,
		},
		{
			name:    "parts that are null are emptied",
			initial: `{"tags":{"a":1},"properties":{"desired":{"a":1}}}`,
			service: []string{`{"tags":null,"properties":{"desired":null}}`},
			tags:    `{}`,
			device:  `{"desired":{"$version":2},"reported":{"$version":1}}`,
		},
		{
			name:     "reported properties have a version of their own",
			service:  []string{`{"properties":{"desired":{"a":1}}}`, `{"tags":{"t":1}}`},
			reported: []string{`{"fw":"1.0","disk":{"free":5}}`, `{"fw":"1.1","disk":{"free":null}}`, `{}`},
			tags:     `{"t":1}`,
			device:   `{"desired":{"a":1,"$version":2},"reported":{"fw":"1.1","disk":{},"$version":4}}`,
		},
		{
			name:     "what a document carries does no harm in a patch",
			service:  []string{`{"deviceId":"other","version":9,"properties":{"desired":{"a":1,"$version":77,"$metadata":{}},"reported":{"x":1}}}`},
			reported: []string{`{"$version":50,"b":2}`},
			tags:     `{}`,
			device:   `{"desired":{"a":1,"$version":2},"reported":{"b":2,"$version":2}}`,
		},
		{
			name:    "numbers come back as they came",
			initial: `{"tags":{"a":1.10,"b":4503599627370495,"c":1e3}}`,
			tags:    `{"a":1.10,"b":4503599627370495,"c":1e3}`,
			device:  `{"desired":{"$version":1},"reported":{"$version":1}}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.create(t, hubA, "d", test.initial)
			for _, patch := range test.service {
				if _, err := f.UpdateTwin(hubA, "d", []byte(patch), false, ""); err != nil {
					t.Fatal(err)
				}
			}
			for i, patch := range test.reported {
				version, err := f.UpdateReported(hubA, "d", []byte(patch))
				if err != nil {
					t.Fatal(err)
				}
				if version != int64(i)+2 {
					t.Errorf("reported version %d after %d patches", version, i+1)
				}
			}
			twin, err := f.Twin(strings.ToUpper(hubA), "d")
			if err != nil {
				t.Fatal(err)
			}
			tags, err := json.Marshal(twin.Tags)
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, "tags", string(tags), test.tags)
			sameJSON(t, "the device's twin", f.deviceTwin(t, hubA, "d"), test.device)
		})
	}
}

func TestReplaceTwin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, hubA, "d", `{"tags":{"a":1,"b":2},"properties":{"desired":{"x":{"y":1,"z":2},"w":1}}}`)
	session, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	twin, err := f.UpdateTwin(hubA, "d", []byte(`{"tags":{"b":3},"properties":{"desired":{"x":{"y":5}}}}`), true, "")
	if err != nil {
		t.Fatal(err)
	}
	tags, _ := json.Marshal(twin.Tags)
	sameJSON(t, "tags", string(tags), `{"b":3}`)
	sameJSON(t, "the device's twin", f.deviceTwin(t, hubA, "d"), `{"desired":{"x":{"y":5},"$version":2},"reported":{"$version":1}}`)
	sameJSON(t, "what the device is told", string((<-session.Desired).Patch), `{"x":{"y":5,"z":null},"w":null,"$version":2}`)
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, hubA, "d", `{"properties":{"desired":{"a":{"b":1},"c":1}}}`)
	f.time = f.time.Add(time.Hour)
	twin, err := f.UpdateTwin(hubA, "d", []byte(`{"properties":{"desired":{"a":{"b":2},"d":[]}}}`), false, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(twin.Properties.Desired)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, "desired", string(got), `{"a":{"b":2},"c":1,"d":[],"$version":2,"$metadata":{
		"$lastUpdated":"2026-03-01T13:00:00Z","$lastUpdatedVersion":2,
		"a":{"$lastUpdated":"2026-03-01T13:00:00Z","$lastUpdatedVersion":2,"b":{"$lastUpdated":"2026-03-01T13:00:00Z","$lastUpdatedVersion":2}},
		"c":{"$lastUpdated":"2026-03-01T12:00:00Z","$lastUpdatedVersion":1},
		"d":{"$lastUpdated":"2026-03-01T13:00:00Z","$lastUpdatedVersion":2}}}`)
	got, err = json.Marshal(twin.Properties.Reported)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, "reported", string(got), `{"$version":1,"$metadata":{"$lastUpdated":"2026-03-01T12:00:00Z"}}`)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	nested := func(depth int) string {
		return strings.Repeat(`{"n":`, depth) + `1` + strings.Repeat(`}`, depth)
	}
	many := func(n int) string { // of 100 bytes each
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"k%03d":"%s"`, i, strings.Repeat("x", 96)))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	for _, test := range []struct{ name, section, want string }{
		{"ten levels below", nested(11), ""},
		{"eleven levels below", nested(12), "nested deeper"},
		{"many levels", nested(5000), "nested deeper"},
		{"many arrays", `{"a":` + strings.Repeat(`[`, 9000) + strings.Repeat(`]`, 9000) + `}`, "a[0][0][0][0][0][0][0][0][0][0] is nested deeper"},
		{"a dot in a name", `{"a.b":1}`, "'.'"},
		{"a dollar", `{"a":{"$b":1}}`, "'$'"},
		{"a space", `{"a b":1}`, "' '"},
		{"a control character", `{"a\u0081":1}`, "name"},
		{"no name", `{"":1}`, "without a name"},
		{"a long name", `{"` + strings.Repeat("n", 1025) + `":1}`, "1025"},
		{"a long string", `{"a":"` + strings.Repeat("s", 4097) + `"}`, "4097"},
		{"a string just short enough", `{"a":"` + strings.Repeat("s", 4096) + `"}`, ""},
		{"the greatest integer", `{"a":4503599627370495}`, ""},
		{"a greater one", `{"a":4503599627370496}`, "outside"},
		{"a far greater one", `{"a":[` + strings.Repeat("9", 60) + `]}`, "outside"},
		{"the least integer", `{"a":-4503599627370496}`, ""},
		{"an array", `[]`, "not a JSON object"},
		{"a string", `"a"`, "not a JSON object"},
		{"80 members of 100 bytes", many(80), ""},
		{"400 members of 100 bytes", many(400), "bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for door, put := range map[string]func(*fixture) error{
				"initial tags": func(f *fixture) error { return f.createIdentity(hubA, identityOf("e"), `{"tags":`+test.section+`}`) },
				"initial desired": func(f *fixture) error {
					return f.createIdentity(hubA, identityOf("e"), `{"properties":{"desired":`+test.section+`}}`)
				},
				"tags": func(f *fixture) error {
					_, err := f.UpdateTwin(hubA, "d", []byte(`{"tags":`+test.section+`}`), false, "")
					return err
				},
				"desired": func(f *fixture) error {
					_, err := f.UpdateTwin(hubA, "d", []byte(`{"properties":{"desired":`+test.section+`}}`), false, "")
					return err
				},
				"reported": func(f *fixture) error {
					_, err := f.UpdateReported(hubA, "d", []byte(test.section))
					return err
				},
			} {
				f := newFixture(t)
				f.create(t, hubA, "d", "")
				before := f.deviceTwin(t, hubA, "d")
				err := put(f)
				if test.want == "" {
					if err != nil {
						t.Errorf("%s: %v", door, err)
					}
					continue
				}
				var refused *hub.Error
				if !errors.As(err, &refused) || refused.Status != 400 || refused.Code != "ArgumentInvalid" || !strings.Contains(refused.Message, test.want) {
					t.Errorf("%s: got %v, want something on %q", door, err, test.want)
				}
				if after := f.deviceTwin(t, hubA, "d"); after != before {
					t.Errorf("%s: refused, yet the twin changed to %s", door, after)
				}
			}
		})
	}
	t.Run("small patches that sum up", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		f.create(t, hubA, "d", "")
		var err error
		for i := 0; i < 20 && err == nil; i++ {
			_, err = f.UpdateReported(hubA, "d", fmt.Appendf(nil, `{"part%d":"%s"}`, i, strings.Repeat("x", 4000)))
		}
		if err == nil || !strings.Contains(err.Error(), "properties.reported") {
			t.Errorf("80 kB of reported properties: %v", err)
		}
	})
}

func TestMigrateMovesTheTwin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, hubA, "d", `{"tags":{"t":1},"properties":{"desired":{"a":1}}}`)
	if _, err := f.UpdateReported(hubA, "d", []byte(`{"fw":"1"}`)); err != nil {
		t.Fatal(err)
	}
	before := f.deviceTwin(t, hubA, "d")
	session, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	err = f.store.Update(func(tx *store.Tx) error {
		found, err := f.Migrate(tx, hubA, hubB, identityOf("d"))
		if !found {
			t.Error("the device was not found on the old hub")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if after := f.deviceTwin(t, hubB, "d"); after != before {
		t.Errorf("the twin was %s and is %s", before, after)
	}
	if twin, err := f.Twin(hubB, "d"); err != nil || !reflect.DeepEqual(twin.Tags, hub.Object{"t": json.Number("1")}) {
		t.Errorf("tags %v, %v", twin.Tags, err)
	}
	if _, err := f.Twin(hubA, "d"); !isNotFound(err) {
		t.Errorf("on the old hub: %v", err)
	}
	if _, open := <-session.Desired; open {
		t.Error("the session at the old hub goes on")
	}
	err = f.store.Update(func(tx *store.Tx) error {
		found, err := f.Migrate(tx, hubA, hubB, identityOf("d"))
		if found {
			t.Error("found twice")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if after := f.deviceTwin(t, hubB, "d"); after != before {
		t.Errorf("a migration of nothing changed the twin to %s", after)
	}
}

func TestRenewKeepsTheTwin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	renew := func(identity model.DeviceIdentity) (found bool) {
		err := f.store.Update(func(tx *store.Tx) (err error) {
			found, err = f.Renew(tx, hubA, identity)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if renew(identityOf("d")) {
		t.Error("a device that is not there was renewed")
	}
	f.create(t, hubA, "d", `{"properties":{"desired":{"a":1}}}`)
	before, err := f.Device(hubA, "d")
	if err != nil {
		t.Fatal(err)
	}
	session, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	twin := f.deviceTwin(t, hubA, "d")
	if !renew(identityOf("d")) {
		t.Error("not found")
	}
	if same, err := f.Device(hubA, "d"); err != nil || same.ETag != before.ETag || same.ConnectionState != "Connected" {
		t.Errorf("the same keys again changed the device: %+v, %v", same, err)
	}
	renew(model.DeviceIdentity{DeviceID: "d", PrimaryThumbprint: "AA"})
	after, err := f.Device(hubA, "d")
	if err != nil {
		t.Fatal(err)
	}
	if after.Authentication.Type != "selfSigned" || *after.Authentication.X509Thumbprint.Primary != "AA" || after.Authentication.SymmetricKey.Primary != nil || after.ETag == before.ETag {
		t.Errorf("after a registration by certificate: %+v", after)
	}
	if got := f.deviceTwin(t, hubA, "d"); got != twin {
		t.Errorf("the twin was %s and is %s", twin, got)
	}
	if _, open := <-session.Desired; open {
		t.Error("the session with the old key goes on")
	}
}

func TestAuthenticateDevice(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issuer, subject := authority.Devices(), pkix.Name{CommonName: "x"}
	valid, err := issuer.IssueFor(subject, f.time.Add(-time.Hour), f.time.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	over, err := issuer.IssueFor(subject, f.time.Add(-2*time.Hour), f.time.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	f.create(t, hubA, "d", "")
	for id, certificate := range map[string]tls.Certificate{"x": valid, "over": over} {
		identity := model.DeviceIdentity{DeviceID: id, PrimaryThumbprint: attest.SHA1Thumbprint(certificate.Leaf)}
		if id == "x" {
			identity = model.DeviceIdentity{DeviceID: id, PrimaryThumbprint: "00", SecondaryThumbprint: strings.ToLower(attest.SHA256Thumbprint(certificate.Leaf))}
		}
		if err := f.createIdentity(hubA, identity, ""); err != nil {
			t.Fatal(err)
		}
	}
	token := func(resource, key string, life time.Duration) string {
		raw, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			t.Fatal(err)
		}
		return attest.NewToken(resource, raw, f.time.Add(life), "")
	}
	other := base64.StdEncoding.EncodeToString([]byte("another key"))
	for _, test := range []struct {
		name, hub, id, sas string
		certificate        *x509.Certificate
		ok                 bool
	}{
		{"its key", hubA, "d", token(hubA+"/devices/d", deviceKey, time.Hour), nil, true},
		{"the host in capitals", strings.ToUpper(hubA), "d", token(strings.ToUpper(hubA)+"/devices/d", deviceKey, time.Hour), nil, true},
		{"another key", hubA, "d", token(hubA+"/devices/d", other, time.Hour), nil, false},
		{"a token that is over", hubA, "d", token(hubA+"/devices/d", deviceKey, -time.Second), nil, false},
		{"another device's token", hubA, "d", token(hubA+"/devices/e", deviceKey, time.Hour), nil, false},
		{"another hub's token", hubA, "d", token(hubB+"/devices/d", deviceKey, time.Hour), nil, false},
		{"another hub", hubB, "d", token(hubB+"/devices/d", deviceKey, time.Hour), nil, false},
		{"no token", hubA, "d", "", nil, false},
		{"no token, a certificate", hubA, "d", "", valid.Leaf, false},
		{"an unknown device", hubA, "nobody", token(hubA+"/devices/nobody", deviceKey, time.Hour), nil, false},
		{"its certificate", hubA, "x", "", valid.Leaf, true},
		{"no certificate", hubA, "x", "", nil, false},
		{"another certificate", hubA, "x", "", over.Leaf, false},
		{"a token in place of the certificate", hubA, "x", token(hubA+"/devices/x", deviceKey, time.Hour), nil, false},
		{"its certificate, which is over", hubA, "over", "", over.Leaf, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var certificates []*x509.Certificate
			if test.certificate != nil {
				certificates = append(certificates, test.certificate)
			}
			err := f.AuthenticateDevice(test.hub, test.id, test.sas, certificates)
			var refused *hub.Error
			if test.ok != (err == nil) || !test.ok && (!errors.As(err, &refused) || refused.Status != 401) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, hubA, "d", "")
	if _, err := f.Connect(hubA, "nobody", false); !isNotFound(err) {
		t.Errorf("an unknown device: %v", err)
	}
	first, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, open := <-first.Desired; open {
		t.Error("two sessions of one device")
	}
	first.Close() // must not end the second
	if n := f.Connected(hubA); n != 1 {
		t.Errorf("%d are connected", n)
	}
	for i := range 64 {
		if _, err := f.UpdateTwin(hubA, "d", fmt.Appendf(nil, `{"properties":{"desired":{"n":%d}}}`, i), false, ""); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.Connected(hubA); n != 1 {
		t.Errorf("%d are connected after 64 changes", n)
	}
	if _, err := f.UpdateTwin(hubA, "d", []byte(`{"properties":{"desired":{"n":-1}}}`), false, ""); err != nil {
		t.Fatal(err)
	}
	versions := int64(1)
	for change := range second.Desired {
		versions++
		if change.Version != versions {
			t.Fatalf("version %d in place of %d", change.Version, versions)
		}
	}
	if versions != 65 || f.Connected(hubA) != 0 {
		t.Errorf("%d changes came, %d are connected: a device too slow must be cut", versions-1, f.Connected(hubA))
	}
}

// TestChangesAreSentInOrder changes one twin from many service clients at once.
func TestChangesAreSentInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, hubA, "d", "")
	session, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 8 {
				if _, err := f.UpdateTwin(hubA, "d", fmt.Appendf(nil, `{"properties":{"desired":{"n":%d}}}`, i), false, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for version := int64(2); version <= 65; version++ {
		if change := <-session.Desired; change.Version != version {
			t.Fatalf("version %d in place of %d", change.Version, version)
		}
	}
}

func identityOf(id string) model.DeviceIdentity {
	return model.DeviceIdentity{DeviceID: id, SymmetricKey: &model.SymmetricKey{PrimaryKey: deviceKey}}
}

func isNotFound(err error) bool {
	var refused *hub.Error
	return errors.As(err, &refused) && refused.Status == 404 && refused.Code == "DeviceNotFound"
}

func sameJSON(t *testing.T, what, got, want string) {
	t.Helper()
	parse := func(text string) hub.Object {
		o, err := hub.ParseObject([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v in %s", what, err, text)
		}
		return o
	}
	if !reflect.DeepEqual(parse(got), parse(want)) {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// FuzzTwin sends bodies from both sides: what is accepted must be within the limits and must read back.
func FuzzTwin(f *testing.F) {
	for _, seed := range []string{`{}`, `{"tags":{"a":1},"properties":{"desired":{"b":{"c":null}}}}`, `{"tags":null}`, `{"properties":[]}`, `{"a":{"b":[1,{"c":null}]}}`, `{"$version":1}`, `nul`, `{"a":1}{`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := newFixture(t)
		s.create(t, hubA, "d", `{"tags":{"a":{"b":1}},"properties":{"desired":{"b":{"c":2}}}}`)
		versions := func() (desired, reported json.Number) {
			twin, err := hub.ParseObject([]byte(s.deviceTwin(t, hubA, "d")))
			if err != nil {
				t.Fatal(err)
			}
			return twin["desired"].(map[string]any)["$version"].(json.Number), twin["reported"].(map[string]any)["$version"].(json.Number)
		}
		for _, replace := range []bool{false, true} {
			if _, err := s.UpdateTwin(hubA, "d", body, replace, ""); err != nil {
				var refused *hub.Error
				if !errors.As(err, &refused) || refused.Status != 400 {
					t.Errorf("the service side: %v", err)
				}
			}
		}
		_, before := versions()
		version, err := s.UpdateReported(hubA, "d", body)
		_, after := versions()
		if err == nil && (fmt.Sprint(version) != after.String() || before == after) || err != nil && before != after {
			t.Errorf("reported %s, then %s, told %d, %v", before, after, version, err)
		}
	})
}
