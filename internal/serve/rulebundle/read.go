// Package rulebundle reads and writes rules as one file: an OPA bundle, which is a gzipped tar archive.
//
// A bundle contains the files of a rules folder as they are, so the rules in it have the same digest, and the same
// lines in errors. Package ruleset reads the rules themselves.
package rulebundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/keys"
	"golang.org/x/tools/txtar"
)

// MaxSize bounds a bundle, packed and unpacked. A thousand rules with their data take a few MiB.
const MaxSize = 64 << 20

// maxFiles bounds the files in a bundle, including empty ones.
const maxFiles = 100_000

// keyID identifies the key in signatures, as in OPA's own commands by default.
const keyID = "default"

// Key is what a bundle is signed or verified with.
type Key struct {
	// File contains the key: PEM, or for an HS algorithm the secret as it is.
	File string
	// Text is the key itself, if there is no File.
	Text string
	// Algorithm is a JSON Web Signature algorithm, such as RS256, ES256 or HS256.
	Algorithm string
}

func (k Key) check() error {
	if !keys.IsSupportedAlgorithm(k.Algorithm) {
		return fmt.Errorf("%q is not a signature algorithm: use RS256, ES256 or HS256", k.Algorithm)
	}
	if k.File == "" && k.Text != "" {
		return nil
	}
	info, err := os.Stat(k.File) // if there is no such file, OPA uses the name as the key
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", k.File)
	}
	if err != nil {
		return fmt.Errorf("the key: %w", err)
	}
	return nil
}

// Check returns an error if no bundle can be verified with the key.
func (k Key) Check() error {
	if err := k.check(); err != nil {
		return err
	}
	text := []byte(k.Text)
	if k.File != "" {
		var err error
		if text, err = os.ReadFile(k.File); err != nil {
			return fmt.Errorf("the key: %w", err)
		}
	}
	if strings.HasPrefix(k.Algorithm, "HS") {
		return nil
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("the key is not a PEM block, which %s needs", k.Algorithm)
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return errors.New("that is the private key, which only the signer needs: give the public one")
	}
	return nil
}

// Bundle is the content of a bundle.
type Bundle struct {
	Files fs.FS
	// Revision is the manifest's name for this state of the rules; it may be empty.
	Revision string
}

// Read reads a bundle, which must be signed with the key unless that is nil. OPA's own reader checks manifest and
// signature; nothing of the bundle is used before all of it was checked. Package ruleset says whether its rules are
// good.
func Read(r io.Reader, key *Key) (Bundle, error) {
	packed, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return Bundle{}, err
	}
	if len(packed) > MaxSize {
		return Bundle{}, fmt.Errorf("larger than %d MiB", MaxSize>>20)
	}
	if err := survey(packed); err != nil {
		return Bundle{}, err
	}
	kept := &loader{DirectoryLoader: bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "")}
	reader := bundle.NewCustomReader(kept).
		WithSizeLimitBytes(MaxSize).
		WithLazyLoadingMode(true). // leaves data to package ruleset
		WithBaseDir(".")           // verifies signatures by URL: see loader
	if key == nil {
		reader = reader.WithSkipBundleVerification(true)
	} else {
		verification, err := verificationOf(*key)
		if err != nil {
			return Bundle{}, err
		}
		reader = reader.WithBundleVerificationConfig(verification)
	}
	content, err := reader.Read()
	if err != nil {
		return Bundle{}, err
	}
	if content.Type() != bundle.SnapshotBundleType {
		return Bundle{}, errors.New("it contains changes to another bundle, not rules")
	}
	fsys, err := txtar.FS(&txtar.Archive{Files: kept.files}) // for its file system in memory
	return Bundle{Files: fsys, Revision: content.Manifest.Revision}, err
}

// loader keeps the files that OPA's reader checks, and hides from it which of them are Rego. It would parse all of them
// at the same time, and requests would wait for the end of that; package ruleset parses them anyway.
type loader struct {
	bundle.DirectoryLoader
	files []txtar.File
}

func (l *loader) NextFile() (*bundle.Descriptor, error) {
	found, err := l.DirectoryLoader.NextFile()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if _, err := found.Read(&text, MaxSize+1); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if name := nameOf(found.Path()); path.Base(name)[0] != '.' { // such as the manifest
		l.files = append(l.files, txtar.File{Name: name, Data: text.Bytes()})
	}
	shown := found.Path()
	if strings.HasSuffix(shown, bundle.RegoExt) {
		shown += ".text"
	}
	return bundle.NewDescriptor(found.URL(), shown, bytes.NewReader(text.Bytes())), nil
}

// nameOf returns the path of a file below the root of a bundle. Plain tar writes ./line/line.rego.
func nameOf(raw string) string { return path.Clean(strings.TrimPrefix(raw, "/")) }

// survey checks the size of the archive before OPA's reader reads it into memory: a few bytes can unpack to many, and a
// header can claim any size.
func survey(packed []byte) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("not a gzipped tar archive: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(unzipped, 4*MaxSize))
	left, files := int64(MaxSize), 0
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not a gzipped tar archive: %w", err)
		}
		files++
		left -= header.Size
		if left < 0 || header.Size < 0 || files > maxFiles {
			return fmt.Errorf("unpacked it is larger than %d MiB or has more than %d files", MaxSize>>20, maxFiles)
		}
	}
}

func verificationOf(key Key) (*bundle.VerificationConfig, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	config, err := keys.NewKeyConfig(cmp.Or(key.File, key.Text), key.Algorithm, "")
	if err != nil {
		return nil, err
	}
	return bundle.NewVerificationConfig(map[string]*keys.Config{keyID: config}, keyID, "", nil), nil
}
