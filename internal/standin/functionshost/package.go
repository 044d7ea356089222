package functionshost

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"strings"
)

// maxExecutable bounds the program in a package, in bytes, so that a forged one cannot fill the memory.
const maxExecutable = 512 << 20

// CheckPackage checks whether a deployment package, a zip file, has what a custom handler on Linux needs: host.json at
// the root, at least one function, and the program that host.json names, executable and built for linux/amd64 without
// dynamic libraries. The error lists all problems and how to fix them.
func CheckPackage(file string) error {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer archive.Close()
	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: "+format, append([]any{file}, args...)...))
	}
	entries := map[string]*zip.File{}
	functions := 0
	for _, f := range archive.File {
		if _, twice := entries[f.Name]; twice {
			report("%s is in the package twice", f.Name)
		}
		entries[f.Name] = f
		if strings.Contains(f.Name, `\`) {
			report("%s: paths in the package contain backslashes and do not unpack on Linux; pack with forward slashes", f.Name)
		}
		if dir, base := path.Split(f.Name); base == "function.json" && strings.Count(dir, "/") == 1 {
			functions++
		}
	}
	if entries["local.settings.json"] != nil {
		report("local.settings.json is in the package: it contains secrets of a developer's machine; leave it out")
	}
	if functions == 0 {
		report("no function: want a folder with a function.json, such as allocate/function.json")
	}
	executable, err := packagedExecutable(entries["host.json"])
	if err != nil {
		report("%w", err)
		return errors.Join(problems...)
	}
	for _, f := range archive.File {
		if f.Name != executable && f.Mode().IsRegular() && f.Mode()&0o111 != 0 {
			report("%s is executable: publishing keeps the executable bit only on %s, so nothing may rely on it", f.Name, executable)
		}
	}
	program := entries[executable]
	switch {
	case program == nil:
		report("%s is missing: host.json names it as defaultExecutablePath; build it before packing", executable)
	case !program.Mode().IsRegular():
		report("%s is not a regular file", executable)
	default:
		if program.Mode()&0o111 == 0 {
			report("%s is not executable: chmod +x it and pack on Linux or macOS, or with func pack", executable)
		}
		if err := checkProgram(program); err != nil {
			report("%s: %w", executable, err)
		}
	}
	return errors.Join(problems...)
}

// packagedExecutable returns the path of the program that the packed host.json names.
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
	data, err := readAtMost(r, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return data, nil
}

const buildFix = "build with CGO_ENABLED=0 GOOS=linux GOARCH=amd64"

func checkProgram(f *zip.File) error {
	data, err := unpack(f, maxExecutable)
	if err != nil {
		return err
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not a Linux program (%w): %s", err, buildFix)
	}
	defer program.Close()
	switch {
	case program.Machine != elf.EM_X86_64 || program.Class != elf.ELFCLASS64:
		return fmt.Errorf("built for %s, want x86-64: %s", program.Machine, buildFix)
	case program.Type != elf.ET_EXEC && program.Type != elf.ET_DYN:
		return fmt.Errorf("an ELF file of type %s, want a program: %s", program.Type, buildFix)
	}
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("linked dynamically, but the Functions image does not have the libraries of this machine: %s", buildFix)
		}
	}
	return nil
}
