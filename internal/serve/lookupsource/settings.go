package lookupsource

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/lookupsource/hubs"
	"github.com/usher-dps/usher/internal/serve/lookupsource/table"
	"github.com/usher-dps/usher/internal/serve/lookupsource/web"
)

// Kind says how the rows of a look-up are reached. Records name it.
type Kind string

// The kinds of source that a setting can name.
const (
	Snapshot Kind = "snapshot" // a file, local or in Blob Storage
	Postgres Kind = "postgres"
	Table    Kind = "table" // in Azure Table Storage
	Web      Kind = "https"
	Hubs     Kind = "hubs"    // the state of hubs, of lookup.hub
	Fixture  Kind = "fixture" // of the rules, for development
)

// settingPrefix starts the names of the settings of look-ups. SettingName and its suffixes are the whole names.
const settingPrefix = "USHER_LOOKUP_"

// SettingName is the name of the setting that says where the rows of a look-up are.
func SettingName(name string) string { return settingPrefix + strings.ToUpper(name) }

// Suffixes of settings; lookups.SettingSuffixes lists them all.
const (
	suffixQuery    = "_QUERY"
	suffixAudience = "_TOKEN_AUDIENCE"
	suffixHeader   = "_HEADER"
	suffixPoll     = "_POLL"
	suffixCache    = "_CACHE"
	suffixTable    = "_TABLE"
	suffixLimit    = "_LIMIT"
)

// Bounds of the settings.
const (
	DefaultPoll = time.Minute
	MinPoll     = time.Second
	MaxPoll     = 24 * time.Hour

	// DefaultCache is how many rows of a look-up are kept in memory. A row is at most 64 KiB, and usually below 1 KiB.
	DefaultCache = 10_000
	maxCache     = 10_000_000
)

// Setting says where the rows of one look-up are. It contains secrets.
type Setting struct {
	Name string // of the look-up
	Kind Kind
	// Address is a URL, or the path of a snapshot as it was written.
	Address string
	// Query is the SQL of a postgres source, with one parameter.
	Query string
	// Audience is whom a token of Entra ID is for; only of a Web source.
	Audience string
	Header   web.Header
	// Poll is how often a snapshot is requested.
	Poll time.Duration
	// Hubs are those of lookup.hub.
	Hubs hubs.Options
	// Cache is how many rows are kept in memory.
	Cache int
}

// String names the setting without its values.
func (s Setting) String() string { return SettingName(s.Name) + ", a " + string(s.Kind) + " source" }

// Settings are the sources of all look-ups, in the order of their names.
type Settings []Setting

