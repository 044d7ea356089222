package ruleset_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// fleet has n rules that refer to packages in every way that there is: libraries and what is behind them, packages above
// and below, data, look-ups, and references that are known only when they are evaluated.
func fleet(n int) fstest.MapFS {
	fsys := folder(
		"lib/names.rego", "package lib.names\n\nsuffix := \".azure-devices.net\"\n",
		"lib/hubs.rego", "package lib.hubs\n\nimport data.lib.names\n\nnamed(label) := concat(\"\", [label, names.suffix])\n",
		"deep/deep.rego", "# METADATA\n# scope: subpackages\n# title: above the rule\npackage allocation.deep\n",
		"deep/rule.rego", serving("allocation.deep.rule", "deep", "hub := data.lib.hubs.named(\"deep\")"),
		"r1/below.rego", "package allocation.r1.payload\n\nrule := 1\n",
		"plants/data.json", `{"north": "n", "south": "s"}`,
		"lookups.yaml", "device:\n  row:\n    type: object\n    properties:\n      hub: {type: string}\n    additionalProperties: false\n  fixture: device_fixture.csv\n",
		"device_fixture.csv", "key,hub\nd1,looked-up\n",
		"other.rego", serving("allocation.other", "other", "hub := data.choices[input.which].hub\nreject contains \"no\" if data.allocation.r0.reject with input as {}\n"),
		"choices/a.rego", "package choices.a\n\nhub := \"a\"\n",
		"choices/b.rego", "package choices.b\n\nhub := \"b\"\n",
	)
	for i := range n {
		text := fmt.Sprintf("import data.lib.hubs\n\nhub := hubs.named(data.plants[input.plant]) if input.plant\n\nhub := lookup.device(input.id).hub if not input.plant\n\nreject contains \"%d\" if input.bad == %d\n", i, i)
		fsys[fmt.Sprintf("r%d/rule.rego", i)] = &fstest.MapFile{Data: []byte(serving(fmt.Sprintf("allocation.r%d", i), fmt.Sprintf("g%d", i), text))}
	}
	return fsys
}

// edited returns a copy with further files; an empty text removes one.
func edited(fsys fstest.MapFS, files ...string) fstest.MapFS {
	changed := maps.Clone(fsys)
	for i := 0; i < len(files); i += 2 {
		changed[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
		if files[i+1] == "" {
			delete(changed, files[i])
		}
	}
	return changed
}

// verdicts evaluates every rule for every kind of request.
func verdicts(t testing.TB, rs *ruleset.Ruleset) map[string]ruleset.Verdict {
	t.Helper()
	found := map[string]ruleset.Verdict{}
	for _, rule := range rs.Rules() {
		for name, input := range map[string]map[string]any{
			"north": {"plant": "north"}, "east": {"plant": "east"}, "device": {"id": "d1"}, "unknown": {"id": "d2"}, "bad": {"plant": "south", "bad": json.Number("1")}, "b": {"which": "b"},
		} {
			verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(input), ruleset.Outside{})
			if err != nil {
				t.Errorf("%s for %s: %v", rule.Package, name, err)
			}
			found[fmt.Sprintf("%s %s %s %v", rule.Package, rule.Place, name, rule.Groups)] = verdict
		}
	}
	return found
}

// However packages are divided, rules say the same, and the same errors are found.
func TestUnitsDoNotMatter(t *testing.T) {
	t.Parallel()
	base := fleet(6)
	t.Run("verdicts", func(t *testing.T) {
		t.Parallel()
		together := mustLoad(t, base, ruleset.Options{Name: "rules"})
		if units, _ := together.Compiled(); units != 1 {
			t.Fatalf("%d units, want 1", units)
		}
		want := verdicts(t, together)
		for _, perUnit := range []int{1, 4} {
			apart := mustLoad(t, base, ruleset.PerUnit(ruleset.Options{Name: "rules"}, perUnit))
			if units, _ := apart.Compiled(); units < 2 {
				t.Fatalf("%d units of %d packages, want several", units, perUnit)
			}
			if diff := cmp.Diff(want, verdicts(t, apart), cmp.AllowUnexported(dps.Value{})); diff != "" {
				t.Errorf("%d packages in a unit (-together +apart):\n%s", perUnit, diff)
			}
		}
	})
	for name, files := range map[string][]string{
		"syntax":             {"r1/rule.rego", "package allocation.r1\n\nhub :="},
		"two stages":         {"r1/more.rego", "package allocation.r1\n\nx := nothing\n", "r2/more.rego", "package allocation.r2\n\ny := data.plants.west\n"},
		"types":              {"r1/more.rego", "package allocation.r1\n\nx := 1 + \"a\"\n"},
		"a rule and package": {"deep/more.rego", "package allocation.deep\n\nrule := 1\n"},
		"the library's":      {"lib/names.rego", "package lib.names\n\nother := 1\n"},
		"data and rule":      {"plants/plants.rego", "package plants\n\nnorth := \"x\"\n"},
		"no enrollment":      {"r1/lost.rego", "package lost\n\nhub := \"x\"\n"},
		"a function":         {"r1/more.rego", "package allocation.r1\n\nhold(x) := x\n"},
		"a cycle":            {"lib/names.rego", "package lib.names\n\nimport data.lib.hubs\n\nsuffix := hubs.named(\"x\")\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := edited(base, files...)
			_, err := ruleset.Load(t.Context(), broken, ruleset.Options{Name: "rules"})
			want := problemsOf(t, err)
			if len(want) == 0 {
				t.Fatal("these rules load")
			}
			_, err = ruleset.Load(t.Context(), broken, ruleset.PerUnit(ruleset.Options{Name: "rules"}, 1))
			if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
				t.Errorf("compiled apart (-together +apart):\n%s", diff)
			}
			good := mustLoad(t, base, ruleset.PerUnit(ruleset.Options{Name: "rules"}, 1))
			_, err = ruleset.Load(t.Context(), broken, ruleset.PerUnit(ruleset.Options{Name: "rules", Replaces: good}, 1))
			if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
				t.Errorf("after good rules (-alone +after):\n%s", diff)
			}
		})
	}
}

