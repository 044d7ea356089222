package deploypackage_test

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/usher-dps/usher/internal/operate/deploypackage"
)

const host = `{"version":"2.0","customHandler":{"description":{"defaultExecutablePath":"bin/handler"}}}`

func app() fstest.MapFS {
	return fstest.MapFS{
		"host.json":               {Data: []byte(host), Mode: 0o600, ModTime: time.Now()},
		"local.settings.json":     {Data: []byte(`{"Values":{"KEY":"secret"}}`)},
		"allocate/function.json":  {Data: []byte(`{"bindings":[{"type":"httpTrigger"}]}`)},
		"allocate/notes.md":       {Data: []byte(`notes`)},
		"docs/deep/function.json": {Data: []byte(`{}`)},
		"bin/handler":             {Data: []byte("program"), Mode: 0o644},
		"bin/usher":               {Data: []byte("tool"), Mode: 0o755},
		"rules/a/a.rego":          {Data: []byte("package allocation.a"), Mode: 0o777},
	}
}

func TestPackage(t *testing.T) {
	t.Parallel()
	var packed [2]bytes.Buffer
	for i := range packed {
		root := app() // written at another time
		files, err := deploypackage.Write(&packed[i], deploypackage.Content{
			Root: root, Rules: map[string]deploypackage.Source{"rules/a/a.rego": {FS: root, Name: "rules/a/a.rego"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"allocate/function.json", "bin/handler", "host.json", "rules/a/a.rego"}
		if !slices.Equal(files, want) {
			t.Fatalf("files %q, want %q", files, want)
		}
	}
	if !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) {
		t.Error("the same content gave different bytes")
	}
	archive, err := zip.NewReader(bytes.NewReader(packed[0].Bytes()), int64(packed[0].Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.File {
		want := fs.FileMode(0o644)
		if f.Name == "bin/handler" {
			want = 0o755
		}
		if f.Mode() != want {
			t.Errorf("%s has mode %v, want %v", f.Name, f.Mode(), want)
		}
		content, err := fs.ReadFile(archive, f.Name)
		if err != nil || !bytes.Equal(content, app()[f.Name].Data) {
			t.Errorf("%s = %q, %v", f.Name, content, err)
		}
	}
}

// The program and the rules can be elsewhere.
func TestPackageFromElsewhere(t *testing.T) {
	t.Parallel()
	root := app()
	delete(root, "bin/handler")
	elsewhere := fstest.MapFS{"function-app": {Data: []byte("released")}, "a/a.rego": {Data: []byte("package allocation.a")}}
	var packed bytes.Buffer
	files, err := deploypackage.Write(&packed, deploypackage.Content{
		Root:    root,
		Handler: &deploypackage.Source{FS: elsewhere, Name: "function-app"},
		Rules:   map[string]deploypackage.Source{"rules/b/a.rego": {FS: elsewhere, Name: "a/a.rego"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"allocate/function.json", "bin/handler", "host.json", "rules/b/a.rego"}; !slices.Equal(files, want) {
		t.Fatalf("files %q, want %q", files, want)
	}
	archive, err := zip.NewReader(bytes.NewReader(packed.Bytes()), int64(packed.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"bin/handler": "released", "rules/b/a.rego": "package allocation.a"} {
		if content, err := fs.ReadFile(archive, name); err != nil || string(content) != want {
			t.Errorf("%s = %q, %v", name, content, err)
		}
	}
	if mode := archive.File[1].Mode(); mode != 0o755 {
		t.Errorf("the program has mode %v", mode)
	}
}

func TestInvalidFunctionApps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		edit func(fstest.MapFS)
		want string
	}{
		"no host.json": {func(m fstest.MapFS) { delete(m, "host.json") }, "host.json"},
		"no function":  {func(m fstest.MapFS) { delete(m, "allocate/function.json") }, "no function"},
		"not JSON":     {func(m fstest.MapFS) { m["host.json"] = &fstest.MapFile{Data: []byte("{")} }, "host.json:1: "},
		"no program":   {func(m fstest.MapFS) { m["host.json"] = &fstest.MapFile{Data: []byte("{}")} }, "/customHandler/description/defaultExecutablePath"},
		"program above the root": {func(m fstest.MapFS) {
			m["host.json"] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(host, "bin/handler", "../handler"))}
		}, "below the root"},
		"a route that the webhook does not serve": {func(m fstest.MapFS) {
			m["allocate/function.json"] = &fstest.MapFile{Data: []byte(`{"bindings":[{"type":"httpTrigger","route":"{name}"}]}`)}
		}, "allocate/function.json: the route /api/{name} has parameters"},
		"program not built": {func(m fstest.MapFS) { delete(m, "bin/handler") }, "bin/handler"},
		"program is a folder": {func(m fstest.MapFS) {
			m["bin/handler"] = &fstest.MapFile{Mode: fs.ModeDir}
		}, "bin/handler is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := app()
			test.edit(root)
			_, err := deploypackage.Write(new(bytes.Buffer), deploypackage.Content{Root: root})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}
