// Package pki keeps the development certificates of the stand-in for DPS in a
// folder: an authority for the server's certificate, which device SDKs are told to
// trust, and another one for made-up devices.
//
// The authority may only vouch for the stand-in's own names (X.509 name
// constraints), so that whoever gets hold of its key cannot use a machine's trust in
// it against other sites.
package pki

import (
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
	"slices"
	"strings"
	"time"
)

// The files of a folder. A .key file holds a private key and its certificate, so
// that the two are always written together.
const (
	caFile        = "ca.pem"        // what SDKs trust
	caKeyFile     = "ca.key"        // authority of the server's certificate
	serverKeyFile = "server.key"    // the server's own
	deviceCAFile  = "device-ca.pem" // what an enrollment group can name as signing certificate
	deviceKeyFile = "device-ca.key" // authority of made-up devices
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	caRenew    = 365 * 24 * time.Hour // left when an authority is renewed; longer than serverLife - serverRenew
	serverLife = 397 * 24 * time.Hour // the longest that Apple's and Chrome's rules take
	// serverRenew is long enough that a stand-in started on the last day still runs for months.
	serverRenew = serverLife / 3
	deviceLife  = 365 * 24 * time.Hour
	// backdate lets clocks differ.
	backdate = time.Hour
)

// serverNames are the names that every server certificate holds.
func serverNames() []string {
	return []string{
		"localhost", "127.0.0.1", "::1",
		"global.azure-devices-provisioning.net", "*.azure-devices-provisioning.net", "*.azure-devices.net",
	}
}

// Authority is what a folder holds.
type Authority struct {
	server  tls.Certificate
	root    *Issuer
	devices *Issuer
	dir     string
}

// Load reads the certificates in dir and makes those that are missing, near their
// end or, for the server's, without one of the hosts: names or IP addresses besides
// localhost and Azure's. The folder is made with mode 0700, keys have mode 0600. Two
// processes may load one folder at the same time.
//
// A renewed authority keeps its key and name: who trusts the certificate of before
// goes on to trust the server until that certificate ends.
func Load(dir string, hosts ...string) (*Authority, error) {
	return LoadAt(time.Now(), dir, hosts...)
}

// LoadAt is Load at a given time.
func LoadAt(now time.Time, dir string, hosts ...string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of certificates: %w", err)
	}
	names := serverNames()
	for _, host := range hosts {
		if !validHost(host) {
			return nil, fmt.Errorf("host %q is neither a host name nor an IP address: give it without scheme and port", host)
		}
		if !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	root, err := loadIssuer(now, filepath.Join(dir, caKeyFile), "Usher development CA (not Azure)", names)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !mayVouch(root.Certificate, name) {
			return nil, fmt.Errorf("%s may not vouch for host %q: it was made without it. Remove the folder %s for a new authority, and let devices trust that",
				filepath.Join(dir, caKeyFile), name, dir)
		}
	}
	devices, err := loadIssuer(now, filepath.Join(dir, deviceKeyFile), "Usher development device CA", nil)
	if err != nil {
		return nil, err
	}
	a := &Authority{root: root, devices: devices, dir: dir}
	for file, issuer := range map[string]*Issuer{caFile: root, deviceCAFile: devices} {
		if err := writeIfOther(filepath.Join(dir, file), issuer.PEM()); err != nil {
			return nil, err
		}
	}
	a.server, err = loadServer(now, filepath.Join(dir, serverKeyFile), root, names)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// CAFile is the path of the certificate that SDKs must trust, PEM.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, caFile) }

// DeviceCAFile is the path of the certificate that signs made-up devices, PEM: the
// signing certificate for an X.509 enrollment group.
func (a *Authority) DeviceCAFile() string { return filepath.Join(a.dir, deviceCAFile) }

// Pool holds the certificate that clients of the server must trust.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root.Certificate)
	return pool
}

// Devices issues certificates to made-up devices.
func (a *Authority) Devices() *Issuer { return a.devices }

// Issue makes a client certificate for a device: Devices().Issue.
func (a *Authority) Issue(cn string) (tls.Certificate, error) { return a.devices.Issue(cn) }

// ServerConfig is the TLS side of the stand-in's listeners. It asks for a client
// certificate without verifying it, since that depends on the enrollment, and
// devices with keys have none.
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

// NewRoot makes a root that is kept nowhere: a foreign authority for tests and
// trials.
func NewRoot(cn string) (*Issuer, error) { return newRoot(time.Now(), cn, nil, nil) }

// Intermediate makes an authority below this one.
func (i *Issuer) Intermediate(cn string) (*Issuer, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := authorityTemplate(time.Now(), cn)
	template.NotAfter = earlier(template.NotAfter, i.Certificate.NotAfter)
	certificate, err := sign(template, i.Certificate, key.Public(), i.key)
	if err != nil {
		return nil, err
	}
	return &Issuer{Certificate: certificate, key: key, chain: append([][]byte{certificate.Raw}, i.chain...)}, nil
}

// Issue makes a client certificate for a device whose registration ID is cn, with a
// new key and the chain up to the root, which it leaves out.
func (i *Issuer) Issue(cn string) (tls.Certificate, error) {
	now := time.Now()
	return i.IssueFor(cn, now.Add(-backdate), now.Add(deviceLife))
}

// IssueFor is Issue for a given time, which may be over: expired certificates show
// how they are refused.
func (i *Issuer) IssueFor(cn string, notBefore, notAfter time.Time) (tls.Certificate, error) {
	return i.IssueSubject(pkix.Name{CommonName: cn}, notBefore, notAfter)
}

