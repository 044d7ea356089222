package lookups

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// ErrUseFixture is what [Sources] return for a look-up that the fixture next to the rules is to answer.
var ErrUseFixture = errors.New("the fixture answers")

// Fixtures answer look-ups from the files that come with the rules, by name of the look-up. They stand for the sources
// while rules are written and tested.
type Fixtures map[string]*Table

// LoadFixtures reads the fixtures of the declarations. A file that does not exist is left out: rules are served without
// fixtures. The folder is put before the names of files in places.
func LoadFixtures(fsys fs.FS, folder string, declarations []*Declaration) (Fixtures, []Problem) {
	fixtures := Fixtures{}
	var problems []Problem
	for _, d := range declarations {
		if d.Fixture == "" {
			continue
		}
		table, err := LoadFixture(fsys, d)
		switch wrong, ok := errors.AsType[*TableError](err); {
		case errors.Is(err, fs.ErrNotExist):
		case ok:
			problems = append(problems, wrong.problems(folder)...)
		case err != nil:
			problems = append(problems, Problem{Place: d.Place, Message: err.Error()})
		default:
			for i := range table.undeclared {
				table.undeclared[i].Place = path.Join(folder, table.undeclared[i].Place)
			}
			fixtures[d.Name] = table
		}
	}
	return fixtures, problems
}

// Digest changes with the rows.
func (f Fixtures) Digest() string {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(hash, "%s %s\n", name, f[name].version)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}

// Find implements [Sources].
func (f Fixtures) Find(ctx context.Context, d *Declaration, key string) (Found, error) {
	table := f[d.Name]
	if table == nil {
		if d.Fixture != "" {
			return Found{}, fmt.Errorf("there is no source, and no fixture %s", d.Fixture)
		}
		return Found{}, fmt.Errorf("there is no source, and no fixture (declare one at %s)", d.Place)
	}
	a, err := table.Find(ctx, key)
	return Found{Answer: a, Source: "fixture"}, err
}
