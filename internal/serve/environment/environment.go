// Package environment reads settings from environment variables and collects everything that is wrong with them, so
// that one failed start reports all of it.
package environment

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reader reads variables. A value that is wrong is noted, and its default returned in its place. No method quotes a
// value, since any of them can be a secret.
type Reader struct {
	getenv   func(string) string
	problems []string
}

// NewReader returns a Reader of the variables that getenv returns.
func NewReader(getenv func(string) string) *Reader { return &Reader{getenv: getenv} }

// Err returns an error with a line for each problem, or nil if there is none.
func (r *Reader) Err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.problems, "\n"))
}

// Wrong notes that the variable is wrong. A problem that is noted twice is reported once.
func (r *Reader) Wrong(name, format string, args ...any) {
	problem := name + ": " + fmt.Sprintf(format, args...)
	if !slices.Contains(r.problems, problem) {
		r.problems = append(r.problems, problem)
	}
}

// Get returns a variable without the space around it, or fallback if it is empty.
func (r *Reader) Get(name, fallback string) string {
	if value := strings.TrimSpace(r.getenv(name)); value != "" {
		return value
	}
	return fallback
}

// List returns the elements of a list that is separated by commas, without empty ones.
func (r *Reader) List(name string) []string {
	var parts []string
	for part := range strings.SplitSeq(r.Get(name, ""), ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// OneOf returns a variable that must be one of values.
func (r *Reader) OneOf(name, fallback string, values ...string) string {
	value := r.Get(name, fallback)
	if slices.Contains(values, value) {
		return value
	}
	if len(values) == 2 {
		r.Wrong(name, "neither %s nor %s", values[0], values[1])
	} else {
		r.Wrong(name, "none of %s", strings.Join(values, ", "))
	}
	return fallback
}

// Int returns a whole number between least and most. What is what it counts, such as "number of bytes".
func (r *Reader) Int(name, what string, fallback, least, most int64) int64 {
	text := r.Get(name, "")
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		r.Wrong(name, "not a %s from %d to %d", what, least, most)
		return fallback
	}
	return n
}

// Milliseconds returns a duration that is written as a number of milliseconds.
func (r *Reader) Milliseconds(name string, fallback, least, most time.Duration) time.Duration {
	return time.Duration(r.Int(name, "number of milliseconds", fallback.Milliseconds(), least.Milliseconds(), most.Milliseconds())) * time.Millisecond
}

// Duration returns a duration between least and most, such as 1m30s.
func (r *Reader) Duration(name string, fallback, least, most time.Duration) time.Duration {
	text := r.Get(name, "")
	if text == "" {
		return fallback
	}
	value, err := time.ParseDuration(text)
	if err != nil || value < least || value > most {
		r.Wrong(name, "not a duration from %s to %s, such as %s", short(least), short(most), short(fallback))
		return fallback
	}
	return value
}

// short writes 24h0m0s as 24h.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
