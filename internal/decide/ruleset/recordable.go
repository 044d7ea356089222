package ruleset

import (
	"fmt"
	"slices"
	"strings"
)

// Roots of the paths in custom.recordable: objects with contents that only operators, rule authors and devices know.
const (
	RecordablePayload      = "payload"                   // what the device sent
	RecordableTwin         = "initialTwin"               // of the enrollment
	RecordableInformation  = "optionalDeviceInformation" // of an individual enrollment
	RecordableAnswerTwin   = "answer.initialTwin"        // what the rule says in initial_twin
	RecordableAnswerResult = "answer.payload"            // what the rule says in payload
)

// RecordableRoots are the possible starts of the paths in custom.recordable.
func RecordableRoots() []string {
	return []string{RecordablePayload, RecordableTwin, RecordableInformation, RecordableAnswerTwin, RecordableAnswerResult}
}

// readRecordable reads custom.recordable: a list of paths with dots, such as payload.model.
func readRecordable(value any, place string) (paths [][]string, problems []Problem) {
	fix := "paths start with " + strings.Join(RecordableRoots(), ", ") + ", and name what is below with dots, such as payload.model"
	texts, mistake := stringList(value)
	if mistake != "" {
		return nil, []Problem{{Place: place, Message: "custom." + customRecordable + " is not a list of paths: " + mistake, Fix: fix}}
	}
	for _, text := range texts {
		wrong := func(format string, args ...any) {
			problems = append(problems, Problem{Place: place, Fix: fix,
				Message: fmt.Sprintf("custom.%s: %q ", customRecordable, text) + fmt.Sprintf(format, args...)})
		}
		root, below := cutRoot(text)
		switch {
		case root == "":
			wrong("is not a path to something that can be recorded")
			continue
		case slices.Contains(below, ""):
			wrong("has two dots in a row or one at the end")
			continue
		}
		if isTwin := root == RecordableTwin || root == RecordableAnswerTwin; isTwin && len(below) > 0 {
			inTwin := below[0] == "tags" || below[0] == "properties" && (len(below) == 1 || below[1] == "desired")
			if !inTwin {
				wrong("is not in a twin, which has tags and properties.desired")
				continue
			}
		}
		path := append([]string{root}, below...)
		if slices.ContainsFunc(paths, func(other []string) bool { return slices.Equal(other, path) }) {
			wrong("is listed twice")
			continue
		}
		paths = append(paths, path)
	}
	return paths, problems
}

// cutRoot splits a path into its root, empty if it has none, and what is below it.
func cutRoot(path string) (root string, below []string) {
	for _, root := range RecordableRoots() {
		rest, found := strings.CutPrefix(path, root)
		switch {
		case found && rest == "":
			return root, nil
		case found && rest[0] == '.':
			return root, strings.Split(rest[1:], ".")
		}
	}
	return "", nil
}
