// Package allocation decides which IoT hub a device goes to: it checks the request against the JSON Schema, evaluates
// the rule of the enrollment, and holds the rule's verdict to the constraints that DPS and IoT Hub set.
//
// Load rules by [LoadRules] and decide by an [Allocator], which package handler serves over HTTP.
package allocation
