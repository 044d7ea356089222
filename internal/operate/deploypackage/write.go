// Package deploypackage writes the deployment package of the webhook: the zip file that Azure Functions unpacks into
// the root of the Function App.
package deploypackage

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/operate/scriptroot"
)

// modified is the time of all entries, so that the same content gives the same bytes. Zip files have no earlier year.
var modified = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Source is a file somewhere.
type Source struct {
	FS   fs.FS
	Name string
}

// Content is what a package consists of.
type Content struct {
	Root    fs.FS             // that of the Function App
	Handler *Source           // the program; nil for the one in Root that host.json names
	Rules   map[string]Source // by the path in the package
}

// Write writes what the host and the handler read from the root of a Function App: host.json, the function.json of each
// function, the program, at the path that host.json names, and the files of the rules. It returns the paths of the files,
// with forward slashes and sorted. The same content gives the same bytes.
//
// Only the program is executable, whatever its mode was: Windows has no such mode.
func Write(w io.Writer, content Content) ([]string, error) {
	root := content.Root
	program, err := findProgram(root)
	if err != nil {
		return nil, err
	}
	functions, err := scriptroot.Functions(root)
	if err != nil {
		return nil, err
	}
	if len(functions) == 0 {
		return nil, errors.New("there is no function: want a folder with a function.json, such as allocate/function.json")
	}
	if _, err := scriptroot.Routes(root, func(string) string { return "" }); err != nil {
		return nil, err
	}
	sources := maps.Clone(content.Rules)
	if sources == nil {
		sources = map[string]Source{}
	}
	for _, name := range slices.Concat([]string{scriptroot.HostFile, program}, functions) {
		sources[name] = Source{root, name}
	}
	if content.Handler != nil {
		sources[program] = *content.Handler
	}
	files := slices.Sorted(maps.Keys(sources))
	archive := zip.NewWriter(w)
	for _, name := range files {
		header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified}
		header.SetMode(0o644)
		if name == program {
			header.SetMode(0o755)
		}
		if err := add(archive, header, sources[name]); err != nil {
			return nil, err
		}
	}
	return files, archive.Close()
}

// findProgram returns the path, below root, of the program that host.json names.
func findProgram(root fs.FS) (string, error) {
	host, err := scriptroot.ReadHost(root)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the root of a Function App must contain host.json: %w", err)
	}
	if err != nil {
		return "", err
	}
	program := path.Clean(strings.ReplaceAll(host.CustomHandler.Description.DefaultExecutablePath, `\`, "/"))
	if !fs.ValidPath(program) || program == "." {
		return "", fmt.Errorf("%s: /customHandler/description/defaultExecutablePath: want the path of the handler below the root, such as bin/handler", scriptroot.HostFile)
	}
	return program, nil
}

func add(archive *zip.Writer, header *zip.FileHeader, source Source) error {
	file, err := source.FS.Open(source.Name)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source.Name)
	}
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(entry, file)
	return err
}
