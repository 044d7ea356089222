// Package exchange compares rules with recorded exchanges: a request of DPS and the answer expected for it, in two
// files next to each other.
//
//	stranger.request.json     the AllocationRequest
//	stranger.decision.json    the outcome or the fault, with what belongs to it
package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// How the names of the two files end.
const (
	RequestSuffix  = ".request.json"
	DecisionSuffix = ".decision.json"
)

// maxFile bounds either file, in bytes.
const maxFile = 1 << 20

// Exchange is a request and the answer expected for it.
type Exchange struct {
	// Name is the path of both files without their endings, with slashes.
	Name string
	// Request and Decision are the two files. Either may be missing.
	Request, Decision string
}

// Find lists the exchanges below a folder in the order of their names. It leaves out folders whose names start with a
// dot.
func Find(folder string) ([]Exchange, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != folder && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case entry.IsDir():
			return nil
		}
		for _, suffix := range []string{RequestSuffix, DecisionSuffix} {
			if base, ok := strings.CutSuffix(name, suffix); ok {
				found[base] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for exchanges: %w", err)
	}
	var exchanges []Exchange
	for _, base := range slices.Sorted(maps.Keys(found)) {
		exchanges = append(exchanges, Exchange{filepath.ToSlash(base), base + RequestSuffix, base + DecisionSuffix})
	}
	return exchanges, nil
}

// Decide answers a request. The error is that of a context that is done.
func Decide(ctx context.Context, d *decider.Decider, request []byte) (answer.Answer, error) {
	_, a := d.AllocateJSON(ctx, request)
	return a, ctx.Err()
}

// JSON is the answer as the file of a decision holds it: without what changes with every edit of the rules, such as
// their digest, and for a fault without what is for the log.
func JSON(a *answer.Answer) ([]byte, error) {
	document := a.Document("outcome", "fault", "rule", "hub", "initialTwin", "initialTwinUse", "payload", "reasons", "overrides",
		"throttle", "retryAfter", "alarm", "detail", "violations")
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(document)
	return text.Bytes(), err
}

// Result is how an exchange went.
type Result struct {
	Exchange
	// Rule is the package that decided; empty if no rule was evaluated.
	Rule string
	// Problems say how the answer differs from the expected one, each with its JSON pointer, or what is wrong with the
	// files. Without any, the exchange passed.
	Problems []string
	// Updated is set if the file was written.
	Updated bool
}

// Run answers the request and compares the answer with the file. If update is set, it writes the file if that differs.
// The error is that of a context that is done; everything else is a problem.
func (e Exchange) Run(ctx context.Context, d *decider.Decider, update bool) (Result, error) {
	result := Result{Exchange: e}
	fail := func(format string, args ...any) (Result, error) {
		result.Problems = append(result.Problems, fmt.Sprintf(format, args...))
		return result, nil
	}
	request, err := readBounded(e.Request)
	if errors.Is(err, fs.ErrNotExist) {
		return fail("there is no %s next to %s", path.Base(filepath.ToSlash(e.Request)), e.Decision)
	} else if err != nil {
		return fail("%v", err)
	}
	a, err := Decide(ctx, d, request)
	if err != nil {
		return result, err
	}
	result.Rule = a.PackageName()
	got, err := JSON(&a)
	if err != nil {
		return fail("the decision cannot be written as JSON: %v", err)
	}
	want, err := readBounded(e.Decision)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fail("%v", err)
	}
	var problems []string
	if !missing {
		if problems, err = Compare(want, got); err != nil {
			problems = []string{fmt.Sprintf("%s is not JSON: %v", e.Decision, err)}
		}
	}
	switch {
	case missing && !update:
		return fail("there is no %s yet: `usher test --update` writes it", e.Decision)
	case update && (missing || len(problems) > 0):
		if err := os.WriteFile(e.Decision, got, 0o644); err != nil {
			return fail("%v", err)
		}
		result.Updated = true
	default:
		result.Problems = problems
	}
	return result, nil
}

// Check answers the request of an exchange in files, base plus a suffix, and lists how the answer differs from the
// expected one, or what is wrong with the files. The error is that of a context that is done.
func Check(ctx context.Context, d *decider.Decider, files fs.FS, base string) (problems []string, err error) {
	request, err := fs.ReadFile(files, base+RequestSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{fmt.Sprintf("there is no %s next to it", path.Base(base+RequestSuffix))}, nil
	} else if err != nil {
		return []string{err.Error()}, nil
	}
	want, err := fs.ReadFile(files, base+DecisionSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{fmt.Sprintf("there is no %s next to it", path.Base(base+DecisionSuffix))}, nil
	} else if err != nil {
		return []string{err.Error()}, nil
	}
	a, err := Decide(ctx, d, request)
	if err != nil {
		return nil, err
	}
	got, err := JSON(&a)
	if err != nil {
		return []string{fmt.Sprintf("the decision cannot be written as JSON: %v", err)}, nil
	}
	if problems, err = Compare(want, got); err != nil {
		return []string{fmt.Sprintf("%s is not JSON: %v", path.Base(base+DecisionSuffix), err)}, nil
	}
	return problems, nil
}

func readBounded(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

// Compare lists where two answers, as [JSON] writes them, differ. The error is that of a text that is not JSON.
func Compare(want, got []byte) ([]string, error) {
	wanted, err := decode(want)
	if err != nil {
		return nil, err
	}
	was, err := decode(got)
	if err != nil {
		return nil, err
	}
	return appendDifferences(nil, "", wanted, was), nil
}

func decode(text []byte) (any, error) {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // two large numbers could be equal as floats
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the document")
	}
	return value, nil
}

// absent stands for a member that is not there.
type absent struct{}

func appendDifferences(found []string, at jsontext.Pointer, want, got any) []string {
	wanted, isObject := want.(map[string]any)
	was, wasObject := got.(map[string]any)
	if isObject && wasObject {
		both := maps.Clone(wanted)
		maps.Copy(both, was)
		for _, name := range slices.Sorted(maps.Keys(both)) {
			found = appendDifferences(found, at.AppendToken(name), member(wanted, name), member(was, name))
		}
		return found
	}
	if reflect.DeepEqual(want, got) {
		return found
	}
	return append(found, fmt.Sprintf("%s: want %s, got %s", at, show(want), show(got)))
}

func member(object map[string]any, name string) any {
	if value, ok := object[name]; ok {
		return value
	}
	return absent{}
}

func show(value any) string {
	if _, ok := value.(absent); ok {
		return "nothing"
	}
	text := dps.AppendValue(nil, value)
	const most = 200 // bytes, enough to recognize a value
	if len(text) > most {
		return strings.ToValidUTF8(string(text[:most]), "") + "…"
	}
	return string(text)
}
