package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/spf13/cobra"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/rules"
)

// newFlags are the flags of `usher new`.
type newFlags struct {
	name        string
	from        string
	groups      []string
	individuals []string
	dir         string
	argument    string // dir, if it is on the command line
	list        bool
}

func newNewCommand() *cobra.Command {
	var flags newFlags
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a rule and its test from a scenario",
		Long: `New writes a rule that works, with a test that passes, for you to change. It writes
to the folder NAME below that of the rules, as package allocation.NAME, and starts
from a scenario, which is one of the starter rules; --list lists them. If the rules
have no library yet, it writes that too.

It never overwrites a file, and writes nothing if the rules would then not load, for
example because another rule already serves the enrollment.`,
		Example: `  usher new presses --group line-a --group line-b
  usher new customers --from tenants --group 'customer-*'
  usher new fair --from breakroom --individual press-of-the-fair
  usher new --list`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			switch {
			case flags.list && len(args) > 0:
				return errors.New("--list takes no name")
			case !flags.list && len(args) == 0:
				return errors.New("give the rule a name, such as: usher new presses --group line-a")
			case len(args) > 1:
				return fmt.Errorf("give one name, not %d", len(args))
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.list {
				return listScenarios(cmd.Context(), cmd.OutOrStdout())
			}
			given := ""
			if cmd.Flags().Changed("dir") {
				given = flags.dir
			}
			if err := useProject(cmd, given); err != nil {
				return err
			}
			flags.name, flags.argument = args[0], given
			return flags.write(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.groups, "group", nil, "enrollment group that the rule serves, by name or glob; may be repeated")
	f.StringArrayVar(&flags.individuals, "individual", nil, "registration ID of an individual enrollment that the rule serves, or a glob; may be repeated")
	f.StringVar(&flags.from, "from", "default", "scenario to start from")
	f.StringVar(&flags.dir, "dir", "rules", "folder of the rules; --rules, as for other commands, is the same")
	renameFlag(cmd, "rules", "dir")
	f.BoolVar(&flags.list, "list", false, "list the scenarios")
	completeWith(cmd, "from", scenarios()...)
	return cmd
}

// scenarios returns the names of the starter rules.
func scenarios() []string {
	tests, _ := fs.Glob(rules.Files(), "*/*_test.rego") // the pattern is well formed
	var names []string
	for _, test := range tests {
		if name := path.Dir(test); name != "lib" {
			names = append(names, name)
		}
	}
	return names
}

func listScenarios(ctx context.Context, w io.Writer) error {
	loaded, err := decider.LoadRules(ctx, rules.Files(), decider.RulesOptions{Lazy: true})
	if err != nil {
		return err
	}
	var rows []string
	for _, b := range loaded.All() {
		rows = append(rows, strings.TrimPrefix(b.Package, "allocation.")+"\t"+b.Title)
	}
	return writeTable(w, rows)
}

var (
	ruleName          = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	enrollmentPattern = regexp.MustCompile(`^[A-Za-z0-9:._*?-]{1,128}$`)
)

// check validates the name, the scenario and the enrollments.
func (flags *newFlags) check() error {
	switch {
	case !slices.Contains(scenarios(), flags.from):
		return fmt.Errorf("there is no scenario %q: use one of %s", flags.from, strings.Join(scenarios(), ", "))
	case !ruleName.MatchString(flags.name):
		return fmt.Errorf("%q is not a valid package name: use lower-case letters, digits and underscores, starting with a letter", flags.name)
	case strings.HasSuffix(flags.name, "_test") || flags.name == "lib" || flags.name == "dps":
		return fmt.Errorf("%q has another meaning: choose another name", flags.name)
	case flags.name == "default" && flags.from != "default":
		return errors.New("the rule default serves all other enrollments, and only the scenario default is meant for that")
	case flags.name == "default" && len(flags.groups)+len(flags.individuals) > 0:
		return errors.New("the rule default serves all other enrollments: leave --group and --individual out, or choose another name")
	case flags.name != "default" && ast.IsKeyword(flags.name):
		return fmt.Errorf("%q is a keyword of Rego: choose another name", flags.name)
	case flags.name != "default" && len(flags.groups)+len(flags.individuals) == 0:
		return errors.New("name the enrollments that the rule serves: --group ENROLLMENT_GROUP or --individual REGISTRATION_ID")
	}
	for _, name := range slices.Concat(flags.groups, flags.individuals) {
		if !enrollmentPattern.MatchString(name) {
			return fmt.Errorf("%q is not a valid name of an enrollment: use letters, digits and : . _ -, with * and ? as wildcards", name)
		}
	}
	return nil
}

// libraryFiles are the files of the library, below a folder of rules.
var libraryFiles = []string{"lib/dps.rego", "lib/dps_test.rego"}

// write writes the rule, and the library if there is none, and prints the files and what to do next.
func (flags *newFlags) write(ctx context.Context, w io.Writer) error {
	files, err := flags.add(ctx)
	if err != nil {
		return err
	}
	dir := filepath.ToSlash(flags.dir)
	for _, name := range files {
		fmt.Fprintf(w, "wrote %s\n", path.Join(dir, name))
	}
	fmt.Fprintf(w, "\nNext:\n")
	if slices.Contains(files, flags.name+"/data.json") {
		fmt.Fprintf(w, "  edit %s: the hubs\n", path.Join(dir, flags.name, "data.json"))
	}
	if hubFixture := lookups.HubDeclaration().Fixture; slices.Contains(files, hubFixture) {
		fmt.Fprintf(w, "  edit %s: states of the hubs for tests; the setting USHER_LOOKUP_HUB says which hubs are counted\n", path.Join(dir, hubFixture))
	}
	if slices.Contains(files, flags.name+"/lookups.yaml") {
		fmt.Fprintf(w, "  edit %s: what a row is; the setting USHER_LOOKUP_%s says where rows come from\n", path.Join(dir, flags.name, "lookups.yaml"), strings.ToUpper(flags.name))
	}
	fmt.Fprintf(w, "  edit %s: the rule\n", path.Join(dir, flags.name, flags.name+".rego"))
	argument := ""
	if flags.argument != "" && flags.argument != "rules" {
		argument = " " + flags.argument
	}
	fmt.Fprintf(w, "  usher test%s --run %s\n  usher check%s\n", argument, flags.name, argument)
	return nil
}

// add writes the rule, and the library if there is none. It returns the files below the folder of the rules.
func (flags *newFlags) add(ctx context.Context) ([]string, error) {
	if err := flags.check(); err != nil {
		return nil, usageError(err)
	}
	files, err := flags.files()
	if err != nil {
		return nil, err
	}
	existing, err := readFolder(flags.dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(flags.dir, flags.name)); err == nil {
		return nil, fmt.Errorf("%s already exists: choose another name, or remove it", filepath.Join(flags.dir, flags.name))
	}
	if !hasLibrary(existing) {
		for _, name := range libraryFiles {
			if existing[name] != nil {
				return nil, fmt.Errorf("%s is not the library of Usher, which the rule needs: move it elsewhere", filepath.Join(flags.dir, filepath.FromSlash(name)))
			}
			if files[name], err = fs.ReadFile(rules.Files(), name); err != nil {
				return nil, err
			}
		}
	}
	if hubFixture := lookups.HubDeclaration().Fixture; existing[hubFixture] == nil && looksUpHubs(files[flags.name+"/"+flags.name+".rego"]) {
		if files[hubFixture], err = fs.ReadFile(rules.Files(), hubFixture); err != nil {
			return nil, err
		}
	}
	maps.Copy(existing, files)
	together, err := inMemory(existing)
	if err != nil {
		return nil, err
	}
	if _, err := decider.LoadRules(ctx, together, decider.RulesOptions{Name: flags.dir}); err != nil {
		return nil, rulesError(fmt.Errorf("the rules would not load with the new rule, so nothing was written:\n%w", err))
	}
	added, err := inMemory(files)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(files)), os.CopyFS(flags.dir, added) // which overwrites nothing
}

