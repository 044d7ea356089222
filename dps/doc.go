// Package dps holds the words of Azure IoT Hub Device Provisioning Service
// (DPS) about custom allocation: the AllocationRequest that it posts to a
// webhook, the AllocationResponse that it obeys, the limits that IoT Hub puts on
// a device twin, and what DPS does with each answer.
//
// It decides nothing and validates nothing beyond JSON itself: whether a request
// is valid is the business of the JSON Schema in schemas, and whether a decision
// may be sent is that of package allocation.
//
// DPS's contract is public only in part. docs/dps-behaviours.md lists each
// behaviour that is relied on here, with how sure of it one can be.
package dps
