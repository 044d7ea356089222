package azureauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/usher-dps/usher/internal/operate/azureauth"
)

// The request to the identity endpoint of App Service has the form that it expects. Not parallel: azidentity reads the
// environment of the process.
func TestManagedIdentity(t *testing.T) {
	for name, clientID := range map[string]string{"system-assigned": "", "user-assigned": "11111111-2222-3333-4444-555555555555"} {
		t.Run(name, func(t *testing.T) {
			var asked url.Values
			endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.Query()
				if r.Header.Get("X-Identity-Header") != "the-header" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(map[string]string{
					"access_token": "a-token", "token_type": "Bearer", "resource": "https://storage.azure.com",
					"expires_on": strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10),
				})
			}))
			defer endpoint.Close()
			t.Setenv("IDENTITY_ENDPOINT", endpoint.URL+"/msi/token")
			t.Setenv("IDENTITY_HEADER", "the-header")
			t.Setenv("AZURE_CLIENT_ID", clientID)
			credential, err := azureauth.Credential(os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			token, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://storage.azure.com/.default"}})
			if err != nil || token.Token != "a-token" {
				t.Fatalf("got %v, %v", token.Token, err)
			}
			if asked.Get("resource") != "https://storage.azure.com" || asked.Get("client_id") != clientID {
				t.Errorf("asked %v", asked)
			}
		})
	}
}

// What the endpoint answers arrives, with a fix, before the deadlines of those who need a token. The resource is another
// one than above, because tokens are cached.
func TestManagedIdentityFails(t *testing.T) {
	const user = "11111111-2222-3333-4444-555555555555"
	for name, test := range map[string]struct {
		status         int
		body, clientID string
		want           string
	}{
		"no system-assigned identity": {http.StatusBadRequest, `{"statusCode": 400, "message": "No managed identity found for: api-version=2019-08-01"}`, "",
			"the managed identity's endpoint answers 400 Bad Request: No managed identity found for: api-version=2019-08-01 " +
				"(set AZURE_CLIENT_ID if the identity is a user-assigned one, or assign a system-assigned one to the app)"},
		"another user-assigned identity": {http.StatusBadRequest, `{"error": "invalid_request", "error_description": "Identity not found"}`, user,
			"the managed identity's endpoint answers 400 Bad Request: Identity not found " +
				"(is the user-assigned identity " + user + ", which AZURE_CLIENT_ID names, assigned to the app?)"},
		"a failure": {http.StatusInternalServerError, "An unexpected error\noccurred", "",
			"the managed identity's endpoint answers 500 Internal Server Error: An unexpected error occurred " +
				"(set AZURE_CLIENT_ID if the identity is a user-assigned one, or assign a system-assigned one to the app)"},
		"a failure without words": {http.StatusBadGateway, "", user,
			"the managed identity's endpoint answers 502 Bad Gateway (is the user-assigned identity " + user + ", which AZURE_CLIENT_ID names, assigned to the app?)"},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			defer endpoint.Close()
			t.Setenv("IDENTITY_ENDPOINT", endpoint.URL+"/msi/token")
			t.Setenv("IDENTITY_HEADER", "the-header")
			t.Setenv("AZURE_CLIENT_ID", test.clientID)
			credential, err := azureauth.Credential(os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // as a start waits for its rules
			defer cancel()
			_, err = credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			if _, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); !ok {
				t.Errorf("got a %T", err)
			}
		})
	}
}

// Elsewhere it is the chain that includes developers' tools. No token is requested yet.
func TestDeveloper(t *testing.T) {
	t.Parallel()
	credential, err := azureauth.Credential(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := credential.(*azidentity.DefaultAzureCredential); !ok {
		t.Errorf("got %T", credential)
	}
}

// An error about an invalid chain names the variable.
func TestBadChain(t *testing.T) {
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "nobody")
	if _, err := azureauth.Credential(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "AZURE_TOKEN_CREDENTIALS") {
		t.Errorf("got %v", err)
	}
}
