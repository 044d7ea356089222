// Package sink contains the destinations of decision records. [Lines] and [File] are local, and have a record when
// Write returns. [Blob] and [OTLP] are remote: they get batches from a spool. [Records] connects all of them to the
// webhook.
package sink

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Kind is a kind of sink.
type Kind string

// Kinds of sinks.
const (
	KindStdout Kind = "stdout"
	KindFile   Kind = "file"
	KindBlob   Kind = "blob"
	KindOTLP   Kind = "otlp"
)

// Remote reports whether records go through a spool.
func (k Kind) Remote() bool { return k == KindBlob || k == KindOTLP }

// Spec says where records go.
type Spec struct {
	Kind Kind
	// Target is the path of a file, or the URL of a container; else empty.
	Target string
}

// Forms describes what Parse reads.
const Forms = "stdout, file:/path, blob:https://ACCOUNT.blob.core.windows.net/CONTAINER, otlp or none, separated by commas"

// Parse reads specs such as "stdout,file:/var/log/usher/records.ndjson". "none" means no sinks. The error names
// everything that is wrong, and no query of a URL, which can be a secret.
func Parse(text string) ([]Spec, error) {
	var specs []Spec
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	none := false
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		kind, target, hasTarget := strings.Cut(part, ":")
		spec := Spec{Kind: Kind(kind), Target: target}
		switch {
		case part == "":
			continue
		case part == "none":
			none = true
			continue
		case (spec.Kind == KindStdout || spec.Kind == KindOTLP) && !hasTarget:
		case spec.Kind == KindOTLP:
			wrong("otlp takes no address here: set OTEL_EXPORTER_OTLP_ENDPOINT")
		case spec.Kind == KindFile && target != "":
			spec.Target = filepath.Clean(target)
		case spec.Kind == KindFile:
			wrong("file needs a path, as in file:/var/log/usher/records.ndjson")
		case spec.Kind == KindBlob:
			if err := checkContainer(target); err != nil {
				problems = append(problems, err)
			}
			spec.Target = strings.TrimSuffix(target, "/")
		default:
			wrong("unknown sink %.40q: use %s", withoutQuery(part), Forms)
		}
		if slices.Contains(specs, spec) {
			wrong("%s is given twice", withoutQuery(part))
		}
		specs = append(specs, spec)
	}
	switch {
	case none && len(specs) > 0:
		wrong("none cannot be combined with other sinks")
	case !none && len(specs) == 0 && len(problems) == 0:
		wrong("empty: use %s", Forms)
	}
	return specs, errors.Join(problems...)
}

func withoutQuery(text string) string {
	before, _, _ := strings.Cut(text, "?")
	return before
}

// checkContainer checks the URL of a container, perhaps with a folder in it.
func checkContainer(target string) error {
	const example = "https://ACCOUNT.blob.core.windows.net/CONTAINER"
	u, err := url.Parse(target)
	switch {
	case err != nil || u.Hostname() == "":
		return errors.New("blob needs the URL of a container, as in blob:" + example)
	case u.User != nil || u.RawQuery != "":
		return errors.New("blob takes no key and no shared access signature in the URL: give the app's identity the role " +
			"Storage Blob Data Contributor on the container, and write blob:" + example)
	case u.Scheme != "https":
		return fmt.Errorf("blob needs https, not %s://%s", u.Scheme, u.Host)
	case strings.Trim(u.Path, "/") == "":
		return fmt.Errorf("blob names no container: write blob:https://%s/CONTAINER", u.Host)
	}
	return nil
}

// Lines writes records to standard output and the like, each on a line.
type Lines struct {
	name string
	mu   sync.Mutex
	w    io.Writer
	line []byte
}

// NewLines returns a sink with a name for logs and metrics.
func NewLines(name string, w io.Writer) *Lines { return &Lines{name: name, w: w} }

// Name returns the name given to NewLines.
func (l *Lines) Name() string { return l.name }

// Write writes a line in one call, so that no other line comes in between, unless others write lines in several calls.
func (l *Lines) Write(record []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = append(append(l.line[:0], record...), '\n')
	n, err := l.w.Write(l.line)
	if err == nil && n < len(l.line) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write to %s: %w", l.name, err)
	}
	return nil
}
