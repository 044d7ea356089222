// Package pki keeps the development certificates of the stand-in for DPS in a folder: an authority for the server's
// certificate, which device SDKs are configured to trust, and another one for made-up devices.
//
// The server's authority may vouch only for the stand-in's own names (X.509 name constraints), so that a stolen key
// cannot be used to impersonate other sites on machines that trust it.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The files of a folder. A .key file holds a private key and its certificate, so that the two are always written
// together.
const (
	caFile        = "ca.pem"        // what SDKs trust
	caKeyFile     = "ca.key"        // authority of the server's certificate
	serverKeyFile = "server.key"    // the server's own
	deviceCAFile  = "device-ca.pem" // the signing certificate for an enrollment group
	deviceKeyFile = "device-ca.key" // authority of made-up devices
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	caRenew    = 365 * 24 * time.Hour // remaining life at which an authority is renewed; longer than serverLife - serverRenew
	serverLife = 397 * 24 * time.Hour // the maximum that Apple and Chrome accept
	// serverRenew is long enough that a stand-in started on the last day can run for months.
	serverRenew = serverLife / 3
	deviceLife  = 365 * 24 * time.Hour
	issuedLife  = 30 * 24 * time.Hour // of a certificate that a device requests; Azure's are valid for up to 90 days
	// backdate allows for clocks that differ.
	backdate = time.Hour
)

// serverNames are the names in every server certificate.
var serverNames = []string{
	"localhost", "127.0.0.1", "::1",
	"global.azure-devices-provisioning.net", "*.azure-devices-provisioning.net", "*.azure-devices.net",
}

// Authority is what a folder holds.
type Authority struct {
	server        tls.Certificate
	root, devices *Issuer
	dir           string
}

// Load reads the certificates in dir. It makes those that are missing or about to expire, and the server's if it lacks
// one of the hosts: names or IP addresses besides localhost and Azure's. The folder is created with mode 0700, keys
// with mode 0600. Two processes may load one folder at the same time.
//
// A renewed authority keeps its key and name: clients that trust the old certificate trust the server until that
// certificate expires.
func Load(dir string, hosts ...string) (*Authority, error) {
	return LoadAt(time.Now(), dir, hosts...)
}

// LoadAt is Load at a given time.
func LoadAt(now time.Time, dir string, hosts ...string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of certificates: %w", err)
	}
	names := slices.Clone(serverNames)
	for _, host := range hosts {
		if net.ParseIP(host) == nil && (len(host) > 253 || !hostNames.MatchString(host)) {
			return nil, fmt.Errorf("host %q is neither a host name nor an IP address: give it without scheme and port", host)
		}
		if !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	a := &Authority{dir: dir}
	var err error
	if a.root, err = loadIssuer(now, filepath.Join(dir, caKeyFile), "Usher development CA (not Azure)", names); err != nil {
		return nil, err
	}
	for _, name := range names {
		if !mayVouch(a.root.Certificate, name) {
			return nil, fmt.Errorf("%s may not vouch for host %q, because it was made without that host. Remove the folder %s to get a new authority, and make devices trust it",
				filepath.Join(dir, caKeyFile), name, dir)
		}
	}
	if a.devices, err = loadIssuer(now, filepath.Join(dir, deviceKeyFile), "Usher development device CA", nil); err != nil {
		return nil, err
	}
	for file, issuer := range map[string]*Issuer{a.CAFile(): a.root, a.DeviceCAFile(): a.devices} {
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, issuer.PEM()) {
			continue
		}
		if err := write(file, issuer.PEM(), 0o644, os.Rename); err != nil {
			return nil, err
		}
	}
	a.server, err = loadServer(now, filepath.Join(dir, serverKeyFile), a.root, names)
	return a, err
}

// CAFile is the path of the certificate that SDKs must trust, in PEM.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, caFile) }

// DeviceCAFile is the path of the certificate that signs made-up devices, in PEM: the signing certificate for an X.509
// enrollment group.
func (a *Authority) DeviceCAFile() string { return filepath.Join(a.dir, deviceCAFile) }

// Pool holds the certificate that clients of the server must trust.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root.Certificate)
	return pool
}

