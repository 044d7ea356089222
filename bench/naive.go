package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/internal/decide/rendezvous"
	"github.com/usher-dps/usher/schemas"
)

// naive decides with the same libraries, each used in the first way that its documentation shows: the floor to which a
// decision is compared.
type naive struct {
	schema  *jsonschema.Schema
	queries map[string]rego.PreparedEvalQuery
}

func newNaive(rules string) (*naive, error) {
	schema, err := jsonschema.CompileString("request.json", string(schemas.AllocationRequest()))
	if err != nil {
		return nil, err
	}
	n := &naive{schema: schema, queries: map[string]rego.PreparedEvalQuery{}}
	for _, name := range workloads {
		group, packageName := "bench-"+name, name
		if name == "tutorial" {
			group, packageName = "contoso-custom-allocated-devices", "breakroom"
		}
		n.queries[group], err = rego.New(
			rego.Query("data.allocation."+packageName),
			rego.Load([]string{rules}, func(file string, info os.FileInfo, _ int) bool {
				return strings.HasSuffix(file, "_test.rego") || info.Mode().IsRegular() && path.Ext(file) == ".json" && path.Base(file) != "data.json"
			}),
			rego.Function1(&rego.Function{Name: "usher.certificate", Decl: types.NewFunction(types.Args(types.S), types.A)}, naiveCertificate),
			rego.Function1(&rego.Function{Name: "usher.linked", Decl: types.NewFunction(types.Args(types.A), types.NewObject(nil, types.NewDynamicProperty(types.S, types.S)))}, naiveLinked),
			rego.Function2(&rego.Function{Name: "usher.matching", Decl: types.NewFunction(types.Args(types.S, types.A), types.NewSet(types.S))}, naiveMatching),
			rego.Function3(&rego.Function{Name: "usher.choose", Decl: types.NewFunction(types.Args(types.S, types.A, types.A), types.S)}, naiveChoose),
			rego.Function1(&rego.Function{Name: "usher.hub_name", Decl: types.NewFunction(types.Args(types.S), types.S)}, naiveHubName),
			rego.Function1(&rego.Function{Name: "usher.fraction", Decl: types.NewFunction(types.Args(types.S), types.N)}, notUsed),
			rego.Function1(&rego.Function{Name: "lookup.hub", Decl: types.NewFunction(types.Args(types.S), types.A)}, notUsed),
			rego.Function1(&rego.Function{Name: "lookup.inventory", Decl: types.NewFunction(types.Args(types.S), types.A)}, notUsed),
		).PrepareForEval(context.Background())
		if err != nil {
			return nil, err
		}
	}
	return n, nil
}

// notUsed is a function of rules that the benchmark loads and does not ask.
func notUsed(rego.BuiltinContext, *ast.Term) (*ast.Term, error) {
	return nil, errors.New("not used here")
}

func naiveHubName(_ rego.BuiltinContext, host *ast.Term) (*ast.Term, error) {
	return ast.StringTerm(strings.Replace(strings.ToLower(string(host.Value.(ast.String))), ".device.", ".", 1)), nil
}

func naiveCertificate(_ rego.BuiltinContext, text *ast.Term) (*ast.Term, error) {
	der, err := base64.StdEncoding.DecodeString(string(text.Value.(ast.String)))
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	value, err := ast.InterfaceToValue(map[string]any{
		"subject": map[string]any{
			"organization":       certificate.Subject.Organization,
			"organizationalUnit": certificate.Subject.OrganizationalUnit,
		},
		"serialNumber": fmt.Sprintf("%X", certificate.SerialNumber),
	})
	return ast.NewTerm(value), err
}

func naiveLinked(_ rego.BuiltinContext, linked *ast.Term) (*ast.Term, error) {
	var hubs []string
	if err := ast.As(linked.Value, &hubs); err != nil {
		return nil, err
	}
	byName := map[string]any{}
	for _, hub := range hubs {
		byName[strings.ToLower(hub)] = hub
		byName[strings.ToLower(strings.Split(hub, ".")[0])] = hub
	}
	value, err := ast.InterfaceToValue(byName)
	return ast.NewTerm(value), err
}

func naiveMatching(_ rego.BuiltinContext, pattern, linked *ast.Term) (*ast.Term, error) {
	var hubs []string
	if err := ast.As(linked.Value, &hubs); err != nil {
		return nil, err
	}
	found := ast.NewSet()
	for _, hub := range hubs {
		ok, err := path.Match(strings.ToLower(string(pattern.Value.(ast.String))), strings.ToLower(hub))
		if err != nil {
			return nil, err
		}
		if ok {
			found.Add(ast.StringTerm(hub))
		}
	}
	return ast.NewTerm(found), nil
}

func naiveChoose(_ rego.BuiltinContext, key, names, linked *ast.Term) (*ast.Term, error) {
	var hubs []string
	if err := ast.As(linked.Value, &hubs); err != nil {
		return nil, err
	}
	value, err := ast.JSON(names.Value)
	if err != nil {
		return nil, err
	}
	weights := map[string]float64{}
	switch v := value.(type) {
	case map[string]any:
		for name, weight := range v {
			if weights[name], err = weight.(json.Number).Float64(); err != nil {
				return nil, err
			}
		}
	case []any:
		for _, name := range v {
			weights[name.(string)] = 1
		}
	}
	var candidates []rendezvous.Candidate
	for _, hub := range hubs {
		for name, weight := range weights {
			glob, err := path.Match(strings.ToLower(name), strings.ToLower(hub))
			if err != nil {
				return nil, err
			}
			if glob || strings.EqualFold(name, strings.Split(hub, ".")[0]) {
				candidates = append(candidates, rendezvous.Candidate{Name: hub, Weight: weight})
			}
		}
	}
	name, ok := rendezvous.Choose(string(key.Value.(ast.String)), candidates)
	if !ok {
		return nil, nil
	}
	return ast.StringTerm(name), nil
}

func (n *naive) decide(ctx context.Context, body []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var request map[string]any
	if err := decoder.Decode(&request); err != nil {
		return nil, err
	}
	if err := n.schema.Validate(request); err != nil {
		return nil, err
	}
	group := request["enrollmentGroup"].(map[string]any)["enrollmentGroupId"].(string)
	results, err := n.queries[group].Eval(ctx, rego.EvalInput(request))
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, errors.New("undefined")
	}
	verdict := results[0].Expressions[0].Value.(map[string]any)
	if !slices.Contains(request["linkedHubs"].([]any), verdict["hub"]) {
		return nil, errors.New("no linked hub")
	}
	response := map[string]any{"iotHubHostName": verdict["hub"]}
	if twin, ok := verdict["initial_twin"]; ok {
		response["initialTwin"] = twin
	}
	if payload, ok := verdict["payload"]; ok {
		response["payload"] = payload
	}
	return json.Marshal(response)
}
