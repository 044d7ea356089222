package decisionlog

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrNotRecord says that a text is JSON but not a decision record.
var ErrNotRecord = errors.New("not a decision record: it has no usherRecord")

// Decode reads exactly one record. It refuses records of an unknown version, and ignores unknown members.
func Decode(text []byte) (Record, error) {
	var record Record
	err := json.Unmarshal(text, &record)
	if err == nil && record.Version == Version {
		return record, nil
	}
	var version struct {
		Version jsontext.Value `json:"usherRecord"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return Record{}, fmt.Errorf("not a decision record: %w", err)
	}
	switch kind := version.Version.Kind(); {
	case len(version.Version) == 0, kind == 'n':
		return Record{}, ErrNotRecord
	case kind == '0' && string(version.Version) != "1":
		return Record{}, fmt.Errorf("a decision record of version %.20s, and this program reads version %d", version.Version, Version)
	}
	return Record{}, fmt.Errorf("not a decision record: %w", err)
}
