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

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/keys"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
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

// ContentError is an error in the rules of a bundle that is complete and, if a key was given, signed with it.
type ContentError struct{ Err error }

func (e *ContentError) Error() string { return e.Err.Error() }
func (e *ContentError) Unwrap() error { return e.Err }

// Read reads a bundle, which must be signed with the key unless that is nil. OPA's own reader checks manifest and
// signature; nothing of the bundle is used before all of it was checked. Rules that cannot be parsed are a
// *[ContentError].
func Read(r io.Reader, key *Key) (Bundle, error) {
	packed, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return Bundle{}, err
	}
	if len(packed) > MaxSize {
		return Bundle{}, fmt.Errorf("larger than %d MiB", MaxSize>>20)
	}
	unkept, err := survey(packed)
	if err != nil {
		return Bundle{}, err
	}
	reader := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "")).
		WithSizeLimitBytes(MaxSize).
		WithLazyLoadingMode(true). // keeps the files as they are
		WithRegoVersion(ast.RegoV1)
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
	if unparsed, ok := errors.AsType[ast.Errors](err); ok { // of files whose signatures were right
		return Bundle{}, &ContentError{unparsed}
	}
	if err != nil {
		return Bundle{}, err
	}
	if content.Type() != bundle.SnapshotBundleType {
		return Bundle{}, errors.New("it contains changes to another bundle, not rules")
	}
	files := &txtar.Archive{} // for its file system in memory
	for _, raw := range content.Raw {
		files.Files = append(files.Files, txtar.File{Name: nameOf(raw.Path), Data: raw.Value})
	}
	// OPA's reader has also compared these with the signature, but does not keep them.
	files.Files = append(files.Files, unkept...)
	fsys, err := txtar.FS(files)
	return Bundle{Files: fsys, Revision: content.Manifest.Revision}, err
}

// nameOf returns the path of a file below the root of a bundle. Plain tar writes ./line/line.rego.
func nameOf(raw string) string { return path.Clean(strings.TrimPrefix(raw, "/")) }

// isUnkept reports whether OPA's reader does not keep a file: the schema of data, declarations of look-ups and their
// fixtures, or half of an exchange, which is a request or the decision expected for it. See package exchange.
func isUnkept(name string) bool {
	return ruleset.IsDataSchema(name) || lookups.IsDeclaration(name) || lookups.IsFixture(name) || strings.HasSuffix(name, ".request.json") || strings.HasSuffix(name, ".decision.json")
}

// survey checks the size of the archive before OPA's reader reads it into memory: a few bytes can unpack to many, and a
// header can claim any size. It returns the files that that reader does not keep.
func survey(packed []byte) ([]txtar.File, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("not a gzipped tar archive: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(unzipped, 4*MaxSize))
	left, files := int64(MaxSize), 0
	var unkept []txtar.File
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return unkept, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not a gzipped tar archive: %w", err)
		}
		files++
		left -= header.Size
		if left < 0 || header.Size < 0 || files > maxFiles {
			return nil, fmt.Errorf("unpacked it is larger than %d MiB or has more than %d files", MaxSize>>20, maxFiles)
		}
		if header.Typeflag == tar.TypeReg && isUnkept(header.Name) {
			text, err := io.ReadAll(archive)
			if err != nil {
				return nil, fmt.Errorf("not a gzipped tar archive: %w", err)
			}
			unkept = append(unkept, txtar.File{Name: nameOf(header.Name), Data: text})
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