// Rules that replace others say what they would say alone, while the others go on; only what has not changed is shared.
func TestReplacedRules(t *testing.T) {
	t.Parallel()
	base := fleet(6)
	const r1, r2, deep = "allocation.r1", "allocation.r2", "allocation.deep.rule"
	all := []string{r1, r2, deep}
	for name, test := range map[string]struct {
		files   []string
		options ruleset.Options
		fresh   []string // of these three, those that are compiled again
	}{
		"nothing":             {},
		"a test":              {files: []string{"r1/rule_test.rego", "package allocation.r1_test\n"}},
		"a rule":              {files: []string{"r1/rule.rego", serving(r1, "g1", "hub := \"new\"")}, fresh: []string{r1}},
		"METADATA":            {files: []string{"r1/rule.rego", serving(r1, "g1, also", "hub := \"same\"")}, fresh: []string{r1}},
		"a comment":           {files: []string{"r1/below.rego", "# one line more\npackage allocation.r1.payload\n\nrule := 1\n"}, fresh: []string{r1}},
		"a name":              {files: []string{"r1/rule.rego", "", "r1/new.rego", string(base["r1/rule.rego"].Data)}, fresh: []string{r1}},
		"a package below":     {files: []string{"r1/deep.rego", "package allocation.r1.payload.deep\n\nx := 1\n"}, fresh: []string{r1}},
		"none below":          {files: []string{"r1/below.rego", ""}, fresh: []string{r1}},
		"a library":           {files: []string{"lib/hubs.rego", "package lib.hubs\n\nnamed(label) := concat(\"-\", [label, \"new\"])\n"}, fresh: all},
		"a library behind it": {files: []string{"lib/names.rego", "package lib.names\n\nsuffix := \".new\"\n"}, fresh: all},
		"METADATA above":      {files: []string{"deep/deep.rego", "# METADATA\n# scope: subpackages\n# title: new\npackage allocation.deep\n"}, fresh: []string{deep}},
		"data":                {files: []string{"plants/data.json", `{"north": "new", "south": "s"}`}, fresh: all},
		"more data":           {files: []string{"more/data.json", "{}"}, fresh: all},
		"a schema of data":    {files: []string{"plants/data.schema.json", `{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}`}, fresh: all},
		"a declaration":       {files: []string{"lookups.yaml", string(base["lookups.yaml"].Data) + "  on_fault: absent\n"}, fresh: all},
		"a fixture":           {files: []string{"device_fixture.csv", "key,hub\nd1,new\n"}, fresh: all},
		"built-in functions":  {options: ruleset.Options{AllowBuiltins: []string{"opa.runtime"}}, fresh: all},
		"the evaluator":       {options: ruleset.Options{Evaluator: ruleset.ByTopdown}, fresh: all},
		"the name":            {options: ruleset.Options{Name: "elsewhere"}, fresh: all},
		"twice as many":       {files: manyMore(40), fresh: all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := ruleset.PerUnit(ruleset.Options{Name: "rules"}, 1)
			before := mustLoad(t, base, options)
			said := verdicts(t, before)
			var others sync.WaitGroup
			defer others.Wait()
			others.Go(func() {
				if diff := cmp.Diff(said, verdicts(t, before), cmp.AllowUnexported(dps.Value{})); diff != "" {
					t.Errorf("the rules in use say something else:\n%s", diff)
				}
			})
			changed := edited(base, test.files...)
			if test.options.Name == "" {
				test.options.Name = "rules"
			}
			alone := ruleset.PerUnit(test.options, 1)
			after := alone
			after.Replaces, after.Background = before, true
			replaced := mustLoad(t, changed, after)
			others.Wait()
			want := mustLoad(t, changed, alone)
			if diff := cmp.Diff(verdicts(t, want), verdicts(t, replaced), cmp.AllowUnexported(dps.Value{})); diff != "" {
				t.Errorf("verdicts (-alone +in place of others):\n%s", diff)
			}
			if want.Digest() != replaced.Digest() {
				t.Error("the digest is not the one that the rules have alone")
			}
			var fresh []string
			for _, name := range all {
				if compiler(t, before, name) != compiler(t, replaced, name) {
					fresh = append(fresh, name)
				}
			}
			if diff := cmp.Diff(test.fresh, fresh); diff != "" {
				t.Errorf("compiled again (-want +got):\n%s", diff)
			}
		})
	}
}

