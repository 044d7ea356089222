package rulebundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/keys"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

const shipped = "../../../rules"

var small = fstest.MapFS{
	"a/a.rego":      {Data: []byte("package allocation.a\n\nhub := data.a.hub\n")},
	"a/data.json":   {Data: []byte(`{"hub": "x.azure-devices.net", "n": 12345678901234567890}`)},
	"b/b.rego":      {Data: []byte("package allocation.default\n\nhub := input.linkedHubs[0]\n")},
	"b/c/data.yaml": {Data: []byte("one: 1\n")},

	"a/data.schema.json": {Data: []byte(`{"$schema": "https://json-schema.org/draft/2020-12/schema", "required": ["hub"]}` + "\n")},
}

var smallNames = []string{"a/a.rego", "a/data.json", "a/data.schema.json", "b/b.rego", "b/c/data.yaml"}

func write(t *testing.T, fsys fs.FS, names []string, options rulebundle.WriteOptions) []byte {
	t.Helper()
	var packed bytes.Buffer
	if err := rulebundle.Write(&packed, fsys, names, options); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func contents(t *testing.T, fsys fs.FS) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(fsys, name)
		found[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// read returns the files of a bundle.
func read(r io.Reader, key *rulebundle.Key) (fs.FS, error) {
	bundle, err := rulebundle.Read(r, key)
	return bundle.Files, err
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	fsys, err := read(bytes.NewReader(write(t, small, smallNames, rulebundle.WriteOptions{})), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(t, small), contents(t, fsys)); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	if err := fstest.TestFS(fsys, smallNames...); err != nil {
		t.Error(err)
	}
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	rsaKey, _ := rsaKeys(t)
	for name, options := range map[string]rulebundle.WriteOptions{
		"plain":    {},
		"revision": {Revision: "v1"},
		"HS256":    {Key: &rulebundle.Key{File: secret(t, "s3cret"), Algorithm: "HS256"}},
		"RS256":    {Key: &rulebundle.Key{File: rsaKey, Algorithm: "RS256"}},
	} {
		if first, second := write(t, small, smallNames, options), write(t, small, smallNames, options); !bytes.Equal(first, second) {
			t.Errorf("%s: the second time other bytes", name)
		}
	}
	if bytes.Equal(write(t, small, smallNames, rulebundle.WriteOptions{Revision: "v1"}), write(t, small, smallNames, rulebundle.WriteOptions{Revision: "v2"})) {
		t.Error("another revision, the same bytes")
	}
}

// The rules in a bundle are those of the folder: same digest, same decision on every example.
func TestShippedRulesDecideTheSame(t *testing.T) {
	t.Parallel()
	folder := os.DirFS(shipped)
	var names []string
	for _, pattern := range []string{"*/*.rego", "*/data.json", "*/lookups.yaml"} {
		matches, err := fs.Glob(folder, pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, matches...)
	}
	slices.Sort(names)
	fsys, err := read(bytes.NewReader(write(t, folder, names, rulebundle.WriteOptions{})), nil)
	if err != nil {
		t.Fatal(err)
	}
	var allocators []*decider.Decider
	for _, source := range []fs.FS{folder, fsys} {
		rules, err := decider.LoadRules(t.Context(), source, decider.RulesOptions{Name: "rules"})
		if err != nil {
			t.Fatal(err)
		}
		allocator, err := decider.New(decider.Options{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		allocators = append(allocators, allocator)
	}
	if a, b := allocators[0].Rules().Digest(), allocators[1].Rules().Digest(); a != b {
		t.Errorf("digest %s of the folder, %s of the bundle", a, b)
	}
	requests, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(requests) == 0 {
		t.Fatalf("no requests (%v)", err)
	}
	for _, name := range requests {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, a := allocators[0].AllocateJSON(t.Context(), body)
		_, b := allocators[1].AllocateJSON(t.Context(), body)
		if diff := cmp.Diff(a, b, cmpopts.EquateErrors(), cmp.AllowUnexported(dps.Value{})); diff != "" {
			t.Errorf("%s: -folder +bundle:\n%s", name, diff)
		}
	}
}

// OPA's own reader accepts what is written, and its verifier the signature.
func TestReadByOPA(t *testing.T) {
	t.Parallel()
	rsaPrivate, rsaPublic := rsaKeys(t)
	ecPrivate, ecPublic := ecKeys(t)
	for algorithm, files := range map[string][2]string{
		"RS256": {rsaPrivate, rsaPublic},
		"ES256": {ecPrivate, ecPublic},
		"HS512": {secret(t, "s3cret"), secret(t, "s3cret")},
	} {
		packed := write(t, small, smallNames, rulebundle.WriteOptions{Revision: "v7", Key: &rulebundle.Key{File: files[0], Algorithm: algorithm}})
		config, err := keys.NewKeyConfig(files[1], algorithm, "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundle.NewReader(bytes.NewReader(packed)).
			WithBundleVerificationConfig(bundle.NewVerificationConfig(map[string]*keys.Config{"default": config}, "default", "", nil)).
			Read()
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		if b.Manifest.Revision != "v7" || len(b.Modules) != 2 || b.Data["a"] == nil {
			t.Errorf("%s: OPA reads revision %q, %d modules, data %v", algorithm, b.Manifest.Revision, len(b.Modules), b.Data)
		}
		if _, err := read(bytes.NewReader(packed), &rulebundle.Key{File: files[1], Algorithm: algorithm}); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestSignatureIsNeeded(t *testing.T) {
	t.Parallel()
	good := &rulebundle.Key{File: secret(t, "good"), Algorithm: "HS256"}
	signed := write(t, small, smallNames, rulebundle.WriteOptions{Key: good})
	for name, c := range map[string]struct {
		packed []byte
		key    *rulebundle.Key
		want   string
	}{
		"unsigned":    {write(t, small, smallNames, rulebundle.WriteOptions{}), good, "signatures"},
		"another key": {signed, &rulebundle.Key{File: secret(t, "bad"), Algorithm: "HS256"}, "verify"},
		"a file changed": {repack(t, signed, func(name string, text []byte) []byte {
			return bytes.ReplaceAll(text, []byte("linkedHubs[0]"), []byte("linkedHubs[1]"))
		}), good, "digest mismatch"},
		"data changed": {repack(t, signed, func(name string, text []byte) []byte {
			return bytes.ReplaceAll(text, []byte(`"x.azure`), []byte(`"y.azure`))
		}), good, "digest mismatch"},
		"unknown algorithm":    {signed, &rulebundle.Key{File: good.File, Algorithm: "none"}, `"none" is not a signature algorithm`},
		"key is no file":       {signed, &rulebundle.Key{File: "no-such-key.pem", Algorithm: "HS256"}, "no-such-key.pem"},
		"key is a folder":      {signed, &rulebundle.Key{File: t.TempDir(), Algorithm: "HS256"}, "is not a file"},
		"public key is no PEM": {signed, &rulebundle.Key{File: good.File, Algorithm: "RS256"}, ""},
	} {
		_, err := read(bytes.NewReader(c.packed), c.key)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := read(bytes.NewReader(signed), nil); err != nil {
		t.Errorf("signed, read without a key: %v", err)
	}
	if err := rulebundle.Write(io.Discard, small, smallNames, rulebundle.WriteOptions{Key: &rulebundle.Key{File: "no-such-key.pem", Algorithm: "RS256"}}); err == nil {
		t.Error("signed with a key that is not there")
	}
}

func TestNotABundle(t *testing.T) {
	t.Parallel()
	var huge bytes.Buffer // the header alone says so
	zipped := gzip.NewWriter(&huge)
	if err := tar.NewWriter(zipped).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a.rego", Size: rulebundle.MaxSize + 1, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	one := func(name, text string) []byte {
		return pack(t, func(archive *tar.Writer) {
			if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(archive, text); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, c := range map[string]struct {
		packed []byte
		want   string
	}{
		"nothing":          {nil, "not a gzipped tar archive"},
		"text":             {[]byte("package a\n"), "not a gzipped tar archive"},
		"cut short":        {write(t, small, smallNames, rulebundle.WriteOptions{})[:100], "not a gzipped tar archive"},
		"unpacks to much":  {huge.Bytes(), "unpacked it is larger than 64 MiB"},
		"outside":          {one("../a.rego", "package a\n"), "a.rego"},
		"another manifest": {one(".manifest", "[]"), "manifest"},
		"a patch":          {one("patch.json", `{"data": [{"op": "upsert", "path": "/a", "value": 1}]}`), "changes to another bundle"},
	} {
		fsys, err := read(bytes.NewReader(c.packed), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", name, fsys, err, c.want)
		}
	}
}

// The names that plain tar writes for a folder are those of OPA.
func TestPackedByPlainTar(t *testing.T) {
	t.Parallel()
	packed := pack(t, func(archive *tar.Writer) {
		for _, header := range []tar.Header{{Typeflag: tar.TypeDir, Name: "./"}, {Typeflag: tar.TypeDir, Name: "./line/"},
			{Typeflag: tar.TypeReg, Name: "./line/line.rego", Size: 10}, {Typeflag: tar.TypeReg, Name: "./line/a.request.json", Size: 10}} {
			header.Mode = 0o755
			if err := archive.WriteHeader(&header); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(archive, "package a\n"[:header.Size]); err != nil {
				t.Fatal(err)
			}
		}
	})
	fsys, err := read(bytes.NewReader(packed), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"line/line.rego": "package a\n", "line/a.request.json": "package a\n"}, contents(t, fsys)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func FuzzRead(f *testing.F) {
	var packed bytes.Buffer
	if err := rulebundle.Write(&packed, small, smallNames, rulebundle.WriteOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		fsys, err := read(bytes.NewReader(packed), nil)
		if err != nil {
			return
		}
		for name := range contents(t, fsys) {
			if !fs.ValidPath(name) {
				t.Errorf("a file is named %q", name)
			}
		}
	})
}

func pack(t *testing.T, fill func(*tar.Writer)) []byte {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	fill(archive)
	for _, c := range []io.Closer{archive, zipped} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return packed.Bytes()
}

// repack edits the files of an archive.
func repack(t *testing.T, packed []byte, edit func(name string, text []byte) []byte) []byte {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	from := tar.NewReader(unzipped)
	return pack(t, func(to *tar.Writer) {
		for {
			header, err := from.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(from)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(header.Name, ".") {
				text = edit(header.Name, text)
			}
			header.Size = int64(len(text))
			if err := to.WriteHeader(header); err != nil {
				t.Fatal(err)
			}
			if _, err := to.Write(text); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func secret(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func rsaKeys(t *testing.T) (private, public string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return keyFiles(t, key, &key.PublicKey)
}

func ecKeys(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyFiles(t, key, &key.PublicKey)
}

func keyFiles(t *testing.T, private, public any) (string, string) {
	t.Helper()
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return secret(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}))),
		secret(t, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})))
}
