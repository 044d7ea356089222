package enrollment

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// SharedAccessKey is a shared access policy of a DPS instance and its key. It is also a policy of azcore, which signs
// requests with the key.
//
// Source: https://learn.microsoft.com/azure/iot-dps/how-to-control-access
type SharedAccessKey struct {
	host       string // the host that tokens are valid for, which can differ from the host that is called
	policyName string
	key        []byte
}

// ParseConnectionString parses a connection string as the portal shows it. Its errors do not quote it.
func ParseConnectionString(text string) (host string, key SharedAccessKey, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(text), ";") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "HostName":
			host, key.host = value, value
		case "SharedAccessKeyName":
			key.policyName = value
		case "SharedAccessKey":
			if key.key, err = base64.StdEncoding.DecodeString(value); err != nil {
				return "", SharedAccessKey{}, errors.New("the SharedAccessKey of the connection string is not base64")
			}
		}
	}
	if host == "" || key.check() != nil {
		return "", SharedAccessKey{}, errors.New("not a connection string of a DPS instance: want HostName=, SharedAccessKeyName= and SharedAccessKey=, with ; between them")
	}
	return host, key, nil
}

func (k SharedAccessKey) check() error {
	if k.policyName == "" || len(k.key) == 0 {
		return errors.New("there is neither a credential nor a shared access key")
	}
	return nil
}

// String returns the name of the policy, so that printing the value does not reveal the key.
func (k SharedAccessKey) String() string { return "SharedAccessKeyName=" + k.policyName }

// GoString does the same for %#v.
func (k SharedAccessKey) GoString() string { return k.String() }

// tokenLife is how long a signature is valid. Each request has its own.
const tokenLife = 10 * time.Minute

// Do signs a request; it implements policy.Policy.
func (k SharedAccessKey) Do(request *policy.Request) (*http.Response, error) {
	raw := request.Raw()
	if raw.URL.Scheme != "https" {
		return nil, fmt.Errorf("no key is sent to %s, which is not https", raw.URL.Host)
	}
	resource := url.QueryEscape(strings.ToLower(k.host))
	expiry := strconv.FormatInt(time.Now().Add(tokenLife).Unix(), 10)
	mac := hmac.New(sha256.New, k.key)
	mac.Write([]byte(resource + "\n" + expiry))
	raw.Header.Set("Authorization", "SharedAccessSignature sr="+resource+
		"&sig="+url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))+
		"&se="+expiry+"&skn="+url.QueryEscape(k.policyName))
	return request.Next()
}
