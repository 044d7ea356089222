// Package allocation decides which IoT hub a device goes to: it checks the
// request against the JSON Schema, asks the rule of the enrollment, and holds the
// rule's verdict to the constraints that DPS and IoT Hub set.
//
// Every door of Usher decides through an [Allocator]: the webhook and the tools
// around it differ only in where a request comes from and where the decision
// goes. The package speaks no HTTP and writes no log.
package allocation
