package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/rulebench"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// openLogs returns the logs that arguments name: files, those in folders, or - for standard input.
func openLogs(args []string, stdin io.Reader, stdinName string) ([]requestlog.Log, error) {
	var logs []requestlog.Log
	for _, arg := range args {
		if arg == "-" {
			logs = append(logs, requestlog.Stream(stdinName, stdin))
			continue
		}
		files, err := requestlog.Files(arg)
		if err != nil {
			return nil, err
		}
		logs = append(logs, files...)
	}
	return logs, nil
}

// checkStdin refuses arguments that name standard input more than once.
func checkStdin(args []string) error {
	names := 0
	for _, arg := range args {
		if arg == "-" {
			names++
		}
	}
	if names > 1 {
		return usageError(errors.New("- is there twice, and standard input can be read only once"))
	}
	return nil
}

// maxRequests bounds, in bytes, the requests that a command keeps.
const maxRequests = 256 << 20

// readRequests reads all requests of the logs that arguments name. It also returns how many of them are from records in
// which something is masked that the rules look at.
func readRequests(ctx context.Context, args []string, stdin io.Reader, rules *decider.Rules) (requests []rulebench.Request, lacking int, err error) {
	logs, err := openLogs(args, stdin, "standard input")
	if err != nil {
		return nil, 0, err
	}
	size := 0
	for item, err := range requestlog.Items(ctx, logs...) {
		switch {
		case err != nil:
			return nil, 0, err
		case item.Kind == requestlog.OtherCall, item.Kind == requestlog.Other && item.InExport():
			continue
		case item.Body == nil:
			return nil, 0, fmt.Errorf("%s: %w", item.Place(), item.Err)
		}
		if size += len(item.Body); size > maxRequests {
			return nil, 0, fmt.Errorf("the requests are larger than %d MiB in total", maxRequests>>20)
		}
		requests = append(requests, rulebench.Request{Name: item.Place(), Body: bytes.Clone(item.Body)})
		if len(item.Masked) > 0 {
			if request, err := item.Parse(); err == nil && len(rules.Needs(ctx, request, item.Masked)) > 0 {
				lacking++
			}
		}
	}
	if len(requests) == 0 {
		return nil, 0, errors.New("there are no requests: name files with an AllocationRequest each, or with one on each line")
	}
	return requests, lacking, nil
}
