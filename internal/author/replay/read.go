package replay

import (
	"context"
	"io"
)

// Read returns what the log holds, uncompressed. Reading ends when ctx does.
func (l Log) Read(ctx context.Context) (io.ReadCloser, error) {
	o, err := l.open(ctx, nil)
	if err != nil {
		return nil, err
	}
	return closer{o, o.close}, nil
}

type closer struct {
	io.Reader
	close func()
}

func (c closer) Close() error {
	c.close()
	return nil
}