var settingSuffix = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,40}$`)

// settingEnvironment is set to Development by the Functions Core Tools and by usher host.
const settingEnvironment = "AZURE_FUNCTIONS_ENVIRONMENT"

// Read reads the settings of look-ups. Their names are not known in advance, so it searches environ, which has the form
// of os.Environ, for them.
func Read(r *environment.Reader, environ []string) Settings {
	set := map[string]bool{}
	for _, variable := range environ {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, settingPrefix) && strings.TrimSpace(value) != "" {
			set[name] = true
		}
	}
	var settings Settings
	for name := range set {
		switch suffix := suffixOf(name); {
		case !settingSuffix.MatchString(strings.TrimPrefix(name, settingPrefix)):
			r.Wrong(name, "not the setting of a look-up: write %s and the look-up's name in upper case", settingPrefix)
		case suffix == "":
			settings = append(settings, readOne(r, name))
		case !set[strings.TrimSuffix(name, suffix)]:
			r.Wrong(name, "set, and %s is empty: say there where the rows are, or remove this setting", strings.TrimSuffix(name, suffix))
		}
	}
	slices.SortFunc(settings, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) })
	return settings
}

func suffixOf(name string) string {
	for _, suffix := range lookups.SettingSuffixes {
		if strings.HasSuffix(name, suffix) {
			return suffix
		}
	}
	return ""
}

// uses lists the suffixes that each kind uses.
var uses = map[Kind][]string{
	Snapshot: {suffixPoll},
	Postgres: {suffixQuery, suffixCache},
	Table:    {suffixCache},
	Web:      {suffixAudience, suffixHeader, suffixCache},
	Hubs:     {suffixTable, suffixLimit, suffixPoll},
	Fixture:  nil,
}

func readOne(r *environment.Reader, name string) Setting {
	s := Setting{
		Name:     strings.ToLower(strings.TrimPrefix(name, settingPrefix)),
		Address:  r.Get(name, ""),
		Query:    r.Get(name+suffixQuery, ""),
		Audience: r.Get(name+suffixAudience, ""),
		Poll:     r.Duration(name+suffixPoll, DefaultPoll, MinPoll, MaxPoll),
		Cache:    int(r.Int(name+suffixCache, "number of rows", DefaultCache, 0, maxCache)),
	}
	if s.Kind = kindOf(s.Address); s.Name == lookups.HubName {
		s.Kind = Hubs
	}
	for _, suffix := range lookups.SettingSuffixes {
		if s.Kind != "" && r.Get(name+suffix, "") != "" && !slices.Contains(uses[s.Kind], suffix) {
			r.Wrong(name+suffix, "a %s source, which %s names, has no use for it: remove the setting", s.Kind, name)
		}
	}
	var err error
	switch s.Kind {
	case Hubs:
		s.Hubs, err = readHubs(r, name, s)
	case "":
		r.Wrong(name, "not the place of rows: give a file that ends in %s, or a URL such as postgres://HOST/DATABASE, "+
			"https://ACCOUNT.table.core.windows.net/TABLE?partition=device&row={key} or https://HOST/devices/{key}", strings.Join(snapshotExtensions, ", "))
	case Table:
		_, err = table.ParseLocation(s.Address)
	case Web:
		_, err = web.ParseTemplate(s.Address)
		readCredential(r, name, &s)
	case Postgres:
		if s.Query == "" {
			r.Wrong(name+suffixQuery, "empty: write the SQL with one parameter, such as SELECT hub, tenant FROM devices WHERE serial = $1")
		}
	case Fixture:
		if r.Get(settingEnvironment, "") != "Development" {
			r.Wrong(name, "fixture is for development (%s is not Development): say where the rows are", settingEnvironment)
		}
	}
	if err != nil {
		r.Wrong(name, "%v", err)
	}
	return s
}

// readHubs reads the hubs whose state rules can look up.
func readHubs(r *environment.Reader, name string, s Setting) (hubs.Options, error) {
	o := hubs.Options{
		Table: r.Get(name+suffixTable, ""),
		Limit: r.Int(name+suffixLimit, "number of devices", hubs.DefaultLimit, 1, hubs.DefaultLimit),
		Poll:  r.Duration(name+suffixPoll, hubs.DefaultPoll, hubs.MinPoll, hubs.MaxPoll),
	}
	var err error
	o.Hubs, err = hubs.ParseHubs(s.Address)
	return o, err
}

func readCredential(r *environment.Reader, name string, s *Setting) {
	line := r.Get(name+suffixHeader, "")
	if line != "" {
		var err error
		if s.Header, err = web.ParseHeader(line); err != nil {
			r.Wrong(name+suffixHeader, "%v", err)
		}
	}
	if s.Audience == "" {
		return
	}
	if s.Header.Name == "Authorization" {
		r.Wrong(name+suffixHeader, "an Authorization header besides %s: give one of them", name+suffixAudience)
	}
	if u, err := url.Parse(s.Audience); err != nil || u.Scheme == "" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		r.Wrong(name+suffixAudience, "not the application ID URI of an API, such as api://devices")
	}
	if strings.HasPrefix(s.Address, "http:") {
		r.Wrong(name+suffixAudience, "a token is sent only over https, and %s is a URL with http", name)
	}
}

// snapshotExtensions end the names of files with rows.
var snapshotExtensions = []string{".csv", ".ndjson", ".jsonl", ".yaml", ".yml", ".sqlite", ".sqlite3", ".db"}

// kindOf returns the kind of source that a place of rows belongs to; empty if there is none.
func kindOf(address string) Kind {
	u, err := url.Parse(address)
	switch {
	case address == string(Fixture):
		return Fixture
	case table.Is(address):
		return Table
	case strings.HasPrefix(address, "blob:"):
		return Snapshot
	case strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://"):
		return Postgres
	case strings.HasPrefix(address, "https://") || strings.HasPrefix(address, "http://"):
		if err == nil && !strings.Contains(address, "{key}") && slices.Contains(snapshotExtensions, path.Ext(u.Path)) {
			return Snapshot
		}
		return Web
	case !strings.Contains(address, "://") && slices.Contains(snapshotExtensions, path.Ext(address)):
		return Snapshot
	}
	return ""
}
