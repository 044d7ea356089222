package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// secret returns a text that occurs nowhere else, so that tests can search for it.
func secret() string {
	random := make([]byte, 24)
	rand.Read(random) // never fails
	return "SECRET" + base64.RawURLEncoding.EncodeToString(random)
}

// authority signs the certificates of the test's servers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "end to end"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key, file}
}

// issue returns a certificate and its key in DER, for a server on this machine or for a device.
func (a *authority) issue(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if certificate, err = x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key); err != nil {
		t.Fatal(err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(own); err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// serveTLS starts a server with a certificate of the authority.
func (a *authority) serveTLS(t *testing.T, handle http.Handler) *httptest.Server {
	t.Helper()
	certificate, key := a.issue(t, "127.0.0.1")
	private, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handle)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: private}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// tls returns the configuration of clients that trust the authority.
func (a *authority) tls() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return &tls.Config{RootCAs: pool}
}

// identity is a stand-in for the endpoint at which an app in Azure gets tokens for its managed identity. Source:
// https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference
type identity struct {
	*httptest.Server
	header string // that a caller must send; a secret
	asked  atomic.Int64
	token  string // for storage; a secret
	api    string // the token for the audience of an API; a secret
}

// audience is that of an API that is not Azure's.
const audience = "api://inventory"

func startIdentity(t *testing.T) *identity {
	t.Helper()
	i := &identity{header: secret()}
	now := time.Now()
	i.api = secret()
	part := func(value any) string { return base64.RawURLEncoding.EncodeToString(asJSON(t, value)) }
	// Azurite reads the claims, but checks neither the signature nor roles.
	i.token = part(map[string]any{"alg": "none", "typ": "JWT"}) + "." + part(map[string]any{
		"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000001/",
		"iat": now.Unix() - 60, "nbf": now.Unix() - 60, "exp": now.Unix() + 3600, "oid": secret(),
	}) + "." + secret()
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		resource := r.URL.Query().Get("resource")
		token := map[string]string{"https://storage.azure.com": i.token, audience: i.api}[strings.TrimSuffix(resource, "/")]
		if r.Header.Get("X-Identity-Header") != i.header || r.URL.Query().Get("api-version") != "2019-08-01" || token == "" {
			http.Error(w, "not a caller of this app", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(asJSON(t, map[string]any{"access_token": token, "expires_on": strconv.FormatInt(now.Unix()+3600, 10),
			"resource": resource, "token_type": "Bearer", "client_id": "00000000-0000-0000-0000-000000000002"}))
	}))
	t.Cleanup(i.Close)
	return i
}

// GetToken implements azcore.TokenCredential, for the test's own access to the storage.
func (i *identity) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: i.token, ExpiresOn: time.Now().Add(time.Hour)}, nil
}

const account = "usherstore"

// storage is Azurite. Its data survives a stop.
type storage struct {
	t        *testing.T
	service  string // blob or table
	folder   string
	accounts string // contains the account's key, a secret
	key      string
	port     string
	running  *exec.Cmd
	client   *azblob.Client
	plain    *http.Client
}

