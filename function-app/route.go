package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// readRoutes returns the paths under which the Functions host passes calls on: for each function with an HTTP trigger, the
// route prefix of host.json and the function's route, which is the name of its folder by default. root is the folder of
// host.json; the result is empty if there is none.
//
// Source: https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger
func readRoutes(root fs.FS) ([]string, error) {
	var host struct {
		Extensions struct {
			HTTP struct {
				RoutePrefix *string
			}
		}
	}
	if err := readJSON(root, "host.json", &host); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	prefix := "api"
	if given := host.Extensions.HTTP.RoutePrefix; given != nil {
		prefix = *given
	}
	files, err := fs.Glob(root, "*/function.json")
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, file := range files {
		var function struct {
			Bindings []struct {
				Type    string
				Route   *string
				Methods []string
			}
		}
		if err := readJSON(root, file, &function); err != nil {
			return nil, err
		}
		for _, binding := range function.Bindings {
			takesPost := len(binding.Methods) == 0 || slices.ContainsFunc(binding.Methods, func(m string) bool { return strings.EqualFold(m, "post") })
			if !strings.EqualFold(binding.Type, "httpTrigger") || !takesPost {
				continue
			}
			route := path.Dir(file)
			if binding.Route != nil && *binding.Route != "" {
				route = *binding.Route
			}
			whole := path.Join("/", prefix, route)
			if strings.ContainsAny(whole, "{}") {
				return nil, fmt.Errorf("%s: the route %s has parameters, but the webhook has one path: give it a route such as allocate", file, whole)
			}
			routes = append(routes, whole)
		}
	}
	return routes, nil
}

func readJSON(root fs.FS, name string, into any) error {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s, which says where the webhook is, cannot be read as JSON: %w", name, err)
	}
	return nil
}
