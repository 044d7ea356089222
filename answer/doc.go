// Package answer holds what the webhook answers to an AllocationRequest: the [Answer], the table from a [Result] to
// what it means over HTTP and for DPS, the [Call] that observers see, the differences between two answers, and the
// words for an answer in a log and on a terminal.
//
// Everything that decides returns an Answer, and everything that shows, records or compares one takes it.
package answer
