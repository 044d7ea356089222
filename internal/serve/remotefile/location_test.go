package remotefile_test

import (
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/serve/remotefile"
)

func TestParseLocation(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		kind        remotefile.Kind
		shown, fail string
	}{
		"rules":                                                         {remotefile.Path, "rules", ""},
		"/home/site/rules":                                              {remotefile.Path, "/home/site/rules", ""},
		"https://rules.example.com/a.tar.gz":                            {remotefile.HTTPS, "https://rules.example.com/a.tar.gz", ""},
		"https://x.example.com/a?token=s3#f":                            {remotefile.HTTPS, "https://x.example.com/a", ""},
		"http://localhost:8888/bundle.tar.gz":                           {remotefile.HTTPS, "http://localhost:8888/bundle.tar.gz", ""},
		"http://[::1]:8888/bundle.tar.gz":                               {remotefile.HTTPS, "http://[::1]:8888/bundle.tar.gz", ""},
		"https://acct.blob.core.windows.net/c/rules.tar.gz":             {remotefile.Blob, "https://acct.blob.core.windows.net/c/rules.tar.gz", ""},
		"https://ACCT.Blob.Core.Windows.Net/c/rules.tar.gz":             {remotefile.Blob, "https://ACCT.Blob.Core.Windows.Net/c/rules.tar.gz", ""},
		"https://acct.z1.blob.storage.azure.net/c/rules.tar.gz":         {remotefile.Blob, "https://acct.z1.blob.storage.azure.net/c/rules.tar.gz", ""},
		"https://acct.blob.core.windows.net/c/rules.tar.gz?sv=1&sig=s3": {remotefile.HTTPS, "https://acct.blob.core.windows.net/c/rules.tar.gz", ""},
		"https://blob.core.windows.net.example.com/c/rules.tar.gz":      {remotefile.HTTPS, "https://blob.core.windows.net.example.com/c/rules.tar.gz", ""},
		"blob:https://127.0.0.1:10000/acct/c/rules.tar.gz":              {remotefile.Blob, "https://127.0.0.1:10000/acct/c/rules.tar.gz", ""},
		"":                              {fail: "empty"},
		"http://rules.example.com/a":    {fail: "use https"},
		"ftp://rules.example.com/a":     {fail: "ftp is not supported"},
		"https://me:s3@example.com/a":   {fail: "password"},
		"https://rules.example.com/":    {fail: "no file"},
		"https:///a":                    {fail: "not a URL"},
		"https://:443/a":                {fail: "not a URL"},
		"https://%zz/s3":                {fail: "not a URL"},
		"blob:rules":                    {fail: "not a URL"},
		"blob:http://example.com/c/a":   {fail: "use https"},
		"https://exa mple.com/a?sig=s3": {fail: "not a URL"},
	} {
		got, err := remotefile.ParseLocation(text)
		if want.fail != "" {
			if err == nil || !strings.Contains(err.Error(), want.fail) || strings.Contains(err.Error(), "s3") {
				t.Errorf("%q: %v, want %q", text, err, want.fail)
			}
			continue
		}
		if err != nil || got.Kind != want.kind || got.String() != want.shown {
			t.Errorf("%q: %s %s, %v; want %s %s", text, got.Kind, got, err, want.kind, want.shown)
		}
	}
}

func FuzzParseLocation(f *testing.F) {
	for _, seed := range []string{"rules", "https://a/b?c", "blob:https://a/b", "http://localhost/a#b", "https://a:b@c/d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		location, err := remotefile.ParseLocation(text)
		if err != nil || location.Kind == remotefile.Path {
			return
		}
		if strings.ContainsAny(location.String(), "?#@") && !strings.Contains(location.URL, "@") {
			t.Errorf("%q is shown as %s", text, location)
		}
		again, err := remotefile.ParseLocation(location.URL)
		if err != nil || again.URL != location.URL {
			t.Errorf("%q becomes %q, then %q, %v", text, location.URL, again.URL, err)
		}
	})
}
