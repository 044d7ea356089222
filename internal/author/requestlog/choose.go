package requestlog

import (
	"bytes"
	"context"
	"fmt"
)

// SeveralError is the error of [Choose] if the caller has to choose one of several requests.
type SeveralError struct{ Requests int }

func (e *SeveralError) Error() string {
	if e.Requests == 1 {
		return "it holds 1 request"
	}
	return fmt.Sprintf("it holds %d requests", e.Requests)
}

// Choose returns the nth request of a log, counted from 1, or with n 0 its only one. Lines of other logs do not count,
// unless there is nothing else. What is wrong with the request that was chosen is in its Err.
func Choose(ctx context.Context, log Log, n int) (Item, error) {
	var chosen *Item
	requests, others, calls := 0, 0, 0
	keep := func(item Item) {
		item.Text, item.Body = bytes.Clone(item.Text), bytes.Clone(item.Body)
		chosen = &item
	}
	for item, err := range Items(ctx, log) {
		switch {
		case err != nil:
			return Item{}, err
		case item.Kind == OtherCall:
			calls++
			continue
		case item.Kind == Other:
			if others++; requests == 0 && chosen == nil {
				keep(item)
			}
			continue
		}
		if requests++; requests == max(n, 1) {
			keep(item)
			if n > 0 {
				return *chosen, nil
			}
		}
	}
	switch {
	case requests == 1 && n == 0, requests == 0 && others > 0 && n < 2:
		return *chosen, nil
	case requests == 0 && calls > 0:
		return Item{}, fmt.Errorf("%s is a journal of usher dps, and holds no first call of a webhook", log.Name)
	case requests == 0 && others == 0:
		return Item{}, fmt.Errorf("%s is empty", log.Name)
	case n == 0:
		return Item{}, &SeveralError{requests}
	}
	return Item{}, fmt.Errorf("%s: there is no number %d: %w", log.Name, n, &SeveralError{requests})
}
