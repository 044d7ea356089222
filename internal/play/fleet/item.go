package fleet

import (
	"bytes"
	"context"
	"errors"
	"strconv"

	"github.com/usher-dps/usher/internal/author/requestlog"
)

// ErrUnknown is the error of Open for an ID that no registration has.
var ErrUnknown = errors.New("there is no such registration: list the devices again")

// Open returns a registration as the log has it.
func (f *Fleet) Open(ctx context.Context, id string) (Device, requestlog.Item, error) {
	i, err := strconv.Atoi(id)
	f.mu.RLock()
	if err != nil || i < 0 || i >= len(f.rows) {
		f.mu.RUnlock()
		return Device{}, requestlog.Item{}, ErrUnknown
	}
	device, r := f.device(i), f.rows[i]
	packed := f.chunks[r.chunk].packed
	f.mu.RUnlock()
	texts, err := f.decoder.DecodeAll(packed, nil)
	if err != nil {
		return Device{}, requestlog.Item{}, err
	}
	item, err := itemOf(ctx, device.Place, texts[r.start:r.end])
	return device, item, err
}

// itemOf reads the text of a registration again.
func itemOf(ctx context.Context, name string, text []byte) (requestlog.Item, error) {
	return requestlog.Choose(ctx, requestlog.Stream(name, bytes.NewReader(onLine(text))), 1)
}

// onLine returns a JSON text on a line of its own: line breaks are only between its tokens.
func onLine(text []byte) []byte {
	if !bytes.ContainsAny(text, "\r\n") {
		return text
	}
	line := bytes.Clone(text)
	for i, c := range line {
		if c == '\r' || c == '\n' {
			line[i] = ' '
		}
	}
	return line
}
