package plan

import "fmt"

// Quantity is what a limit counts.
type Quantity string

// What is bounded.
const (
	Steps Quantity = "steps"
	Bytes Quantity = "bytes"
)

// LimitError is why an evaluation ended before its time: it did or made too much.
type LimitError struct {
	What  Quantity
	Limit int64
	Place string // file:line
}

func (e *LimitError) Error() string {
	if e.What == Bytes {
		return fmt.Sprintf("the rule made values of more than %d MiB", e.Limit>>20)
	}
	return fmt.Sprintf("the rule took more than %d steps", e.Limit)
}
