// Package rulesource keeps rules up to date: it reads them from a folder or fetches them as a bundle, tests them, puts
// them into use in one step, and keeps the last good ones on disk for a start without their source.
//
// It decides nothing about devices. Package rulebundle knows what a bundle looks like.
package rulesource

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Kind says how rules are reached.
type Kind string

// The kinds of location.
const (
	Folder Kind = "folder" // of Rego files and data, or a bundle in a file
	HTTPS  Kind = "https"  // a bundle that any web server offers
	Blob   Kind = "blob"   // a bundle in Azure Blob Storage, read with an Azure identity
)

// Location says where rules come from.
type Location struct {
	Kind Kind
	// Path is that of a folder, or of a bundle in a file.
	Path string
	// URL is that of a bundle. Its query can contain a secret: show String instead.
	URL string
}

// blobPrefix marks a URL of Blob Storage whose host name does not show it.
const blobPrefix = "blob:"

// blobHosts end the host names of Blob Storage in the clouds of Azure. Source:
// https://learn.microsoft.com/azure/storage/common/storage-account-overview#storage-account-endpoints
var blobHosts = []string{".blob.core.windows.net", ".blob.storage.azure.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn"}

// ParseLocation reads a location: the URL of a bundle, or else a folder. A URL is one of Blob Storage if its host is,
// or if it follows blob:; one with a shared access signature is read like any other URL. Errors quote only the scheme
// of a URL.
func ParseLocation(text string) (Location, error) {
	rest, isBlob := strings.CutPrefix(text, blobPrefix)
	if !isBlob && !strings.Contains(text, "://") {
		if text == "" {
			return Location{}, errors.New("empty: name a folder of rules, or the URL of a bundle")
		}
		return Location{Kind: Folder, Path: text}, nil
	}
	u, err := url.Parse(rest)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return Location{}, errors.New("not a URL such as https://rules.example.com/rules.tar.gz")
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

// String is the folder, or the URL without its query.
func (l Location) String() string {
	if l.Kind == Folder {
		return l.Path
	}
	u, err := url.Parse(l.URL)
	if err != nil {
		return string(l.Kind)
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// bundleSuffix is how the name of a bundle in a file ends.
const bundleSuffix = ".tar.gz"

// Bundle reports whether the rules come as a bundle, which can be signed: from a URL, or from a file whose name ends in
// .tar.gz.
func (l Location) Bundle() bool { return l.Kind != Folder || strings.HasSuffix(l.Path, bundleSuffix) }

// Host is the host and port of a URL, empty for a folder.
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
