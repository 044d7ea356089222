// Package rulebundle reads and writes rules as one file: an OPA bundle, which is
// a gzipped tar archive.
//
// A bundle holds the files of a rules folder as they are, so that the rules in
// it have the same digest and the same lines in errors. What the rules mean is
// not its business: see package ruleset.
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
)

// MaxSize bounds a bundle, packed and unpacked. A thousand rules with their data
// take a few MiB.
const MaxSize = 64 << 20

// maxFiles bounds the files in a bundle, empty ones too.
const maxFiles = 100_000

// keyID names the key in signatures, as OPA's own commands do by default.
const keyID = "default"

// Key is what a bundle is signed or verified with.
type Key struct {
	// File holds the key: PEM, or for an HS algorithm the secret as it is.
	File string
	// Text is the key itself, where there is no File.
	Text string
	// Algorithm is one of JSON Web Signature, such as RS256, ES256 or HS256.
	Algorithm string
}

func (k Key) check() error {
	if !keys.IsSupportedAlgorithm(k.Algorithm) {
		return fmt.Errorf("%q is not an algorithm for signatures: use RS256, ES256 or HS256", k.Algorithm)
	}
	if k.File == "" && k.Text != "" {
		return nil
	}
	info, err := os.Stat(k.File) // OPA would take what is no file for the key itself
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", k.File)
	}
	if err != nil {
		return fmt.Errorf("the key: %w", err)
	}
	return nil
}

// Check reports what keeps a bundle from being verified with the key.
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
		return fmt.Errorf("the key is no PEM block, which %s needs", k.Algorithm)
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return errors.New("that is the private key, which is for those who sign: give the public one")
	}
	return nil
}

// ReadOptions say how a bundle is read. The zero value is of use.
type ReadOptions struct {
	// Key is what the bundle has to be signed with; nil verifies nothing.
	Key *Key
}

// Bundle is what a bundle holds.
type Bundle struct {
	Files fs.FS
	// Revision is what the manifest calls this state of the rules; may be empty.
	Revision string
}

// ContentError is what is wrong with the rules in a bundle that is whole and, where a
// key was given, signed with it.
type ContentError struct{ Err error }

func (e *ContentError) Error() string { return e.Err.Error() }
func (e *ContentError) Unwrap() error { return e.Err }

// Read returns the files in a bundle, as [Open] does.
func Read(r io.Reader, options ReadOptions) (fs.FS, error) {
	opened, err := Open(r, options)
	return opened.Files, err
}

// Open reads a bundle. OPA's own reader checks manifest and signature. Nothing of
// it is used before all of it was checked. Rules that cannot be parsed are a
// *[ContentError].
func Open(r io.Reader, options ReadOptions) (Bundle, error) {
	packed, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return Bundle{}, err
	}
	if len(packed) > MaxSize {
		return Bundle{}, fmt.Errorf("larger than %d MiB", MaxSize>>20)
	}
	exchanges, err := survey(packed)
	if err != nil {
		return Bundle{}, err
	}
	reader := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "")).
		WithSizeLimitBytes(MaxSize).
		WithLazyLoadingMode(true). // keeps the files as they are
		WithRegoVersion(ast.RegoV1)
	if options.Key == nil {
		reader = reader.WithSkipBundleVerification(true)
	} else {
		verification, err := verificationOf(*options.Key)
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
		return Bundle{}, errors.New("it holds changes to another bundle, not rules")
	}
	files := &txtar.Archive{} // for its file system in memory
	for _, raw := range content.Raw {
		files.Files = append(files.Files, txtar.File{Name: strings.TrimPrefix(raw.Path, "/"), Data: raw.Value})
	}
	// OPA's reader has compared these with the signature, too, and let go of them.
	files.Files = append(files.Files, exchanges...)
	fsys, err := txtar.FS(files)
	return Bundle{Files: fsys, Revision: content.Manifest.Revision}, err
}

// isExchange reports whether a file is half of an exchange: a request, or the
// decision expected for it. Package exchange says more.
func isExchange(name string) bool {
	return strings.HasSuffix(name, ".request.json") || strings.HasSuffix(name, ".decision.json")
}

// survey looks through the archive before OPA's reader takes it into memory: a
// few bytes can unpack to many, and a header can claim any size. It returns the
// exchanges, which that reader does not keep.
func survey(packed []byte) ([]txtar.File, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("not a gzipped tar archive: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(unzipped, 4*MaxSize))
	left, files := int64(MaxSize), 0
	var exchanges []txtar.File
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return exchanges, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not a gzipped tar archive: %w", err)
		}
		files++
		left -= header.Size
		if left < 0 || header.Size < 0 || files > maxFiles {
			return nil, fmt.Errorf("unpacked it is larger than %d MiB or has more than %d files", MaxSize>>20, maxFiles)
		}
		if header.Typeflag == tar.TypeReg && isExchange(header.Name) {
			text, err := io.ReadAll(archive)
			if err != nil {
				return nil, fmt.Errorf("not a gzipped tar archive: %w", err)
			}
			name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
			exchanges = append(exchanges, txtar.File{Name: name, Data: text})
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
