package lookupsource_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/lookupsource"
	"github.com/usher-dps/usher/internal/serve/lookupsource/hubs"
	"github.com/usher-dps/usher/internal/serve/lookupsource/web"
	"github.com/usher-dps/usher/internal/sharedaccess"
)

func readSettings(variables map[string]string) (lookupsource.Settings, error) {
	var environ []string
	for name, value := range variables {
		environ = append(environ, name+"="+value)
	}
	r := environment.NewReader(func(name string) string { return variables[name] })
	return lookupsource.Read(r, environ), r.Err()
}

func TestRead(t *testing.T) {
	t.Parallel()
	got, err := readSettings(map[string]string{
		"USHER_LOOKUP_DEVICE":               "https://devices.example.com/v1/devices/{key}?view=usher",
		"USHER_LOOKUP_DEVICE_HEADER":        "x-api-key: SECRET",
		"USHER_LOOKUP_DEVICE_CACHE":         "200000",
		"USHER_LOOKUP_LOT_2":                "postgres://usher@db.example.com/fleet",
		"USHER_LOOKUP_LOT_2_QUERY":          "SELECT hub FROM lots WHERE lot = $1",
		"USHER_LOOKUP_TENANT":               "https://contoso.table.core.windows.net/tenants?partition=tenant&row={key}",
		"USHER_LOOKUP_BATCH":                "rows/batch.csv",
		"USHER_LOOKUP_BATCH_POLL":           "10s",
		"USHER_LOOKUP_BLOCKED":              "https://contoso.blob.core.windows.net/rows/blocked.sqlite",
		"USHER_LOOKUP_OWNER":                "https://owners.example.com/{key}",
		"USHER_LOOKUP_OWNER_TOKEN_AUDIENCE": "api://owners",
		"USHER_LOOKUP_SITE":                 "fixture",
		"USHER_LOOKUP_PART":                 "https://parts.example.com/{key}.yaml",
		"USHER_LOOKUP_PLANT":                "https://plants.example.com/plants.yaml?version=1",
		"USHER_LOOKUP_HUB":                  "contoso-eu.azure-devices.net",
		"USHER_LOOKUP_HUB_TABLE":            "hubs.csv",
		"USHER_LOOKUP_HUB_LIMIT":            "900000",
		"USHER_LOOKUP_EMPTY":                " ",
		"USHER_LOOKUP":                      "another setting",
		"AZURE_FUNCTIONS_ENVIRONMENT":       "Development",
	})
	if err != nil {
		t.Fatal(err)
	}
	one := func(name string, kind lookupsource.Kind, address string, change func(*lookupsource.Setting)) lookupsource.Setting {
		s := lookupsource.Setting{Name: name, Kind: kind, Address: address, Poll: time.Minute, Cache: 10_000}
		if change != nil {
			change(&s)
		}
		return s
	}
	want := lookupsource.Settings{
		one("batch", lookupsource.Snapshot, "rows/batch.csv", func(s *lookupsource.Setting) { s.Poll = 10 * time.Second }),
		one("blocked", lookupsource.Snapshot, "https://contoso.blob.core.windows.net/rows/blocked.sqlite", nil),
		one("device", lookupsource.Web, "https://devices.example.com/v1/devices/{key}?view=usher", func(s *lookupsource.Setting) {
			s.Header, s.Cache = web.Header{Name: "X-Api-Key", Value: "SECRET"}, 200_000
		}),
		one("hub", lookupsource.Hubs, "contoso-eu.azure-devices.net", func(s *lookupsource.Setting) {
			s.Hubs = hubs.Options{Hubs: []hubs.Hub{{Host: "contoso-eu.azure-devices.net"}}, Limit: 900_000, Poll: time.Minute, Table: "hubs.csv"}
		}),
		one("lot_2", lookupsource.Postgres, "postgres://usher@db.example.com/fleet", func(s *lookupsource.Setting) { s.Query = "SELECT hub FROM lots WHERE lot = $1" }),
		one("owner", lookupsource.Web, "https://owners.example.com/{key}", func(s *lookupsource.Setting) { s.Audience = "api://owners" }),
		one("part", lookupsource.Web, "https://parts.example.com/{key}.yaml", nil),
		one("plant", lookupsource.Snapshot, "https://plants.example.com/plants.yaml?version=1", nil),
		one("site", lookupsource.Fixture, "fixture", nil),
		one("tenant", lookupsource.Table, "https://contoso.table.core.windows.net/tenants?partition=tenant&row={key}", nil),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sharedaccess.Key{})); diff != "" {
		t.Error(diff)
	}
	if text := fmt.Sprint(got); strings.Contains(text, "SECRET") {
		t.Errorf("%s shows a secret", text)
	}
}

