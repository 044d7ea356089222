package web_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
	"github.com/usher-dps/usher/internal/standin/dpssim/web"
)

const (
	tenant       = "11111111-2222-3333-4444-555555555555"
	clientSecret = "the-secret-of-the-test"
)

// tokenEndpoint is a double of Entra's, with TLS: it gives a token of the issuer to whoever has the secret.
func tokenEndpoint(t *testing.T, issuer string, key jwk.Key) *httptest.Server {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		base := server.URL + "/" + tenant
		switch r.URL.Path {
		case "/" + tenant + "/v2.0/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]string{
				"issuer": base + "/v2.0", "token_endpoint": base + "/oauth2/v2.0/token", "authorization_endpoint": base + "/oauth2/v2.0/authorize",
			})
		case "/" + tenant + "/oauth2/v2.0/token":
			scope := ""
			for one := range strings.FieldsSeq(r.FormValue("scope")) {
				if resource, ok := strings.CutSuffix(one, "/.default"); ok {
					scope = resource
				}
			}
			if r.FormValue("client_secret") != clientSecret {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			token, err := jwt.NewBuilder().Issuer(issuer).Audience([]string{scope}).Expiration(time.Now().Add(time.Hour)).Build()
			if err != nil {
				t.Error(err)
			}
			signed, err := jwt.Sign(token, jwt.WithKey(jwa.RS256(), key))
			if err != nil {
				t.Error(err)
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": string(signed), "token_type": "Bearer", "expires_in": 3600})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// TestEntra calls the service API and a hub as clients of azidentity do.
func TestEntra(t *testing.T) {
	t.Parallel()
	const issuer = "https://sts.windows.net/" + tenant + "/"
	newKey := func() jwk.Key {
		t.Helper()
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		key, err := jwk.Import(private)
		if err == nil {
			err = key.Set(jwk.KeyIDKey, "k1") // tokens and the set of keys name it, as Entra's do
		}
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key := newKey()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	set := jwk.NewSet()
	if err := set.AddKey(public); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := entra.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	trusted := entra.Issuer{Name: issuer, Keys: keys}
	s := newStand(t, func(c *dpssim.Config) { c.Entra = trusted })
	s.manage("PUT", "/enrollmentGroups/g", symmetricGroup("g")).want(200) // keys of policies are still taken

	// call makes a call with a token that the double of Entra gives for the scope.
	call := func(endpoint *httptest.Server, client *http.Client, method, url, scope, body string) answer {
		t.Helper()
		credential, err := azidentity.NewClientSecretCredential(tenant, "client", clientSecret, &azidentity.ClientSecretCredentialOptions{
			ClientOptions: azcore.ClientOptions{
				Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: endpoint.URL}, Transport: endpoint.Client(),
			},
			DisableInstanceDiscovery: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		pipeline := runtime.NewPipeline("test", "", runtime.PipelineOptions{
			PerRetry: []policy.Policy{runtime.NewBearerTokenPolicy(credential, []string{scope}, nil)},
		}, &policy.ClientOptions{Transport: client, Retry: policy.RetryOptions{MaxRetries: -1}})
		request, err := runtime.NewRequest(t.Context(), method, url)
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			if err := runtime.MarshalAsJSON(request, json.RawMessage(body)); err != nil {
				t.Fatal(err)
			}
		}
		response, err := pipeline.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{t, response.StatusCode, response.Header, text}
	}
	const (
		dpsScope = "https://azure-devices-provisioning.net/.default"
		hubScope = "https://iothubs.azure.net/.default"
		group    = "https://" + dps + "/enrollmentGroups/g?api-version=2021-10-01"
		device   = "https://" + hubA + "/devices/d?api-version=2021-04-12"
	)
	endpoint := tokenEndpoint(t, issuer, key)
	call(endpoint, s.client, "GET", group, dpsScope, "").want(200)
	call(endpoint, s.client, "DELETE", group, dpsScope, "").want(204)
	call(endpoint, s.client, "GET", group, hubScope, "").refused(401, 401000)
	call(tokenEndpoint(t, issuer, newKey()), s.client, "GET", group, dpsScope, "").refused(401, 401000)
	call(tokenEndpoint(t, "https://sts.windows.net/other/", key), s.client, "GET", group, dpsScope, "").refused(401, 401000)
	call(endpoint, newStand(t, nil).client, "GET", group, dpsScope, "").refused(401, 401000)

	hubs := httptest.NewTLSServer(web.New(web.Options{
		Service: s.service, Hubs: web.HubAPI(hub.New(store.Memory(), time.Now), hub.Policy{Name: "iothubowner", Entra: trusted}, hubA),
	}))
	t.Cleanup(hubs.Close)
	atHubs := (&stand{t: t, address: hubs.Listener.Addr().String()}).clientWith(nil)
	call(endpoint, atHubs, "PUT", device, hubScope, `{"deviceId":"d"}`).want(200)
	call(endpoint, atHubs, "GET", device, hubScope, "").want(200)
	call(endpoint, atHubs, "GET", device, dpsScope, "").want(401)
	call(tokenEndpoint(t, issuer, newKey()), atHubs, "GET", device, hubScope, "").want(401)
	// Without an issuer, a hub takes no tokens.
	refused := s.call(s.client, "GET", device, "", map[string]string{"Authorization": "Bearer x"})
	if refused.want(401); strings.Contains(string(refused.body), "Bearer") {
		t.Errorf("got %s", refused.body)
	}
}
