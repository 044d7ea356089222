package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/usher-dps/usher/internal/author/calljournal"
	"github.com/usher-dps/usher/internal/author/rulebench"
)

// maxRequests bounds what a command that keeps all its requests reads, in bytes.
const maxRequests = 256 << 20

// readRequests reads AllocationRequests from files, folders and standard input.
func readRequests(paths []string, stdin io.Reader) ([]rulebench.Request, error) {
	var requests []rulebench.Request
	left := int64(maxRequests)
	for _, path := range paths {
		found, err := readPath(path, stdin, &left)
		if err != nil {
			return nil, err
		}
		requests = append(requests, found...)
	}
	if len(requests) == 0 {
		return nil, errors.New("there are no requests: name files with an AllocationRequest each, or with one on each line")
	}
	return requests, nil
}

func readPath(path string, stdin io.Reader, left *int64) ([]rulebench.Request, error) {
	if path == "-" {
		text, err := readUpTo(stdin, left)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return requestLines("standard input", text)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		names = nil
		for _, pattern := range []string{"*.json", "*.ndjson", "*.jsonl"} {
			matches, err := filepath.Glob(filepath.Join(escapeGlob(path), pattern))
			if err != nil {
				return nil, err
			}
			names = append(names, matches...)
		}
		slices.Sort(names)
	}
	var requests []rulebench.Request
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		text, err := readUpTo(file, left)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if ext := filepath.Ext(name); ext == ".ndjson" || ext == ".jsonl" {
			lines, err := requestLines(name, text)
			if err != nil {
				return nil, err
			}
			requests = append(requests, lines...)
			continue
		}
		body, err := requestIn(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		requests = append(requests, rulebench.Request{Name: name, Body: body})
	}
	return requests, nil
}

// escapeGlob keeps a folder's name from being taken for a pattern.
func escapeGlob(name string) string {
	var escaped []rune
	for _, r := range name {
		if r == '*' || r == '?' || r == '[' || r == '\\' && filepath.Separator != '\\' {
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, r)
	}
	return string(escaped)
}

func readUpTo(r io.Reader, left *int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, *left+1))
	*left -= int64(len(text))
	if err == nil && *left < 0 {
		err = fmt.Errorf("the requests are larger than %d MiB in all", maxRequests>>20)
	}
	return text, err
}

func requestLines(name string, text []byte) ([]rulebench.Request, error) {
	var requests []rulebench.Request
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Buffer(nil, len(text)+1)
	for line := 1; scanner.Scan(); line++ {
		if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
			continue
		}
		if _, relation := calljournal.Read(scanner.Bytes()); relation == calljournal.Aside {
			continue
		}
		body, err := requestIn(scanner.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		requests = append(requests, rulebench.Request{Name: fmt.Sprintf("%s:%d", name, line), Body: body})
	}
	return requests, scanner.Err()
}

// requestIn returns the request itself: the text, or of a decision record its
// member request. Whether it is an AllocationRequest is the allocator's to say.
func requestIn(text []byte) ([]byte, error) {
	var record struct {
		Request json.RawMessage `json:"request"`
	}
	if err := json.Unmarshal(text, &record); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if record.Request != nil {
		return record.Request, nil
	}
	return bytes.Clone(text), nil
}