// Devices issues certificates to made-up devices.
func (a *Authority) Devices() *Issuer { return a.devices }

// Certify issues the certificate that a device requests, for the common name of the request. It returns DER, from the
// leaf to the root.
func (a *Authority) Certify(request *x509.CertificateRequest) ([][]byte, error) {
	now := time.Now()
	subject := pkix.Name{CommonName: request.Subject.CommonName}
	leaf, err := a.devices.certify(deviceTemplate(subject, now.Add(-backdate), now.Add(issuedLife)), request.PublicKey)
	return [][]byte{leaf, a.devices.Certificate.Raw}, err
}

// ServerConfig is the TLS configuration of the stand-in's listeners. It requests a client certificate without verifying
// it, because verification depends on the enrollment, and devices with keys have no certificate.
func (a *Authority) ServerConfig() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.server},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12, // DPS's own minimum
	}
}

// Issuer is a certificate authority: a root or an intermediate.
type Issuer struct {
	Certificate *x509.Certificate
	key         crypto.Signer
	chain       [][]byte // certificates between an issued one and the root, without the root, DER
}

// Intermediate makes an authority below this one.
func (i *Issuer) Intermediate(cn string) (*Issuer, error) {
	template := authorityTemplate(time.Now(), cn)
	if i.Certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = i.Certificate.NotAfter
	}
	made, err := i.sign(template, nil)
	if err != nil {
		return nil, err
	}
	return &Issuer{made.Leaf, made.PrivateKey.(crypto.Signer), made.Certificate}, nil
}

// Issue makes a client certificate for a device whose registration ID is cn, with a new key and the chain up to the
// root, which is left out.
func (i *Issuer) Issue(cn string, organizations ...string) (tls.Certificate, error) {
	now := time.Now()
	return i.IssueFor(pkix.Name{CommonName: cn, Organization: organizations}, now.Add(-backdate), now.Add(deviceLife))
}

// IssueFor is Issue for a subject with more than a common name, such as the organization that a rule reads, and for a
// given time, which may be in the past: expired certificates show how they are refused.
func (i *Issuer) IssueFor(subject pkix.Name, notBefore, notAfter time.Time) (tls.Certificate, error) {
	return i.sign(deviceTemplate(subject, notBefore, notAfter), nil)
}

func deviceTemplate(subject pkix.Name, notBefore, notAfter time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:     subject,
		NotBefore:   notBefore,
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// PEM is the certificate, never the key.
func (i *Issuer) PEM() []byte { return certificatePEM(i.Certificate.Raw) }

// Encode returns a certificate with its chain, and its key, in PEM, which SDKs read.
func Encode(c tls.Certificate) (chain, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key of %s: %w", c.Leaf.Subject, err)
	}
	return certificatePEM(c.Certificate...), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certificatePEM(chain ...[]byte) (out []byte) {
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// loadIssuer reads an authority from a .key file, makes it if there is none, and renews it if it is about to expire.
func loadIssuer(now time.Time, file, cn string, names []string) (*Issuer, error) {
	pair, err := readPair(file)
	if errors.Is(err, fs.ErrNotExist) {
		if pair, err = newRoot(now, cn, names, nil); err != nil {
			return nil, err
		}
		if err := writePair(file, pair, linkUnlessExists); err != nil {
			return nil, err
		}
		pair, err = readPair(file) // another process may have been faster
	}
	if err != nil {
		return nil, err
	}
	if !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s contains a certificate that is not an authority: remove the file to get a new one", file)
	}
	key := pair.PrivateKey.(crypto.Signer) // tls.X509KeyPair accepts no other
	if now.Add(caRenew).After(pair.Leaf.NotAfter) {
		if pair, err = newRoot(now, cn, names, key); err != nil {
			return nil, err
		}
		if err := writePair(file, pair, os.Rename); err != nil {
			return nil, err
		}
	}
	return &Issuer{Certificate: pair.Leaf, key: key}, nil
}

func loadServer(now time.Time, file string, root *Issuer, names []string) (tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "usher dps"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	pair, err := readPair(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, err
	}
	if err == nil && now.Add(serverRenew).Before(pair.Leaf.NotAfter) &&
		pair.Leaf.CheckSignatureFrom(root.Certificate) == nil && slices.Equal(hostsOf(pair.Leaf), hostsOf(template)) {
		return pair, nil
	}
	if pair, err = root.sign(template, nil); err != nil {
		return tls.Certificate{}, err
	}
	return pair, writePair(file, pair, os.Rename)
}

// hostsOf are the names and addresses in a certificate, sorted.
func hostsOf(certificate *x509.Certificate) []string {
	hosts := slices.Clone(certificate.DNSNames)
	for _, ip := range certificate.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	slices.Sort(hosts)
	return hosts
}

// newRoot makes a self-signed authority, limited to names if there are any, with a new key unless one is given.
func newRoot(now time.Time, cn string, names []string, key crypto.Signer) (tls.Certificate, error) {
	template := authorityTemplate(now, cn)
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.PermittedIPRanges = append(template.PermittedIPRanges, hostRange(ip))
		} else {
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, strings.TrimPrefix(name, "*."))
		}
	}
	// Not critical, contrary to RFC 5280: the TLS libraries of small devices refuse unknown extensions, and those that
	// know this one apply it either way.
	template.PermittedDNSDomainsCritical = false
	return (*Issuer)(nil).sign(template, key)
}

