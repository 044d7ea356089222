// Package usher is the root of the module github.com/usher-dps/usher, the webhook behind custom allocation in Azure IoT
// Hub Device Provisioning Service (DPS). It contains no code. A tour of what does:
//
//   - dps has DPS's words and wire types, and what DPS does with each answer.
//   - answer has what the webhook answers, in one type, and the table from each result to its HTTP status.
//   - allocation decides: it loads rules and answers AllocationRequests. A Go service can embed it.
//   - handler serves an allocation.Allocator over HTTP.
//   - function-app is the webhook as a program, for Azure Functions and elsewhere.
//   - cmd/usher is the tool for rule authors and operators.
//   - rules and schemas hold the Rego rules and the JSON Schemas.
//   - internal/decide is what a decision needs: rules, schemas, the decider.
//   - internal/serve is what the webhook needs around a decision: rules that arrive, records, telemetry, shadow rules.
//   - internal/author is the work of the tool: check, test, explain, verify, replay, bench.
//   - internal/operate deploys: enrollments, doctor, the package for Azure Functions.
//   - internal/standin has stand-ins for DPS and for the Functions host. They share no code with the rest.
package usher
