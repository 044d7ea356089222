package rulebundle

import (
	"archive/tar"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
)

// signaturesFile is where OPA looks for signatures.
const signaturesFile = ".signatures.json"

// WriteOptions are what a bundle contains besides the files.
type WriteOptions struct {
	// Revision is the manifest's name for this state of the rules, such as a tag or a commit.
	Revision string
	// Key signs the bundle; nil leaves it unsigned.
	Key *Key
}

// Write writes a bundle of the named files of fsys, in that order. The same files, order and options give the same
// bytes, even if signed with an RS or HS algorithm; signatures of the other algorithms have a random part.
func Write(w io.Writer, fsys fs.FS, names []string, options WriteOptions) error {
	manifest, err := manifestOf(options.Revision)
	if err != nil {
		return err
	}
	entries := []entry{{bundle.ManifestExt, manifest}}
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		entries = append(entries, entry{name, text})
	}
	if options.Key != nil {
		signatures, err := sign(entries, *options.Key)
		if err != nil {
			return err
		}
		entries = append(entries, entry{signaturesFile, signatures})
	}
	return pack(w, entries)
}

// entry is a file of the bundle.
type entry struct {
	name string
	text []byte
}

func pack(w io.Writer, entries []entry) error {
	zipped := gzip.NewWriter(w) // without name and time in its header
	archive := tar.NewWriter(zipped)
	for _, e := range entries {
		err := archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg,
			Name:     e.name,
			Size:     int64(len(e.text)),
			Mode:     0o644,
			ModTime:  time.Unix(0, 0).UTC(), // so that each run gives the same bytes
		})
		if err != nil {
			return err
		}
		if _, err := archive.Write(e.text); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}

// manifestOf claims all of data, because Usher serves one bundle at a time.
func manifestOf(revision string) ([]byte, error) {
	const regoV1 = 1
	return json.Marshal(struct {
		Revision    string   `json:"revision"`
		Roots       []string `json:"roots"`
		RegoVersion int      `json:"rego_version"`
	}{revision, []string{""}, regoV1})
}

// sign returns the .signatures.json of a bundle, which lists all other files with their hashes.
func sign(entries []entry, key Key) ([]byte, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	hasher, err := bundle.NewSignatureHasher(bundle.SHA256)
	if err != nil {
		return nil, err
	}
	files := make([]bundle.FileInfo, len(entries))
	for i, e := range entries {
		// OPA hashes a structured document by its content, and any other file by its bytes.
		var content any = e.text
		if bundle.IsStructuredDoc(e.name) {
			content = nil
			if err := util.Unmarshal(e.text, &content); err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
		}
		hash, err := hasher.HashFile(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		files[i] = bundle.NewFile(e.name, hex.EncodeToString(hash), bundle.SHA256.String())
	}
	token, err := bundle.GenerateSignedToken(files, bundle.NewSigningConfig(key.File, key.Algorithm, ""), keyID)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", key.File, err)
	}
	return json.Marshal(struct {
		Signatures []string `json:"signatures"`
	}{[]string{token}})
}
