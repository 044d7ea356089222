package functionshost_test

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// program returns the header of an ELF file with one segment.
func program(t *testing.T, machine elf.Machine, kind elf.Type, segment elf.ProgType) string {
	t.Helper()
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(kind), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	var b bytes.Buffer
	for _, part := range []any{header, elf.Prog64{Type: uint32(segment)}} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

type entry struct {
	name, content string
	mode          fs.FileMode
}

func TestCheckPackage(t *testing.T) {
	t.Parallel()
	static := program(t, elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD)
	host := entry{"host.json", `{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "bin/handler"}}}`, 0o644}
	function := entry{"allocate/function.json", "{}", 0o644}
	good := entry{"bin/handler", static, 0o755}
	for _, c := range []struct {
		name    string
		entries []entry
		want    []string // one for each problem, in order; none for a valid package
	}{
		{"good", []entry{host, function, good, {"rules/a.rego", "package a", 0o644}}, nil},
		{"position independent", []entry{host, function, {"bin/handler", program(t, elf.EM_X86_64, elf.ET_DYN, elf.PT_LOAD), 0o755}}, nil},
		{"path with dots and slashes", []entry{{"host.json", strings.ReplaceAll(host.content, "bin/", "./bin//"), 0o644}, function, good}, nil},
		{"folder packed", []entry{{"app/host.json", host.content, 0o644}, {"app/allocate/function.json", "{}", 0o644}}, []string{"no function: want a folder", "no host.json at the root of the package: pack the contents"}},
		{"broken host.json", []entry{{"host.json", "{\n!", 0o644}, function}, []string{"host.json:2:1: not valid JSON"}},
		{"no executable named", []entry{{"host.json", "{}", 0o644}, function}, []string{"host.json:1:1: /customHandler/description/defaultExecutablePath: missing"}},
		{"not built", []entry{host, function}, []string{"bin/handler is missing: host.json names it"}},
		{"not executable", []entry{host, function, {"bin/handler", static, 0o644}}, []string{"bin/handler is not executable: chmod +x"}},
		{"others executable", []entry{host, function, good, {"run.sh", "#!/bin/sh", 0o755}}, []string{"run.sh is executable: publishing keeps the executable bit only on bin/handler"}},
		{"a script", []entry{host, function, {"bin/handler", "#!/bin/sh\n", 0o755}}, []string{"bin/handler: not a Linux program"}},
		{"ARM", []entry{host, function, {"bin/handler", program(t, elf.EM_AARCH64, elf.ET_EXEC, elf.PT_LOAD), 0o755}}, []string{"bin/handler: built for EM_AARCH64, want x86-64: build with CGO_ENABLED=0 GOOS=linux GOARCH=amd64"}},
		{"an object file", []entry{host, function, {"bin/handler", program(t, elf.EM_X86_64, elf.ET_REL, elf.PT_LOAD), 0o755}}, []string{"bin/handler: an ELF file of type ET_REL"}},
		{"dynamic", []entry{host, function, {"bin/handler", program(t, elf.EM_X86_64, elf.ET_DYN, elf.PT_INTERP), 0o755}}, []string{"bin/handler: linked dynamically"}},
		{"secrets", []entry{host, function, good, {"local.settings.json", "{}", 0o644}}, []string{"local.settings.json is in the package: it contains secrets"}},
		{"backslashes", []entry{host, function, good, {`rules\a.rego`, "", 0o644}}, []string{`rules\a.rego: paths in the package contain backslashes`}},
		{"twice", []entry{host, function, good, good}, []string{"bin/handler is in the package twice"}},
		{"several at once", []entry{host, {"bin/handler", "", 0o644}}, []string{"no function", "bin/handler is not executable", "bin/handler: not a Linux program"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "package.zip")
			writeZip(t, file, c.entries)
			err := functionshost.CheckPackage(file)
			if err == nil {
				if len(c.want) > 0 {
					t.Fatalf("CheckPackage() = nil, want %q", c.want)
				}
				return
			}
			problems := strings.Split(err.Error(), "\n")
			if len(problems) != len(c.want) {
				t.Fatalf("CheckPackage() =\n%v\nwant %q", err, c.want)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(problems[i], file+": "+want) {
					t.Errorf("problem %d is %q, want %q after the name of the file", i, problems[i], want)
				}
			}
		})
	}
}

func TestCheckPackageOfAnotherFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "package.zip")
	if err := os.WriteFile(file, []byte("no zip"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{file, filepath.Join(t.TempDir(), "none.zip")} {
		if err := functionshost.CheckPackage(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("CheckPackage() = %v, want an error that names the file", err)
		}
	}
}

func writeZip(t *testing.T, file string, entries []entry) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		header.SetMode(e.mode)
		f, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
