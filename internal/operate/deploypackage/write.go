// Package deploypackage writes the deployment package of the webhook: the zip file that Azure Functions unpacks into
// the root of the Function App.
package deploypackage

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/operate/scriptroot"
)

// modified is the time of all entries, so that the same content gives the same bytes. Zip files have no earlier year.
var modified = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Write writes what the host and the handler read from the root of a Function App: host.json, the function.json of each
// function, the program that host.json names, and the given files of the rules. It returns the paths of the files,
// below root, with forward slashes and sorted. The same content gives the same bytes.
//
// Only the program is executable, whatever its mode in root is: Windows has no such mode.
func Write(w io.Writer, root fs.FS, rules []string) ([]string, error) {
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
	files := slices.Concat([]string{scriptroot.HostFile, program}, functions, rules)
	slices.Sort(files)
	files = slices.Compact(files)
	archive := zip.NewWriter(w)
	for _, name := range files {
		header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified}
		header.SetMode(0o644)
		if name == program {
			header.SetMode(0o755)
		}
		if err := add(archive, header, root); err != nil {
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

func add(archive *zip.Writer, header *zip.FileHeader, root fs.FS) error {
	file, err := root.Open(header.Name)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", header.Name)
	}
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(entry, file)
	return err
}
