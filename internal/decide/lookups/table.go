package lookups

import (
	"context"
	"io/fs"

	"github.com/usher-dps/usher/lookup"
)

type Table struct{}

type TableError struct{ Problems []Problem }

func (e *TableError) Error() string { return "" }

func (e *TableError) problems(folder string) []Problem { return e.Problems }

func LoadFixture(fsys fs.FS, d *Declaration) (*Table, error) { return &Table{}, nil }

func (t *Table) Find(ctx context.Context, key string) (lookup.Answer, error) {
	return lookup.Answer{}, nil
}