// An error names the setting and the fix, and quotes no value.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	const web, postgres = "https://SECRET.example.com/{key}?code=SECRET", "postgres://u:SECRET@SECRET/db"
	for want, variables := range map[string]map[string]string{
		"USHER_LOOKUP_DEVICE: not the place of rows: give a file that ends in .csv, ":                                            {"": "SECRET.txt"},
		"USHER_LOOKUP_DEVICE: not the place of rows: ":                                                                           {"": "mysql://SECRET/db"},
		"USHER_LOOKUP_DEVICE: the URL has no place for the key":                                                                  {"": "https://SECRET.example.com/rows"},
		"USHER_LOOKUP_DEVICE: http is allowed only for the loopback address":                                                     {"": "http://SECRET.example.com/{key}"},
		"USHER_LOOKUP_DEVICE: fixture is for development":                                                                        {"": "fixture"},
		"USHER_LOOKUP_DEVICE: a shared access signature is not supported":                                                        {"": "https://a.table.core.windows.net/rows?partition=p&row={key}&sig=SECRET"},
		"USHER_LOOKUP_DEVICE_QUERY: empty: write the SQL with one parameter":                                                     {"": postgres},
		"USHER_LOOKUP_DEVICE_QUERY: a https source, which USHER_LOOKUP_DEVICE names, has no use for it: remove the setting":      {"": web, "_QUERY": "SECRET"},
		"USHER_LOOKUP_DEVICE_HEADER: a postgres source, which USHER_LOOKUP_DEVICE names, has no use":                             {"": postgres, "_QUERY": "SECRET", "_HEADER": "a: SECRET"},
		"USHER_LOOKUP_DEVICE_POLL: a https source, ":                                                                             {"": web, "_POLL": "10s"},
		"USHER_LOOKUP_DEVICE_CACHE: a snapshot source, ":                                                                         {"": "SECRET.csv", "_CACHE": "10"},
		"USHER_LOOKUP_DEVICE_CACHE: not a number of rows from 0 to ":                                                             {"": web, "_CACHE": "-1"},
		"USHER_LOOKUP_DEVICE_QUERY: set, and USHER_LOOKUP_DEVICE is empty: say there where the rows are, or remove this setting": {"_QUERY": "SECRET"},
		"USHER_LOOKUP_DEVICE_HEADER: not the line of a header":                                                                   {"": web, "_HEADER": "SECRET"},
		"USHER_LOOKUP_DEVICE_HEADER: an Authorization header besides USHER_LOOKUP_DEVICE_TOKEN_AUDIENCE: give one of them":       {"": web, "_HEADER": "authorization: SECRET", "_TOKEN_AUDIENCE": "api://SECRET"},
		"USHER_LOOKUP_DEVICE_TOKEN_AUDIENCE: not the application ID URI":                                                         {"": web, "_TOKEN_AUDIENCE": "SECRET"},
		"USHER_LOOKUP_DEVICE_TOKEN_AUDIENCE: not the application ID URI of an API":                                               {"": web, "_TOKEN_AUDIENCE": "api://:443"},
		"USHER_LOOKUP_DEVICE_TOKEN_AUDIENCE: a token is sent only over https":                                                    {"": "http://localhost/{key}", "_TOKEN_AUDIENCE": "api://SECRET"},
		"USHER_LOOKUP_DEVICE-1: not the setting of a look-up: write USHER_LOOKUP_ and the look-up's name in upper case":          {"-1": web},
	} {
		set := map[string]string{}
		for suffix, value := range variables {
			set["USHER_LOOKUP_DEVICE"+suffix] = value
		}
		_, err := readSettings(set)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	for want, variables := range map[string]map[string]string{
		"USHER_LOOKUP_HUB: hub 1: not the host name of a hub":                             {"USHER_LOOKUP_HUB": "contoso-eu"},
		"USHER_LOOKUP_HUB_TABLE: set, and USHER_LOOKUP_HUB is empty":                      {"USHER_LOOKUP_HUB_TABLE": "hubs.csv"},
		"USHER_LOOKUP_HUB_LIMIT: not a number of devices":                                 {"USHER_LOOKUP_HUB": "a.azure-devices.net", "USHER_LOOKUP_HUB_LIMIT": "1000001"},
		"USHER_LOOKUP_HUB_QUERY: a hubs source, which USHER_LOOKUP_HUB names, has no use": {"USHER_LOOKUP_HUB": "a.azure-devices.net", "USHER_LOOKUP_HUB_QUERY": "SELECT 1"},
	} {
		if _, err := readSettings(variables); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// Every suffix belongs to a kind of source: a name that ends in one, which no look-up may have, is never taken for a
// look-up's own.
func TestSuffixes(t *testing.T) {
	t.Parallel()
	for _, suffix := range lookups.SettingSuffixes {
		got, err := readSettings(map[string]string{"USHER_LOOKUP_DEVICE" + suffix: "x.csv"})
		if len(got) > 0 || err == nil || !strings.Contains(err.Error(), "USHER_LOOKUP_DEVICE is empty") {
			t.Errorf("%s: got %v, %v", suffix, got, err)
		}
	}
}