// manyMore are n packages that nothing refers to.
func manyMore(n int) []string {
	var files []string
	for i := range n {
		files = append(files, fmt.Sprintf("more/m%d.rego", i), fmt.Sprintf("package more.m%d\n\nx := %d\n", i, i))
	}
	return files
}

// compiler identifies the unit of a rule.
func compiler(t testing.TB, rs *ruleset.Ruleset, name string) any {
	t.Helper()
	i := slices.IndexFunc(rs.Rules(), func(r *ruleset.Rule) bool { return r.Package == name })
	if i < 0 {
		return nil
	}
	syntax, err := rs.Rules()[i].Syntax()
	if err != nil {
		t.Fatal(err)
	}
	return syntax.Compiler
}

// Rules that are replaced can be freed, though their successors share what they compiled.
func TestReplacedRulesAreFreed(t *testing.T) {
	first := mustLoad(t, fleet(2), ruleset.Options{})
	freed := make(chan struct{})
	runtime.AddCleanup(first, func(freed chan struct{}) { close(freed) }, freed)
	second := mustLoad(t, fleet(2), ruleset.Options{Replaces: first})
	first = nil
	for range 100 {
		runtime.GC() // it queues the cleanup, which another goroutine runs
		select {
		case <-freed:
			runtime.KeepAlive(second)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("they are still there")
}

// Only rules that have been asked are made ready before their first request.
func TestRulesInUseStayReady(t *testing.T) {
	t.Parallel()
	base := fleet(2)
	before := mustLoad(t, base, ruleset.Options{})
	asked := before.Serving(forGroup("g0"))
	if _, err := asked.Evaluate(t.Context(), dps.ValueOf(map[string]any{"plant": "north"}), ruleset.Outside{}); err != nil {
		t.Fatal(err)
	}
	for name, changed := range map[string]fstest.MapFS{
		"the same": base,
		"changed":  edited(base, "lib/names.rego", "package lib.names\n\nsuffix := \".new\"\n"),
	} {
		after := mustLoad(t, changed, ruleset.Options{Replaces: before})
		if !after.Serving(forGroup("g0")).IsPrepared() {
			t.Errorf("%s: the rule that was asked is not ready", name)
		}
		if after.Serving(forGroup("g1")).IsPrepared() {
			t.Errorf("%s: a rule that was never asked is ready", name)
		}
	}
}

// What loading takes grows with the number of packages, and not faster: twice as many rules compile at most a few packages
// more than twice, and allocate about twice as much.
func TestLoadingIsLinear(t *testing.T) {
	if testing.Short() {
		t.Skip("it loads several hundred rules")
	}
	load := func(n int) (packages int, allocated uint64) {
		folder := t.TempDir() // in a map, listing would be quadratic
		if err := os.CopyFS(folder, fleet(n)); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rs := mustLoad(t, os.DirFS(folder), ruleset.PerUnit(ruleset.Options{}, 16))
		runtime.ReadMemStats(&after)
		_, packages = rs.Compiled()
		return packages, after.Mallocs - before.Mallocs
	}
	load(10) // what is made once
	few, fewAllocations := load(200)
	many, manyAllocations := load(400)
	t.Logf("200 rules: %d packages compiled, %d allocations; 400: %d, %d", few, fewAllocations, many, manyAllocations)
	if many > 2*few+few/10 {
		t.Errorf("400 rules compile %d packages, and 200 compile %d", many, few)
	}
	if float64(manyAllocations) > 2.5*float64(fewAllocations) {
		t.Errorf("400 rules make %d allocations, and 200 make %d", manyAllocations, fewAllocations)
	}
}

// If packages refer to most others, they are compiled together, because units would repeat them.
func TestPackagesThatReferToAllAreTogether(t *testing.T) {
	t.Parallel()
	fsys := fstest.MapFS{}
	for i := range 40 {
		fsys[fmt.Sprintf("r%d.rego", i)] = &fstest.MapFile{Data: []byte(serving(fmt.Sprintf("allocation.r%d", i), fmt.Sprintf("g%d", i),
			"hub := concat(\"\", [name | some name in object.keys(data.names)])"))}
		fsys[fmt.Sprintf("n%d.rego", i)] = &fstest.MapFile{Data: []byte(fmt.Sprintf("package names.n%d\n\nx := 1\n", i))}
	}
	units, packages := mustLoad(t, fsys, ruleset.PerUnit(ruleset.Options{}, 4)).Compiled()
	if units != 1 || packages != 80 {
		t.Errorf("%d units with %d packages, want all 80 in one", units, packages)
	}
}
