package fleet

import (
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
)

// Replayed is the report of a replay.
type Replayed struct {
	*replay.Report
	// IDs are those of the registrations of the report's examples.
	IDs []string
}

// Replay decides all registrations again, as usher replay does.
func (f *Fleet) Replay(ctx context.Context, options replay.Options) (*Replayed, error) {
	f.mu.RLock()
	// None of what these have now changes later, except what was decided.
	rows, chunks, read := f.rows[:len(f.rows):len(f.rows)], f.chunks[:len(f.chunks):len(f.chunks)], append([]Log{}, f.read...)
	f.mu.RUnlock()
	log := requestlog.Log{Name: "fleet", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(&reader{fleet: f, rows: rows, chunks: chunks}), nil
	}}
	report, err := replay.Run(ctx, []requestlog.Log{log}, options)
	if err != nil {
		return nil, err
	}
	result := &Replayed{Report: report}
	place := func(text string) (id, place string) {
		line, err := strconv.Atoi(text[strings.LastIndexByte(text, ':')+1:])
		if err != nil || line < 1 || line > len(rows) {
			return "", text
		}
		return strconv.Itoa(line - 1), rows[line-1].place
	}
	for i := range report.Examples {
		id, at := place(report.Examples[i].Place)
		report.Examples[i].Place = at
		result.IDs = append(result.IDs, id)
	}
	for _, problems := range [][]replay.Problem{report.MalformedFirst, report.LackingFirst, report.Unread} {
		for i := range problems {
			_, problems[i].Place = place(problems[i].Place)
		}
	}
	report.Logs = nil
	for _, one := range read {
		report.Logs = append(report.Logs, replay.LogSummary{Name: one.Name, Lines: int64(one.Registrations)})
	}
	return result, nil
}

// reader reads the registrations, one on each line.
type reader struct {
	fleet  *Fleet
	rows   []row
	chunks []chunk
	unread []byte
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.unread) == 0 {
		if len(r.chunks) == 0 {
			return 0, io.EOF
		}
		next := r.chunks[0]
		texts, err := r.fleet.decoder.DecodeAll(next.packed, nil)
		if err != nil {
			return 0, err
		}
		for i := next.first; i < next.end; i++ {
			r.unread = append(append(r.unread, onLine(texts[r.rows[i].start:r.rows[i].end])...), '\n')
		}
		r.chunks = r.chunks[1:]
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}