// IssueSubject is IssueFor for a subject with more than a common name, such as the
// organization that a rule reads.
func (i *Issuer) IssueSubject(subject pkix.Name, notBefore, notAfter time.Time) (tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	certificate, err := sign(&x509.Certificate{
		Subject:     subject,
		NotBefore:   notBefore,
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, i.Certificate, key.Public(), i.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: append([][]byte{certificate.Raw}, i.chain...), PrivateKey: key, Leaf: certificate}, nil
}

// PEM is the certificate, never the key.
func (i *Issuer) PEM() []byte { return certificatePEM(i.Certificate.Raw) }

// Encode gives a certificate with its chain and its key as PEM, as SDKs take them.
func Encode(c tls.Certificate) (chain, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the key of %s: %w", c.Leaf.Subject, err)
	}
	return certificatePEM(c.Certificate...), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certificatePEM(chain ...[]byte) []byte {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func loadIssuer(now time.Time, file, cn string, names []string) (*Issuer, error) {
	certificate, err := readPair(file)
	if errors.Is(err, fs.ErrNotExist) {
		fresh, err := newRoot(now, cn, names, nil)
		if err != nil {
			return nil, err
		}
		if certificate, err = createPair(file, fresh.Certificate.Raw, fresh.key); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	key := certificate.PrivateKey.(crypto.Signer) // tls.X509KeyPair takes no other
	if !certificate.Leaf.IsCA {
		return nil, fmt.Errorf("%s holds a certificate that is no authority: remove the file for a new one", file)
	}
	if now.Add(caRenew).After(certificate.Leaf.NotAfter) {
		renewed, err := newRoot(now, cn, names, key)
		if err != nil {
			return nil, err
		}
		if err := replacePair(file, key, renewed.Certificate.Raw); err != nil {
			return nil, err
		}
		return renewed, nil
	}
	return &Issuer{Certificate: certificate.Leaf, key: key}, nil
}

func loadServer(now time.Time, file string, root *Issuer, names []string) (tls.Certificate, error) {
	certificate, err := readPair(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, err
	}
	if err == nil && now.Add(serverRenew).Before(certificate.Leaf.NotAfter) &&
		certificate.Leaf.CheckSignatureFrom(root.Certificate) == nil && holds(certificate.Leaf, names) {
		return certificate, nil
	}
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
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
	issued, err := sign(template, root.Certificate, key.Public(), root.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := replacePair(file, key, issued.Raw); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{issued.Raw}, PrivateKey: key, Leaf: issued}, nil
}

// newRoot makes a self-signed authority, limited to names if there are any, with a
// new key unless one is given.
func newRoot(now time.Time, cn string, names []string, key crypto.Signer) (*Issuer, error) {
	if key == nil {
		var err error
		if key, err = newKey(); err != nil {
			return nil, err
		}
	}
	template := authorityTemplate(now, cn)
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.PermittedIPRanges = append(template.PermittedIPRanges, hostRange(ip))
		} else {
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, strings.TrimPrefix(name, "*."))
		}
	}
	// Not critical, against RFC 5280: the TLS libraries of small devices refuse what
	// they do not know, and those that know the extension obey it all the same.
	template.PermittedDNSDomainsCritical = false
	certificate, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Issuer{Certificate: certificate, key: key}, nil
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

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", template.Subject, err)
	}
	return x509.ParseCertificate(der)
}

// newKey makes a P-256 key: every SDK's TLS takes it, and it is made in no time.
func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

// readPair reads a .key file. Its error is fs.ErrNotExist if there is none.
func readPair(file string) (tls.Certificate, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading a development key: %w", err)
	}
	certificate, err := tls.X509KeyPair(content, content)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s holds no key with its certificate (%w): remove the file for a new one", file, err)
	}
	return certificate, nil
}

func encodePair(key crypto.Signer, der []byte) ([]byte, error) {
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return append(certificatePEM(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})...), nil
}

// createPair writes a file that must not exist and gives what it holds then: if
// another process was quicker, that one's.
func createPair(file string, der []byte, key crypto.Signer) (tls.Certificate, error) {
	content, err := encodePair(key, der)
	if err != nil {
		return tls.Certificate{}, err
	}
	temporary, err := writeTemporary(file, content, 0o600)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer os.Remove(temporary) // its other name stays
	if err := os.Link(temporary, file); err != nil && !errors.Is(err, fs.ErrExist) {
		return tls.Certificate{}, fmt.Errorf("writing a development key: %w", err)
	}
	return readPair(file)
}

func replacePair(file string, key crypto.Signer, der []byte) error {
	content, err := encodePair(key, der)
	if err != nil {
		return err
	}
	return replace(file, content, 0o600)
}

func writeIfOther(file string, content []byte) error {
	if old, err := os.ReadFile(file); err == nil && string(old) == string(content) {
		return nil
	}
	return replace(file, content, 0o644)
}

func replace(file string, content []byte, mode fs.FileMode) error {
	temporary, err := writeTemporary(file, content, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, file); err != nil {
		_ = os.Remove(temporary) // the first error counts
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

func writeTemporary(file string, content []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", file, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts
		return "", fmt.Errorf("writing %s: %w", file, err)
	}
	return f.Name(), nil
}

// holds tells whether a certificate names exactly names.
func holds(certificate *x509.Certificate, names []string) bool {
	held := slices.Clone(certificate.DNSNames)
	for _, ip := range certificate.IPAddresses {
		held = append(held, ip.String())
	}
	wanted := slices.Clone(names)
	for i, name := range wanted {
		if ip := net.ParseIP(name); ip != nil {
			wanted[i] = ip.String()
		}
	}
	slices.Sort(held)
	slices.Sort(wanted)
	return slices.Equal(held, wanted)
}

// mayVouch tells whether the name constraints of an authority allow a name.
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

func validHost(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(host, "*."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return false
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return true
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
