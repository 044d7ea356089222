package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// describeRules writes which rule serves which enrollment, and a request to try. It gets the script root, the rules
// folder that the handler uses, and the URL of the host. A script root without rules belongs to another Function App.
func describeRules(ctx context.Context, w io.Writer, root, folder, url string) error {
	folder = cmp.Or(folder, "rules")
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(root, folder)
	}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The handler runs, so the rules load. They are loaded again because only the handler's process has them.
	rules, err := decider.LoadRules(ctx, os.DirFS(folder), decider.RulesOptions{Name: folder, Lazy: true})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nRules in %s, and the enrollments they serve:\n", folder)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range rules.All() {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", b.Package, serves(b), b.Title)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	request, err := findShowcase(ctx, rules, filepath.Join(root, "examples", "requests"))
	if err != nil || request == "" {
		return err
	}
	fmt.Fprintf(w, "\nTry it:\n  curl -d @%s %s/api/allocate\n\n", request, url)
	return nil
}

func serves(b *ruleset.Rule) string {
	if b.IsDefault() {
		return "all others"
	}
	var parts []string
	if len(b.Groups) > 0 {
		parts = append(parts, "groups "+strings.Join(b.Groups, ", "))
	}
	if len(b.Individuals) > 0 {
		parts = append(parts, "individual enrollments "+strings.Join(b.Individuals, ", "))
	}
	return strings.Join(parts, "; ")
}

// findShowcase returns the file of a request that these rules answer with a hub, a twin and a payload, "" if there is
// none. It prefers requests that DPS really sent.
func findShowcase(ctx context.Context, rules *decider.Rules, folder string) (string, error) {
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		return "", err
	}
	for _, pattern := range []string{"req-verbatim-*.json", "*.json"} {
		paths, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			return "", err
		}
		for _, path := range paths {
			body, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			if _, a := allocator.AllocateJSON(ctx, body); a.Response.InitialTwin != nil && a.Response.Payload != nil {
				return path, nil
			}
		}
	}
	return "", nil
}
