package pki_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

func TestServerNamesAreTrusted(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir(), "dps.example.test", "192.0.2.7")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"localhost", "127.0.0.1", "::1", "global.azure-devices-provisioning.net",
		"contoso.azure-devices-provisioning.net", "contoso-hub-a.azure-devices.net", "dps.example.test", "192.0.2.7",
	} {
		if _, err := handshake(t, authority, authority.Pool(), name, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"example.test", "login.microsoftonline.com", "192.0.2.8"} {
		if _, err := handshake(t, authority, authority.Pool(), name, nil); err == nil {
			t.Errorf("the certificate passes for %s", name)
		}
	}
}

// TestAuthorityVouchesOnlyForItsNames signs a certificate for another site with the authority's key, as someone who
// stole the key could.
func TestAuthorityVouchesOnlyForItsNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := pki.Load(dir, "dps.example.test"); err != nil {
		t.Fatal(err)
	}
	_, err := pki.Load(dir, "other.example.test")
	if err == nil || !strings.Contains(err.Error(), "other.example.test") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a host that the authority was made without: %v", err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := tls.X509KeyPair(content, content)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: ca.Leaf.SerialNumber, DNSNames: []string{"login.microsoftonline.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, ca.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	if _, err := stolen.Verify(x509.VerifyOptions{Roots: pool, DNSName: "login.microsoftonline.com"}); err == nil {
		t.Error("the authority can vouch for a foreign site")
	}
}

