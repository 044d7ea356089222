package table

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf16"
)

// placeholder stands for the key in a template.
const placeholder = "{key}"

// prefix marks a URL of Table Storage whose host name does not show it, such as that of an emulator.
const prefix = "table:"

// hosts end the host names of Table Storage in the clouds of Azure. Source:
// https://learn.microsoft.com/azure/storage/common/storage-account-overview#storage-account-endpoints
var hosts = []string{".table.core.windows.net", ".table.storage.azure.net", ".table.core.usgovcloudapi.net", ".table.core.chinacloudapi.cn"}

// Is reports whether a setting names a table.
func Is(text string) bool {
	if strings.HasPrefix(text, prefix) {
		return true
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" {
		return false
	}
	for _, end := range hosts {
		if strings.HasSuffix(strings.ToLower(u.Hostname()), end) {
			return true
		}
	}
	return false
}

// Location is a table, and how the key of a look-up becomes the keys of an entity.
type Location struct {
	Service string // URL
	Table   string
	// Partition and Row are templates; at least one has a place for the key.
	Partition, Row string
}

// tableName matches the names that Table Storage allows. Source:
// https://learn.microsoft.com/rest/api/storageservices/understanding-the-table-service-data-model#table-names
var tableName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{2,62}$`)

// ParseLocation reads a URL such as https://ACCOUNT.table.core.windows.net/TABLE?partition=device&row={key}. Its errors
// do not quote it.
func ParseLocation(text string) (Location, error) {
	const example = "https://ACCOUNT.table.core.windows.net/TABLE?partition=device&row={key}"
	u, err := url.Parse(strings.TrimPrefix(text, prefix))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return Location{}, errors.New("not the URL of a table: write " + example)
	}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil || u.Fragment != "":
		return Location{}, errors.New("not the URL of a table: write " + example)
	case u.User != nil:
		return Location{}, errors.New("a URL must not contain a user name or a password")
	case query.Has("sig"):
		return Location{}, errors.New("a shared access signature is not supported: leave it out, and give the identity the role " + role)
	}
	for name, values := range query {
		if name != "partition" && name != "row" || len(values) > 1 {
			return Location{}, errors.New("the URL of a table has the parameters partition and row, each once: write " + example)
		}
	}
	path := strings.Split(strings.Trim(u.Path, "/"), "/")
	l := Location{Table: path[len(path)-1], Partition: query.Get("partition"), Row: query.Get("row")}
	l.Service = (&url.URL{Scheme: u.Scheme, Host: strings.TrimSuffix(u.Host, ":"), Path: "/" + strings.Join(path[:len(path)-1], "/")}).String()
	switch {
	case strings.Contains(u.Path, placeholder):
		return Location{}, errors.New("the key must not decide the account or the table: move {key} to partition or row")
	case !tableName.MatchString(l.Table):
		return Location{}, errors.New("the path of the URL is not the name of a table, of 3 to 63 letters and digits: write " + example)
	case !strings.Contains(l.Partition+l.Row, placeholder):
		return Location{}, errors.New("neither partition nor row has a place for the key: write " + example)
	case l.Partition == "" || l.Row == "":
		return Location{}, errors.New("partition or row is empty: write " + example)
	}
	for name, template := range map[string]string{"partition": l.Partition, "row": l.Row} {
		if !allowed(template) {
			return Location{}, fmt.Errorf("%s has a character that Table Storage does not allow in keys", name)
		}
	}
	return l, nil
}

// maxKey bounds the partition key and the row key, in UTF-16 code units. Source:
// https://learn.microsoft.com/rest/api/storageservices/understanding-the-table-service-data-model#property-limitations
const maxKey = 512

// keys returns the keys of an entity. It reports false if Table Storage has no entity with such keys.
func (l Location) keys(key string) (partition, row string, ok bool) {
	partition, row = strings.ReplaceAll(l.Partition, placeholder, key), strings.ReplaceAll(l.Row, placeholder, key)
	return partition, row, allowed(partition) && allowed(row)
}

// allowed reports whether Table Storage allows a key. Source:
// https://learn.microsoft.com/rest/api/storageservices/understanding-the-table-service-data-model#characters-disallowed-in-key-fields
func allowed(key string) bool {
	return key != "" && len(utf16.Encode([]rune(key))) <= maxKey && !strings.ContainsFunc(key, func(r rune) bool {
		return strings.ContainsRune(`/\#?`, r) || r < 0x20 || 0x7f <= r && r <= 0x9f
	})
}
