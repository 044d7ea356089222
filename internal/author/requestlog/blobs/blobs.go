// Package blobs finds logs in Azure Blob Storage and streams them from there, with an Azure identity.
package blobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/usher-dps/usher/internal/author/requestlog"
)

// IsURL reports whether an argument names blobs, and not a file.
func IsURL(text string) bool {
	return strings.HasPrefix(text, "https://") || strings.HasPrefix(text, "http://")
}

// place is a container, and what the names of the blobs in it start with.
type place struct{ container, prefix string }

const example = "https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX"

// parse reads a URL. Errors quote nothing of it but the host, because it can contain a secret. An emulator has the name
// of the account in the path.
func parse(text string) (place, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return place{}, errors.New("not a URL such as " + example)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return place{}, errors.New("a URL of blobs must have no shared access signature, user or fragment: sign in, give that identity the role " +
			"Storage Blob Data Reader, and write " + example)
	case u.Scheme != "https":
		return place{}, fmt.Errorf("a URL of blobs must start with https, because a token is sent to %s", u.Host)
	}
	steps := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	root := *u
	root.Path, root.RawPath = "", ""
	before := 1
	if _, err := netip.ParseAddr(u.Hostname()); err == nil || u.Hostname() == "localhost" {
		before = 2
	}
	if len(steps) < before || slices.Contains(steps[:before], "") {
		return place{}, errors.New("the URL names no container: write " + example)
	}
	return place{root.JoinPath(steps[:before]...).String(), strings.Join(steps[before:], "/")}, nil
}

// Options say who reads. Credential is required.
type Options struct {
	Credential azcore.TokenCredential
	// Transport sends requests; nil means the default of the Azure SDK.
	Transport policy.Transporter
}

// Logs lists the logs among the blobs of a container whose names start with a prefix, in the order of their names, which
// are their URLs. Opening one downloads it as it is read, until ctx ends. A blob whose name is all of the prefix is a log
// whatever it ends in.
func Logs(ctx context.Context, text string, options Options) ([]requestlog.Log, error) {
	at, err := parse(text)
	if err != nil {
		return nil, err
	}
	var settings container.ClientOptions
	settings.Transport = options.Transport
	settings.Telemetry = policy.TelemetryOptions{ApplicationID: "usher"}
	client, err := container.NewClient(at.container, options.Credential, &settings)
	if err != nil {
		return nil, explain(err)
	}
	var logs []requestlog.Log
	for pager := client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &at.prefix}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be listed: %w", at.container, explain(err))
		}
		for _, item := range page.Segment.BlobItems {
			name := *item.Name
			if name != at.prefix && !requestlog.IsLog(name) {
				continue
			}
			log := requestlog.Log{Name: at.container + "/" + name, Open: func() (io.ReadCloser, error) { return download(ctx, client.NewBlobClient(name)) }}
			if item.Properties != nil && item.Properties.ContentLength != nil {
				log.Size = *item.Properties.ContentLength
			}
			logs = append(logs, log)
		}
	}
	if len(logs) == 0 {
		return nil, fmt.Errorf("%s has no log whose name starts with %q: they end in %s", at.container, at.prefix, requestlog.Extensions())
	}
	return logs, nil
}

// download streams a blob. If the connection breaks, it reads on from where that was, unless the blob has changed.
func download(ctx context.Context, client *blob.Client) (io.ReadCloser, error) {
	response, err := client.DownloadStream(ctx, nil)
	if err != nil {
		return nil, explain(err)
	}
	return &explained{response.NewRetryReader(ctx, nil)}, nil
}

type explained struct{ io.ReadCloser }

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = explain(err)
	}
	return n, err
}

// explain shortens an error of the service, and says how to fix it if that is known.
func explain(err error) error {
	response, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		const longest = 400
		text := strings.Join(strings.Fields(err.Error()), " ")
		return errors.New(text[:min(len(text), longest)])
	}
	fix := ""
	switch {
	case response.StatusCode == http.StatusForbidden:
		fix = "; give your identity the role Storage Blob Data Reader on the container, and check whether the account's network rules let it in"
	case response.StatusCode == http.StatusUnauthorized:
		fix = "; the account does not accept the identity's token: is it of the same tenant?"
	case response.ErrorCode == string(bloberror.ConditionNotMet):
		fix = "; the blob changed while it was read: take only blobs that are finished"
	case response.ErrorCode == string(bloberror.ContainerNotFound):
		fix = "; check the name of the container"
	}
	return fmt.Errorf("%d %s%s", response.StatusCode, cmp.Or(response.ErrorCode, http.StatusText(response.StatusCode)), fix)
}