func authorityTemplate(now time.Time, cn string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
}

// sign makes a certificate, self-signed if the issuer is nil, with a new key unless one is given. New keys are P-256,
// which every SDK's TLS supports and which are made quickly.
func (i *Issuer) sign(template *x509.Certificate, key crypto.Signer) (tls.Certificate, error) {
	var err error
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
		}
	}
	parent := &Issuer{Certificate: template, key: key}
	if i != nil {
		parent = i
	}
	der, err := parent.certify(template, key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: append([][]byte{der}, parent.chain...), PrivateKey: key, Leaf: leaf}, err
}

// certify signs a certificate for a public key.
func (i *Issuer) certify(template *x509.Certificate, public crypto.PublicKey) (der []byte, err error) {
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, i.Certificate, public, i.key); err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", template.Subject, err)
	}
	return der, nil
}

// readPair reads a .key file. Its error is fs.ErrNotExist if there is none.
func readPair(file string) (tls.Certificate, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read a development key: %w", err)
	}
	pair, err := tls.X509KeyPair(content, content)
	if err != nil {
		return pair, fmt.Errorf("%s does not contain a key with its certificate (%w): remove the file to get a new one", file, err)
	}
	return pair, nil
}

func writePair(file string, pair tls.Certificate, publish func(temporary, file string) error) error {
	chain, key, err := Encode(pair)
	if err != nil {
		return err
	}
	return write(file, append(chain, key...), 0o600, publish)
}

// linkUnlessExists publishes a new file, unless another process was faster.
func linkUnlessExists(temporary, file string) error {
	if err := os.Link(temporary, file); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// write writes a temporary file and publishes it as file.
func write(file string, content []byte, mode fs.FileMode, publish func(temporary, file string) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err == nil {
		defer os.Remove(f.Name()) // already gone if it was renamed
		_, err = f.Write(content)
		err = errors.Join(err, f.Chmod(mode), f.Close())
	}
	if err == nil {
		err = publish(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// mayVouch reports whether the name constraints of an authority allow a name.
func mayVouch(authority *x509.Certificate, name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		return slices.ContainsFunc(authority.PermittedIPRanges, func(r *net.IPNet) bool { return r.Contains(ip) })
	}
	name = strings.ToLower(strings.TrimPrefix(name, "*."))
	return slices.ContainsFunc(authority.PermittedDNSDomains, func(domain string) bool {
		domain = strings.ToLower(domain)
		return name == domain || strings.HasSuffix(name, "."+domain)
	})
}

// hostRange is the range of one address, or of all loopback addresses.
func hostRange(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		if v4.IsLoopback() {
			return &net.IPNet{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}
		}
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}
}

const label = `[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?`

var hostNames = regexp.MustCompile(`^(\*\.)?` + label + `(\.` + label + `)*$`)
