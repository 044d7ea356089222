package allocation_test

import (
	"context"
	"fmt"
	"testing/fstest"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/lookup"
)

const body = `{
  "enrollmentGroup": {"enrollmentGroupId": "line-a"},
  "deviceRuntimeContext": {"registrationId": "press-0001"},
  "linkedHubs": ["contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"]
}`

// files stands for a folder of rules, such as os.DirFS("rules").
var files = fstest.MapFS{"line.rego": {Data: []byte(`# METADATA
# custom:
#   enrollment_groups: [line-*]
package allocation.line

hub := input.linkedHubs[0]

reject contains "not a press" if not startswith(input.deviceRuntimeContext.registrationId, "press-")
`)}}

func ExampleLoadRules() {
	_, err := allocation.LoadRules(context.Background(), fstest.MapFS{"line.rego": {Data: []byte(
		"package allocation.default\n\nhub := input.linkedHub[0]\n")}}, allocation.RulesOptions{Name: "rules"})
	fmt.Println(err)
	// Output: rules/line.rego:3: rego_type_error: undefined ref: input.linkedHub[0]; input.linkedHub[0]; have: "linkedHub"; want (one of): ["deviceRuntimeContext" "enrollmentGroup" "individualEnrollment" "linkedHubs" "usher"]
}

func ExampleRules_Digest() {
	rules, err := allocation.LoadRules(context.Background(), files, allocation.RulesOptions{})
	fmt.Println(rules.Digest()[:len("sha256:")], err)
	// Output: sha256: <nil>
}

func ExampleNew() {
	rules, err := allocation.LoadRules(context.Background(), files, allocation.RulesOptions{Name: "rules"})
	if err != nil {
		panic(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		panic(err)
	}
	_, a := allocator.AllocateJSON(context.Background(), []byte(body))
	fmt.Println(a.Summary())
	fmt.Println(a.Effect().Message)
	// Output:
	// assigned contoso-eu.azure-devices.net
	// DPS assigns the device to contoso-eu.azure-devices.net
}

func ExampleAllocator_Allocate() {
	rules, err := allocation.LoadRules(context.Background(), files, allocation.RulesOptions{Name: "rules"})
	if err != nil {
		panic(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		panic(err)
	}
	request, err := dps.ParseAllocationRequest([]byte(body))
	if err != nil {
		panic(err)
	}
	a := allocator.Allocate(context.Background(), request)
	fmt.Printf("%d %s, by %s\n", a.Status(), a.Result, a.PackageName())
	// Output: 200 assigned, by allocation.line
}

func ExampleAllocator_AllocateJSON() {
	allocator, err := allocation.New(allocation.Options{})
	if err != nil {
		panic(err)
	}
	_, a := allocator.AllocateJSON(context.Background(), []byte(`{"linkedHubs": [`))
	fmt.Println(a.Status(), a.Result)
	// Output: 400 malformed
}

func ExampleAllocator_Use() {
	allocator, err := allocation.New(allocation.Options{})
	if err != nil {
		panic(err)
	}
	fmt.Println(allocator.Ready())
	rules, err := allocation.LoadRules(context.Background(), files, allocation.RulesOptions{})
	if err != nil {
		panic(err)
	}
	allocator.Use(rules)
	digest, fault := allocator.Ready()
	fmt.Println(digest == rules.Digest(), fault == "")
	// Output:
	//  not_ready
	// true true
}

func ExampleAllocator_Ready() {
	allocator, err := allocation.New(allocation.Options{})
	if err != nil {
		panic(err)
	}
	_, fault := allocator.Ready()
	fmt.Println(fault, fault.Meaning().Status)
	// Output: not_ready 503
}

// owners stands for a database of the service.
type owners map[string]string

func (o owners) Find(_ context.Context, key string) (lookup.Answer, error) {
	hub, known := o[key]
	if !known {
		return lookup.Answer{}, nil // no row, which is not an error
	}
	return lookup.Answer{Row: map[string]any{"hub": hub}}, nil
}

func ExampleOptions() {
	rules, err := allocation.LoadRules(context.Background(), fstest.MapFS{
		"lookups.yaml": {Data: []byte("owner: {row: {type: object, properties: {hub: {type: string}}}}")},
		"owner.rego": {Data: []byte(`package allocation.default

owner := lookup.owner(input.deviceRuntimeContext.registrationId)

hub := owner.hub

reject contains "no one owns the device" if not owner
`)}}, allocation.RulesOptions{Name: "rules"})
	if err != nil {
		panic(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules, Lookups: map[string]lookup.Source{
		"owner": owners{"press-0001": "contoso-us.azure-devices.net"},
	}})
	if err != nil {
		panic(err)
	}
	_, a := allocator.AllocateJSON(context.Background(), []byte(body))
	fmt.Println(a.Summary())
	fmt.Println(a.Lookups[0].Builtin, a.Lookups[0].Arguments, a.Lookups[0].Result)
	// Output:
	// assigned contoso-us.azure-devices.net
	// lookup.owner [press-0001] map[hub:contoso-us.azure-devices.net]
}
