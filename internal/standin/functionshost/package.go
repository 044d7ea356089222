package functionshost

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// maxExecutable bounds the program read from a package, so that a forged one cannot fill the memory.
const maxExecutable = 512 << 20

// CheckPackage checks a deployment package, a zip, for what a custom handler on Linux needs: host.json at the root, at
// least one function, and the program that host.json names, executable and built for linux/amd64 without dynamic
// libraries. The error lists all faults with their mends.
func CheckPackage(file string) error {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer archive.Close()
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: "+format, append([]any{file}, args...)...))
	}
	entries := map[string]*zip.File{}
	functions := 0
	for _, f := range archive.File {
		if _, twice := entries[f.Name]; twice {
			fault("%s is in the package twice", f.Name)
		}
		entries[f.Name] = f
		if strings.Contains(f.Name, `\`) {
			fault("%s: paths in the package have backslashes and do not unpack on Linux; pack with forward slashes", f.Name)
		}
		if dir, base := path.Split(f.Name); base == "function.json" && strings.Count(dir, "/") == 1 {
			functions++
		}
	}
	if entries["local.settings.json"] != nil {
		fault("local.settings.json is in the package: it holds secrets of a developer's machine; leave it out")
	}
	if functions == 0 {
		fault("no function: want a folder with a function.json, as allocate/function.json")
	}
	executable, err := packagedExecutable(entries["host.json"])
	if err != nil {
		fault("%w", err)
		return errors.Join(faults...)
	}
	for _, f := range archive.File {
		if f.Name != executable && f.Mode().IsRegular() && f.Mode()&0o111 != 0 {
			fault("%s is executable: publishing keeps the executable bit on %s alone, so nothing may rely on it", f.Name, executable)
		}
	}
	program := entries[executable]
	switch {
	case program == nil:
		fault("%s is missing: host.json names it as defaultExecutablePath; build it before packing", executable)
	case !program.Mode().IsRegular():
		fault("%s is not a regular file", executable)
	default:
		if program.Mode()&0o111 == 0 {
			fault("%s is not executable: chmod +x it and pack on Linux or macOS, or with func pack", executable)
		}
		if err := checkProgram(program); err != nil {
			fault("%s: %w", executable, err)
		}
	}
	return errors.Join(faults...)
}

// packagedExecutable reads the program's path from a packed host.json.
func packagedExecutable(f *zip.File) (string, error) {
	if f == nil {
		return "", errors.New("no host.json at the root of the package: pack the contents of the script root, not the folder")
	}
	data, err := unpack(f, maxDocument)
	if err != nil {
		return "", err
	}
	var host hostFile
	d, err := parseDocument(data, "host.json", &host)
	if err != nil {
		return "", err
	}
	if host.CustomHandler == nil || host.CustomHandler.Description.DefaultExecutablePath == "" {
		return "", d.errorf("/customHandler/description/defaultExecutablePath", "missing: it names the handler's program")
	}
	return path.Clean(strings.ReplaceAll(host.CustomHandler.Description.DefaultExecutablePath, `\`, "/")), nil
}

func unpack(f *zip.File, limit int64) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", f.Name, limit)
	}
	return data, nil
}

const buildMend = "build with CGO_ENABLED=0 GOOS=linux GOARCH=amd64"

func checkProgram(f *zip.File) error {
	data, err := unpack(f, maxExecutable)
	if err != nil {
		return err
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not a Linux program (%w): %s", err, buildMend)
	}
	defer program.Close()
	switch {
	case program.Machine != elf.EM_X86_64 || program.Class != elf.ELFCLASS64:
		return fmt.Errorf("built for %s, want x86-64: %s", program.Machine, buildMend)
	case program.Type != elf.ET_EXEC && program.Type != elf.ET_DYN:
		return fmt.Errorf("an ELF file of type %s, want a program: %s", program.Type, buildMend)
	}
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("linked dynamically, and the libraries of the Functions image are not those of this machine: %s", buildMend)
		}
	}
	return nil
}
