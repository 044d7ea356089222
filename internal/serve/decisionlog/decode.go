package decisionlog

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNotRecord says that a text is JSON but not a decision record.
var ErrNotRecord = errors.New("not a decision record: it has no usherRecord")

// Decode reads exactly one record. It refuses records of an unknown version, and ignores unknown members.
func Decode(text []byte) (Record, error) {
	var version struct {
		Version *json.Number `json:"usherRecord"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return Record{}, fmt.Errorf("not a decision record: %w", err)
	}
	switch {
	case version.Version == nil:
		return Record{}, ErrNotRecord
	case *version.Version != "1":
		return Record{}, fmt.Errorf("a decision record of version %.20s, and this program reads version %d", *version.Version, Version)
	}
	var record Record
	if err := json.Unmarshal(text, &record); err != nil {
		return Record{}, fmt.Errorf("not a decision record: %w", err)
	}
	return record, nil
}