// readFolder reads the files of a folder, by their paths with slashes. There are none if the folder does not exist.
func readFolder(folder string) (map[string][]byte, error) {
	files := map[string][]byte{}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	return files, walk(folder, func(name string, entry fs.DirEntry) error {
		if !entry.Type().IsRegular() {
			return nil
		}
		relative, err := filepath.Rel(folder, name)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(relative)], err = os.ReadFile(name)
		return err
	})
}

func inMemory(files map[string][]byte) (fs.FS, error) {
	archive := &txtar.Archive{}
	for name, text := range files {
		archive.Files = append(archive.Files, txtar.File{Name: name, Data: text})
	}
	return txtar.FS(archive)
}

var libraryPackage = regexp.MustCompile(`(?m)^package dps\s*$`)

func hasLibrary(files map[string][]byte) bool {
	for name, text := range files {
		if strings.HasSuffix(name, ".rego") && libraryPackage.Match(text) {
			return true
		}
	}
	return false
}

// looksUpHubs reports whether a rule asks for the state of hubs.
func looksUpHubs(rule []byte) bool {
	return bytes.Contains(rule, []byte("lookup.hub(")) || bytes.Contains(rule, []byte("dps.with_room("))
}

// files returns the files of the scenario under the new name.
func (flags *newFlags) files() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, suffix := range []string{".rego", "_test.rego"} {
		text, err := fs.ReadFile(rules.Files(), flags.from+"/"+flags.from+suffix)
		if err != nil {
			return nil, err
		}
		if flags.name != flags.from {
			if suffix == "_test.rego" && usesName(text, flags.name) {
				return nil, usageError(fmt.Errorf("the test of the scenario %s already uses the name %s: choose another name", flags.from, flags.name))
			}
			text = flags.rename(text)
		}
		if suffix == ".rego" {
			text = flags.setEnrollments(text)
		} else if len(flags.groups) > 0 {
			group := strings.NewReplacer("*", "1", "?", "1").Replace(flags.groups[0])
			text = scenarioGroup.ReplaceAll(text, []byte(`"enrollmentGroupId": "`+group+`"`))
		}
		files[flags.name+"/"+flags.name+suffix] = text
	}
	for _, name := range []string{"data.json", "data.schema.json", "lookups.yaml", flags.from + "_fixture.csv"} {
		switch text, err := fs.ReadFile(rules.Files(), flags.from+"/"+name); {
		case err == nil:
			if name == "lookups.yaml" {
				text = flags.renameLookup(text)
			}
			files[flags.name+"/"+strings.Replace(name, flags.from+"_fixture", flags.name+"_fixture", 1)] = text
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return files, nil
}

// scenarioGroup is the enrollment group in the requests of a scenario's test. In that of residency it is an argument,
// because that rule decides by it.
var scenarioGroup = regexp.MustCompile(`"enrollmentGroupId": "[a-z-]+"`)

// usesName reports whether a module has a rule, a function or a variable of that name. An import of the same name would
// hide it.
func usesName(module []byte, name string) bool {
	parsed, err := ast.ParseModuleWithOpts("scenario", string(module), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return true // cannot happen: the scenarios parse
	}
	used := false
	ast.WalkVars(parsed, func(v ast.Var) bool {
		used = used || string(v) == name
		return used
	})
	return used || slices.ContainsFunc(parsed.Rules, func(rule *ast.Rule) bool { return string(rule.Head.Name) == name })
}

// rename replaces the scenario's name in packages, imports, references to data and references to the rule.
func (flags *newFlags) rename(module []byte) []byte {
	from := regexp.QuoteMeta(flags.from)
	imported := flags.from
	if flags.from == "default" {
		imported = "everything_else" // the test imports the rule by this name, because default is a keyword of Rego
	}
	for _, change := range []struct{ pattern, to string }{
		{`(?m)^package allocation\.` + from + `(_test)?$`, "package allocation." + flags.name + "$1"},
		{`(?m)^import data\.allocation(?:\.` + from + `|\["` + from + `"\])(?: as (\w+))?$`, "import data.allocation." + flags.name},
		{`\bdata(?:\.` + from + `\b|\["` + from + `"\])`, "data." + flags.name},
		{`\blookup\.` + from + `\b`, "lookup." + flags.name},
		// Not after a dot, as in data.tenants, nor within a text.
		{`(^|[^.\w"])` + imported + `\.`, "${1}" + flags.name + "."},
	} {
		module = regexp.MustCompile(change.pattern).ReplaceAll(module, []byte(change.to))
	}
	return module
}

// renameLookup gives the look-up that a scenario declares the name of the rule, as its data has: each rule has its own.
func (flags *newFlags) renameLookup(declaration []byte) []byte {
	return []byte(strings.NewReplacer(
		"\n"+flags.from+":\n", "\n"+flags.name+":\n",
		"USHER_LOOKUP_"+strings.ToUpper(flags.from), "USHER_LOOKUP_"+strings.ToUpper(flags.name),
		flags.from+"_fixture", flags.name+"_fixture",
	).Replace(string(declaration)))
}

var (
	bindingLines   = regexp.MustCompile(`(?m)^# custom:\n(?:#   .*\n)+`)
	enrollmentLine = regexp.MustCompile(`^#   (enrollment_groups|individual_enrollments):`)
	packageLine    = regexp.MustCompile(`(?m)^package `)
)

// setEnrollments writes the enrollments that the rule serves into its METADATA.
func (flags *newFlags) setEnrollments(module []byte) []byte {
	if flags.name == "default" {
		return module
	}
	var others []byte // members of custom that are no enrollments, such as recordable
	module = bindingLines.ReplaceAllFunc(module, func(custom []byte) []byte {
		for line := range bytes.Lines(custom) {
			if bytes.HasPrefix(line, []byte("#   ")) && !enrollmentLine.Match(line) {
				others = append(others, line...)
			}
		}
		return nil
	})
	at := packageLine.FindIndex(module)[0]
	metadata, rest := module[:at:at], module[at:]
	if flags.from == "default" { // its METADATA describes the rule for all other enrollments
		metadata = []byte("# METADATA\n# title: " + flags.name + "\n# description: >-\n" +
			"#   A device stays on its hub while that is linked; a new one goes to a hub by weight.\n")
	}
	metadata = append(metadata, "# custom:\n"...)
	for _, list := range []struct {
		member string
		names  []string
	}{{"enrollment_groups", flags.groups}, {"individual_enrollments", flags.individuals}} {
		if len(list.names) > 0 {
			quoted := make([]string, len(list.names))
			for i, name := range list.names {
				quoted[i] = quoteYAML(name)
			}
			metadata = fmt.Appendf(metadata, "#   %s: [%s]\n", list.member, strings.Join(quoted, ", "))
		}
	}
	if flags.from != "default" {
		metadata = append(metadata, others...)
	}
	return append(metadata, rest...)
}

var plainYAML = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

// quoteYAML quotes a text that YAML could read as something else, such as 4711, true or *.
func quoteYAML(text string) string {
	if plainYAML.MatchString(text) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(text)) {
		return text
	}
	return `"` + text + `"`
}
