package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/rulebench"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
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

// readRequests are the requests of logs.
type readRequests struct {
	requests []rulebench.Request
	size     int // in bytes
	// lacking is how many are from records in which something is masked that the rules look at.
	lacking int
	// passed are the files in folders that hold no request, such as data of rules.
	passed []string
}

// read reads all requests of the logs that arguments name.
func (r *readRequests) read(ctx context.Context, args []string, stdin io.Reader, rules *decider.Rules) error {
	for _, arg := range args {
		logs, err := openLogs([]string{arg}, stdin, "standard input")
		if err != nil {
			return err
		}
		for _, log := range logs {
			mayPass := arg != "-" && log.Name != arg && !strings.HasSuffix(log.Name, exchange.RequestSuffix)
			if err := r.add(ctx, log, mayPass, rules); err != nil {
				return err
			}
		}
	}
	if len(r.requests) == 0 {
		return errors.New("there are no requests: name files with an AllocationRequest each, or with one on each line")
	}
	return nil
}

// add reads the requests of a log. What is no request is added as well, so that measuring it says what is wrong with it,
// unless it is all there is, and the log may be passed over.
func (r *readRequests) add(ctx context.Context, log requestlog.Log, mayPass bool, rules *decider.Rules) error {
	before, holds := *r, false
	var wrong error // what the first Other that is no JSON is
	for item, err := range requestlog.Items(ctx, log) {
		if err != nil {
			return err
		}
		holds = holds || item.Kind != requestlog.Other
		switch {
		case item.Kind == requestlog.OtherCall, item.Kind == requestlog.Other && item.InExport():
			continue
		case item.Body == nil && item.Kind == requestlog.Other:
			wrong = cmp.Or(wrong, fmt.Errorf("%s: %w", item.Place(), item.Err))
			continue
		case item.Body == nil:
			return fmt.Errorf("%s: %w", item.Place(), item.Err)
		}
		if r.size += len(item.Body); r.size > maxRequests {
			return fmt.Errorf("the requests are larger than %d MiB in total", maxRequests>>20)
		}
		r.requests = append(r.requests, rulebench.Request{Name: item.Place(), Body: bytes.Clone(item.Body)})
		if len(item.Masked) > 0 {
			if request, err := item.Parse(); err == nil && len(rules.Needs(ctx, request, item.Masked)) > 0 {
				r.lacking++
			}
		}
	}
	if mayPass && !holds {
		*r = before
		r.passed = append(r.passed, log.Name)
		return nil
	}
	return wrong
}
