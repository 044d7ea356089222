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
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	// Algorithm is one of JSON Web Signature, such as RS256, ES256 or HS256.
	Algorithm string
}

func (k Key) check() error {
	if !keys.IsSupportedAlgorithm(k.Algorithm) {
		return fmt.Errorf("%q is not an algorithm for signatures: use RS256, ES256 or HS256", k.Algorithm)
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

// ReadOptions say how a bundle is read. The zero value is of use.
type ReadOptions struct {
	// Key is what the bundle has to be signed with; nil verifies nothing.
	Key *Key
}

// Read returns the files in a bundle. OPA's own reader checks manifest and
// signature. Nothing of it is used before all of it was checked.
func Read(r io.Reader, options ReadOptions) (fs.FS, error) {
	packed, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(packed) > MaxSize {
		return nil, fmt.Errorf("larger than %d MiB", MaxSize>>20)
	}
	if err := checkSize(packed); err != nil {
		return nil, err
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
			return nil, err
		}
		reader = reader.WithBundleVerificationConfig(verification)
	}
	content, err := reader.Read()
	if err != nil {
		return nil, err
	}
	if content.Type() != bundle.SnapshotBundleType {
		return nil, errors.New("it holds changes to another bundle, not rules")
	}
	files := &txtar.Archive{} // for its file system in memory
	for _, raw := range content.Raw {
		files.Files = append(files.Files, txtar.File{Name: strings.TrimPrefix(raw.Path, "/"), Data: raw.Value})
	}
	return txtar.FS(files)
}

// checkSize looks through the archive before OPA's reader takes it into memory:
// a few bytes can unpack to many, and a header can claim any size.
func checkSize(packed []byte) error {
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
	config, err := keys.NewKeyConfig(key.File, key.Algorithm, "")
	if err != nil {
		return nil, err
	}
	return bundle.NewVerificationConfig(map[string]*keys.Config{keyID: config}, keyID, "", nil), nil
}
