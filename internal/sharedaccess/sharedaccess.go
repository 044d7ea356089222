// Package sharedaccess signs requests to DPS and IoT Hub with the key of a shared access policy.
//
// Source: https://learn.microsoft.com/azure/iot-dps/how-to-control-access and
// https://learn.microsoft.com/azure/iot-hub/authenticate-authorize-sas
package sharedaccess

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

// Connection is what a connection string contains.
type Connection struct {
	// Host is the host name of the DPS instance or the hub.
	Host string
	// Gateway is the host, and perhaps the port, that answers in its place; usually empty.
	Gateway string
	Key     Key
}

// Key is a shared access policy and its key. It is also a policy of azcore, which signs requests with the key.
type Key struct {
	host       string // the host that tokens are valid for, which can differ from the host that is called
	policyName string
	key        []byte
}

// Parse parses a connection string as the portal shows it. Its errors do not quote it.
func Parse(text string) (Connection, error) {
	var c Connection
	for part := range strings.SplitSeq(strings.TrimSpace(text), ";") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "HostName":
			c.Host, c.Key.host = value, value
		case "GatewayHostName":
			c.Gateway = value
		case "SharedAccessKeyName":
			c.Key.policyName = value
		case "SharedAccessKey":
			var err error
			if c.Key.key, err = base64.StdEncoding.DecodeString(value); err != nil {
				return Connection{}, errors.New("the SharedAccessKey of the connection string is not base64")
			}
		}
	}
	if c.Host == "" || c.Key.Check() != nil {
		return Connection{}, errors.New("not a connection string: want HostName=, SharedAccessKeyName= and SharedAccessKey=, with ; between them")
	}
	return c, nil
}

// Check reports whether there is no key.
func (k Key) Check() error {
	if k.policyName == "" || len(k.key) == 0 {
		return errors.New("there is neither a credential nor a shared access key")
	}
	return nil
}

// String returns the name of the policy, so that printing the value does not reveal the key.
func (k Key) String() string { return "SharedAccessKeyName=" + k.policyName }

// GoString does the same for %#v.
func (k Key) GoString() string { return k.String() }

// tokenLife is how long a signature is valid. Each request has its own.
const tokenLife = 10 * time.Minute

// Do signs a request; it implements policy.Policy.
func (k Key) Do(request *policy.Request) (*http.Response, error) {
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
