package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
)

// tableFiles are the files of --lookup, by the name of the look-up.
type tableFiles map[string]string

func (f *tableFiles) String() string { return "" }

func (f *tableFiles) Type() string { return "NAME=FILE" }

func (f *tableFiles) Set(text string) error {
	name, file, _ := strings.Cut(text, "=")
	switch {
	case name == "" || file == "":
		return errors.New("write a look-up and the file with its rows, such as inventory=devices.csv")
	case (*f)[name] != "":
		return fmt.Errorf("the look-up %s is given twice", name)
	case !lookups.IsTable(file):
		return fmt.Errorf("%s is not the name of a table: it ends in .csv, .ndjson, .jsonl, .yaml or .yml", file)
	}
	if *f == nil {
		*f = tableFiles{}
	}
	(*f)[name] = file
	return nil
}

// load reads the tables as the rules declare them.
func (f tableFiles) load(rules *decider.Rules) (replay.Tables, error) {
	tables := replay.Tables{}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		d, err := declared(rules, name)
		if err != nil {
			return nil, err
		}
		rows, err := loadTable(f[name], d)
		if err != nil {
			return nil, err
		}
		tables[name] = replay.Table{File: f[name], Rows: rows}
	}
	return tables, nil
}

func loadTable(path string, d *lookups.Declaration) (*lookups.Table, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	table, err := lookups.LoadTable(file, path, d)
	if err != nil {
		return nil, err
	}
	return table, lookups.Misspelt(table.Undeclared(), d)
}