// runStorage starts one of Azurite's services.
func runStorage(t *testing.T, ca *authority, service, port string) *storage {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	s := &storage{t: t, service: service, folder: t.TempDir(), port: port, key: base64.StdEncoding.EncodeToString(key)}
	s.accounts = account + ":" + s.key
	certificate, private := ca.issue(t, "127.0.0.1")
	for name, block := range map[string]*pem.Block{"server.pem": {Type: "CERTIFICATE", Bytes: certificate}, "server.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(s.folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	t.Cleanup(s.stop)
	s.plain = &http.Client{Transport: &http.Transport{TLSClientConfig: ca.tls()}}
	return s
}

func startStorage(t *testing.T, ca *authority, as *identity) *storage {
	t.Helper()
	s := runStorage(t, ca, "blob", "0")
	client, err := azblob.NewClient(s.url(""), as, &azblob.ClientOptions{ClientOptions: policy.ClientOptions{Transport: s.plain}})
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	for _, container := range []string{"rules", "decisions"} {
		if _, err := client.CreateContainer(t.Context(), container, nil); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

var listens = regexp.MustCompile(`(?:listens on https://|successfully started on )127\.0\.0\.1:(\d+)`)

// start starts Azurite, on the same port as before.
func (s *storage) start() {
	s.t.Helper()
	program, err := filepath.Abs(filepath.FromSlash("node_modules/azurite/dist/src/" + s.service + "/main.js"))
	if err != nil {
		s.t.Fatal(err)
	}
	command := exec.Command("node", program, "--"+s.service+"Host", "127.0.0.1", "--"+s.service+"Port", s.port, "--oauth", "basic", "--cert", "server.pem", "--key", "server.key",
		"--location", "data", "--disableTelemetry", "--skipApiVersionCheck")
	command.Dir = s.folder
	command.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+s.accounts)
	output, err := command.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := command.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.running = command
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if match := listens.FindStringSubmatch(lines.Text()); match != nil {
			s.port = match[1]
			go func() { _, _ = io.Copy(io.Discard, output) }() // otherwise Azurite would block; it ends with Azurite
			return
		}
	}
	s.t.Fatalf("Azurite does not start: %v %s", command.Wait(), &stderr)
}

// stop ends Azurite with SIGTERM, so that it saves its data.
func (s *storage) stop() {
	if s.running == nil {
		return
	}
	_ = s.running.Process.Signal(syscall.SIGTERM)
	_ = s.running.Wait()
	s.running = nil
}

// url returns the URL of a blob or container. In emulators, the account is in the path.
func (s *storage) url(path string) string {
	return "https://127.0.0.1:" + s.port + "/" + account + "/" + path
}

func (s *storage) upload(name string, content []byte) {
	s.t.Helper()
	if _, err := s.client.UploadBuffer(s.t.Context(), "rules", name, content, nil); err != nil {
		s.t.Fatal(err)
	}
}

// blobs returns all blobs with decisions, by name.
func (s *storage) blobs() map[string]string {
	s.t.Helper()
	found := map[string]string{}
	for pager := s.client.NewListBlobsFlatPager("decisions", nil); pager.More(); {
		page, err := pager.NextPage(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, item := range page.Segment.BlobItems {
			response, err := s.client.DownloadStream(s.t.Context(), "decisions", *item.Name, nil)
			if bloberror.HasCode(err, bloberror.BlobNotFound) {
				continue
			}
			if err != nil {
				s.t.Fatal(err)
			}
			content, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				s.t.Fatal(err)
			}
			found[*item.Name] = string(content)
		}
	}
	return found
}

// recordsIn returns the records in a text by decision ID, and the number of duplicates. It ignores lines of other logs.
// Half a line is an error.
func recordsIn(t *testing.T, text string) (records map[string]decisionlog.Record, duplicates int) {
	t.Helper()
	records = map[string]decisionlog.Record{}
	for line := range strings.Lines(text) {
		record, err := decisionlog.Decode([]byte(line))
		if errors.Is(err, decisionlog.ErrNotRecord) {
			continue
		}
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if _, there := records[record.DecisionID]; there {
			duplicates++
		}
		records[record.DecisionID] = record
	}
	return records, duplicates
}

// signing is a pair of keys for bundles.
type signing struct {
	private, public string // files
}

func newSigning(t *testing.T) signing {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	s := signing{filepath.Join(folder, "private.pem"), filepath.Join(folder, "public.pem")}
	for name, block := range map[string]*pem.Block{s.private: {Type: "EC PRIVATE KEY", Bytes: private}, s.public: {Type: "PUBLIC KEY", Bytes: public}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// rulesFor returns rules that send devices to the linked hub with this number.
func rulesFor(hub int) string {
	return fmt.Sprintf(`# METADATA
# title: Everything
# custom:
#   recordable: [payload.model]
package allocation.default

hub := input.linkedHubs[%d]
`, hub)
}

// pack makes a bundle with `usher bundle`, which is not signed if the key is nil.
func pack(t *testing.T, rules, revision string, key *signing) []byte {
	t.Helper()
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "default"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "default", "default.rego"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"bundle", "--rules", folder, "--revision", revision, "-o", "-"}
	if key != nil {
		arguments = append(arguments, "--signing-key", key.private, "--signing-alg", "ES256")
	}
	return []byte(usher(t, arguments...))
}

// packBroken makes a signed bundle of rules that `usher bundle` would not pack.
func packBroken(t *testing.T, rules, revision string, key signing) []byte {
	t.Helper()
	var packed bytes.Buffer
	files := fstest.MapFS{"default/default.rego": {Data: []byte(rules)}}
	if err := rulebundle.Write(&packed, files, []string{"default/default.rego"}, rulebundle.WriteOptions{
		Revision: revision, Key: &rulebundle.Key{File: key.private, Algorithm: "ES256"}}); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}
