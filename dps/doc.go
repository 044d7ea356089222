// Package dps has the types of custom allocation in Azure IoT Hub Device Provisioning Service (DPS): the
// AllocationRequest that it posts to a webhook, the AllocationResponse that it obeys, the limits of IoT Hub for a
// device twin, and what DPS does with each answer.
//
// It decides nothing, and validates nothing beyond JSON itself: the JSON Schema in schemas validates requests, and
// package allocation decides what may be sent.
//
// DPS's contract is public only in part. docs/dps-behaviours.md lists each behaviour that Usher relies on, and how
// certain it is.
package dps
