// Package remotefile reads a file that is elsewhere, on a web server or in Azure Blob Storage, when it has changed, and
// keeps copies of it in a folder that is safe for them. It knows nothing of what is in the file.
package remotefile

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Kind says how a file is reached.
type Kind string

// The kinds of location.
const (
	Path  Kind = "path"  // on this machine
	HTTPS Kind = "https" // on any web server
	Blob  Kind = "blob"  // in Azure Blob Storage, read with an Azure identity
)

// Location says where a file is.
type Location struct {
	Kind Kind
	Path string
	// URL can contain a secret in its query: show String instead.
	URL string
}

// blobPrefix marks a URL of Blob Storage whose host name does not show it.
const blobPrefix = "blob:"

// blobHosts end the host names of Blob Storage in the clouds of Azure. Source:
// https://learn.microsoft.com/azure/storage/common/storage-account-overview#storage-account-endpoints
var blobHosts = []string{".blob.core.windows.net", ".blob.storage.azure.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn"}

// ParseLocation reads a URL, or else a path. A URL is one of Blob Storage if its host is,
// or if it follows blob:; one with a shared access signature is read like any other URL. Errors quote only the scheme
// of a URL.
func ParseLocation(text string) (Location, error) {
	rest, isBlob := strings.CutPrefix(text, blobPrefix)
	if !isBlob && !strings.Contains(text, "://") {
		if text == "" {
			return Location{}, errors.New("empty: name a path or a URL")
		}
		return Location{Kind: Path, Path: text}, nil
	}
	u, err := url.Parse(rest)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return Location{}, errors.New("not a URL such as https://files.example.com/a/file")
	}
	switch {
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return Location{}, errors.New("http is allowed only for the loopback address: use https")
	case u.Scheme != "https" && u.Scheme != "http":
		return Location{}, fmt.Errorf("%s is not supported: use https", u.Scheme)
	case u.User != nil:
		return Location{}, errors.New("a URL must not contain a user name or a password")
	case strings.Trim(u.Path, "/") == "":
		return Location{}, errors.New("the URL names a host but no file")
	}
	u.Fragment = ""
	location := Location{Kind: HTTPS, URL: u.String()}
	for _, end := range blobHosts {
		isBlob = isBlob || strings.HasSuffix(strings.ToLower(u.Hostname()), end) && !u.Query().Has("sig")
	}
	if isBlob {
		location.Kind = Blob
	}
	return location, nil
}

// String is the path, or the URL without its query.
func (l Location) String() string {
	if l.Kind == Path {
		return l.Path
	}
	u, err := url.Parse(l.URL)
	if err != nil {
		return string(l.Kind)
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Host is the host and port of a URL, empty for a path.
func (l Location) Host() string {
	u, err := url.Parse(l.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
