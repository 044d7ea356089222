package handler_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing/fstest"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
)

func Example() {
	rules, err := allocation.LoadRules(context.Background(), fstest.MapFS{"default.rego": {Data: []byte(
		"package allocation.default\n\nhub := input.linkedHubs[0]\n")}}, allocation.RulesOptions{Name: "rules"})
	if err != nil {
		panic(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		panic(err)
	}
	observe := func(_ context.Context, call *answer.Call) { fmt.Println("observed:", call.Answer.Summary()) }
	server := httptest.NewServer(handler.New(handler.Options{Allocator: allocator, Observers: []answer.Observer{observe}}))
	defer server.Close()

	response, err := http.Post(server.URL+handler.AllocatePath, "application/json", strings.NewReader(`{
		"enrollmentGroup": {"enrollmentGroupId": "line-a"},
		"deviceRuntimeContext": {"registrationId": "press-0001"},
		"linkedHubs": ["contoso-eu.azure-devices.net"]}`))
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	fmt.Println(response.StatusCode, string(body), err)
	// Output:
	// observed: assigned contoso-eu.azure-devices.net
	// 200 {"iotHubHostName":"contoso-eu.azure-devices.net"} <nil>
}
