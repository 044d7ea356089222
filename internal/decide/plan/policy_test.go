package plan_test

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
)

// registered is whether the target was there when the process started. A second registration of a name panics.
var registered = func() (yes bool) {
	defer func() { yes = recover() != nil }()
	rego.RegisterPlugin("rego.target.usher", nil)
	return false
}()

// Package rego reads its targets without a lock: one that is added when rules are first planned races with tests of rules
// that topdown runs meanwhile.
func TestTargetIsThereFromTheStart(t *testing.T) {
	if !registered {
		t.Error("the target was not registered when package plan was initialized")
	}
}