func TestLoadKeepsAndRenews(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	start := time.Now()
	for _, test := range []struct {
		name              string
		after             time.Duration
		hosts             []string
		sameCA, sameServe bool
	}{
		{"again", 0, nil, true, true},
		{"well before the end", 200 * day, nil, true, true},
		{"the server's near the end", 300 * day, nil, true, false},
		{"the server's over", 500 * day, nil, true, false},
		{"one host more", 0, []string{"more.localhost"}, true, false},
		{"the authority near its end", 9*365*day + 10*day, nil, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			first, err := pki.LoadAt(start, dir)
			if err != nil {
				t.Fatal(err)
			}
			caBefore, serverBefore := leafOf(t, first.CAFile()), first.ServerConfig().Certificates[0].Leaf
			now := start.Add(test.after)
			second, err := pki.LoadAt(now, dir, test.hosts...)
			if err != nil {
				t.Fatal(err)
			}
			caAfter, serverAfter := leafOf(t, second.CAFile()), second.ServerConfig().Certificates[0].Leaf
			if caAfter.Equal(caBefore) != test.sameCA || serverAfter.Equal(serverBefore) != test.sameServe {
				t.Errorf("same authority %v, same server %v", caAfter.Equal(caBefore), serverAfter.Equal(serverBefore))
			}
			if serverAfter.NotAfter.Before(now.Add(100 * day)) {
				t.Errorf("the server's certificate ends soon: %v at %v", serverAfter.NotAfter, now)
			}
			for which, ca := range map[string]*x509.Certificate{"old": caBefore, "new": caAfter} {
				pool := x509.NewCertPool()
				pool.AddCert(ca)
				if _, err := serverAfter.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost", CurrentTime: now}); err != nil {
					t.Errorf("who trusts the %s authority does not trust the server: %v", which, err)
				}
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"https://dps.example.test", "localhost:8443", "", "a..b", "-a", "a b"} {
		if _, err := pki.Load(t.TempDir(), host); err == nil || !strings.Contains(err.Error(), "host") {
			t.Errorf("host %q: %v", host, err)
		}
	}
	dir := t.TempDir()
	broken := filepath.Join(dir, "ca.key")
	if err := os.WriteFile(broken, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Load(dir); err == nil || !strings.Contains(err.Error(), broken) || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a broken key file: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file in place of the folder: %v", err)
	}
}

func TestOnlyTheOwnerReadsKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := pki.Load(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 5 {
		t.Errorf("%d files, want 5: %v", len(entries), entries)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "PRIVATE KEY") != (info.Mode().Perm() == 0o600) {
			t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
	}
}

// TestLoadTogether loads a new folder many times at once: all must get the same authority.
func TestLoadTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authorities := make([]*pki.Authority, 8)
	var group sync.WaitGroup
	for i := range authorities {
		group.Go(func() {
			var err error
			if authorities[i], err = pki.Load(dir); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for _, authority := range authorities {
		if _, err := handshake(t, authority, authorities[0].Pool(), "localhost", nil); err != nil {
			t.Error(err)
		}
	}
}

func TestDeviceCertificates(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	intermediate, err := authority.Devices().Intermediate("factory 7")
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := intermediate.Intermediate("line 3")
	if err != nil {
		t.Fatal(err)
	}
	device, err := deeper.Issue("device-1")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := handshake(t, authority, authority.Pool(), "localhost", &device)
	if err != nil {
		t.Fatal(err)
	}
	if len(peer) != 3 || peer[0].Subject.CommonName != "device-1" {
		t.Fatalf("the server sees %d certificates", len(peer))
	}
	root := leafOf(t, authority.DeviceCAFile())
	for name, trusted := range map[string]struct {
		root *x509.Certificate
		ok   bool
	}{
		"root": {root, true}, "intermediate": {intermediate.Certificate, true}, "server's": {leafOf(t, authority.CAFile()), false},
	} {
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(trusted.root)
		for _, c := range peer[1:] {
			intermediates.AddCert(c)
		}
		_, err := peer[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err == nil) != trusted.ok {
			t.Errorf("by the %s: %v", name, err)
		}
	}

	chain, key, err := pki.Encode(device)
	if err != nil {
		t.Fatal(err)
	}
	again, err := tls.X509KeyPair(chain, key)
	if err != nil || len(again.Certificate) != 3 {
		t.Errorf("encoded and read again: %d certificates, %v", len(again.Certificate), err)
	}
}

// TestCertify issues certificates for keys that devices have, for no longer than Azure does.
func TestCertify(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "press-1", Organization: []string{"not checked"}}, PublicKey: key.Public()}
	chain, err := authority.Certify(request)
	if err != nil || len(chain) != 2 {
		t.Fatalf("got %d certificates, %v", len(chain), err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) || leaf.Subject.String() != "CN=press-1" || leaf.IsCA || time.Until(leaf.NotAfter) > 90*24*time.Hour {
		t.Errorf("got %+v", leaf)
	}
	if !bytes.Equal(chain[1], authority.Devices().Certificate.Raw) || leaf.CheckSignatureFrom(authority.Devices().Certificate) != nil {
		t.Error("it is not signed by the root that follows it")
	}
}

func TestTrustLines(t *testing.T) {
	t.Parallel()
	usual := pki.TrustLines("/tmp/my pki/ca.pem", 443, 8883)
	if len(usual) != 5 {
		t.Fatalf("%d SDKs", len(usual))
	}
	for _, sdk := range usual {
		all := strings.Join(sdk.Lines, "\n")
		if sdk.Needs != "" || !strings.Contains(all, "ca.pem") {
			t.Errorf("%s on the usual ports: needs %q, lines\n%s", sdk.SDK, sdk.Needs, all)
		}
		// How to reach the hub: by its own name, through a gateway.
		if !strings.Contains(strings.ToLower(strings.ReplaceAll(all, "_", "")), "gatewayhostname") || strings.Count(all, "localhost") < 2 {
			t.Errorf("%s is not told how to reach the hub:\n%s", sdk.SDK, all)
		}
	}
	if line := usual[0].Lines[0]; line != "export NODE_EXTRA_CA_CERTS='/tmp/my pki/ca.pem'" {
		t.Errorf("Node: %s", line)
	}
	for _, ports := range [][2]int{{8443, 8883}, {443, 18883}, {8443, 18883}} {
		for _, sdk := range pki.TrustLines("ca.pem", ports[0], ports[1]) {
			all := strings.Join(sdk.Lines, "\n")
			switch sdk.SDK {
			case "Node":
				if strings.Contains(all, "localhost:18883") != (ports[1] == 18883) ||
					strings.Contains(sdk.Needs, "port 443 is fixed for Http and MqttWs") != (ports[0] == 8443) {
					t.Errorf("Node at %v: needs %q\n%s", ports, sdk.Needs, all)
				}
			case "C#":
				if (sdk.Needs != "") != (ports[1] == 18883) || strings.Contains(all, "Port = 18883") != (ports[1] == 18883) || strings.Contains(all, "Port = 8443") != (ports[0] == 8443) {
					t.Errorf("C# at %v: needs %q\n%s", ports, sdk.Needs, all)
				}
			default:
				if sdk.Needs == "" {
					t.Errorf("%s at %v needs nothing, though its ports are fixed", sdk.SDK, ports)
				}
			}
		}
	}
}

// handshake connects over TCP as a client that trusts pool, and returns the client's certificates as the server saw
// them.
func handshake(t *testing.T, authority *pki.Authority, pool *x509.CertPool, name string, device *tls.Certificate) ([]*x509.Certificate, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peers := make(chan []*x509.Certificate, 1)
	go func() {
		defer close(peers)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		server := tls.Server(conn, authority.ServerConfig())
		if server.Handshake() == nil {
			peers <- server.ConnectionState().PeerCertificates
		}
	}()
	config := &tls.Config{RootCAs: pool, ServerName: name}
	if device != nil {
		config.Certificates = []tls.Certificate{*device}
	}
	conn, err := tls.Dial("tcp", listener.Addr().String(), config)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return <-peers, nil
}

func leafOf(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		t.Fatalf("%s holds no PEM", file)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
