// Package deploypackage makes the deployment package of the webhook: the zip file that
// Azure Functions unpacks into the Function App's root.
//
// It holds what the host and the handler read, and nothing else; the same content gives
// the same bytes.
package deploypackage

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

const hostFile = "host.json"

// Files lists what of a Function App's root goes into the package: host.json, the
// function.json of each function, the program that host.json names, and the given
// files of the rules. All paths are below root and have forward slashes; the order is
// that of the names.
func Files(root fs.FS, rules []string) ([]string, error) {
	program, err := Program(root)
	if err != nil {
		return nil, err
	}
	functions, err := fs.Glob(root, "*/function.json")
	if err != nil {
		return nil, err
	}
	if len(functions) == 0 {
		return nil, errors.New("there is no function: want a folder with a function.json, as allocate/function.json")
	}
	files := slices.Concat([]string{hostFile, program}, functions, rules)
	slices.Sort(files)
	return slices.Compact(files), nil
}

// Program is the path, below root, of the program that host.json names.
func Program(root fs.FS) (string, error) {
	text, err := fs.ReadFile(root, hostFile)
	if err != nil {
		return "", fmt.Errorf("the root of a Function App has a host.json: %w", err)
	}
	var host struct {
		CustomHandler struct {
			Description struct {
				DefaultExecutablePath string `json:"defaultExecutablePath"`
			} `json:"description"`
		} `json:"customHandler"`
	}
	if err := json.Unmarshal(text, &host); err != nil {
		return "", fmt.Errorf("%s: %w", hostFile, err)
	}
	program := path.Clean(strings.ReplaceAll(host.CustomHandler.Description.DefaultExecutablePath, `\`, "/"))
	if !fs.ValidPath(program) || program == "." {
		return "", fmt.Errorf("%s: /customHandler/description/defaultExecutablePath: want the path of the handler below the root, such as bin/handler", hostFile)
	}
	return program, nil
}

// modified is the time of all entries: when a file was written says nothing about what
// is in it. Zip files know no earlier year.
var modified = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Write packs files of root. The program that host.json names is executable, whatever
// its mode is here (Windows knows none), and nothing else is.
func Write(w io.Writer, root fs.FS, files []string) error {
	program, err := Program(root)
	if err != nil {
		return err
	}
	archive := zip.NewWriter(w)
	for _, name := range files {
		mode := fs.FileMode(0o644)
		if name == program {
			mode = 0o755
		}
		if err := add(archive, root, name, mode); err != nil {
			return err
		}
	}
	return archive.Close()
}

func add(archive *zip.Writer, root fs.FS, name string, mode fs.FileMode) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", name)
	}
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified}
	header.SetMode(mode)
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(entry, file)
	return err
}
