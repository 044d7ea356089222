package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/spf13/cobra"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/rules"
)

// newFlags are those of `usher new`.
type newFlags struct {
	name        string
	from        string
	groups      []string
	individuals []string
	dir         string
	list        bool
}

func newNewCommand() *cobra.Command {
	var flags newFlags
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a rule and its test, from a scenario",
		Long: `New writes a rule that works, with a test that passes, for you to change: into the
folder NAME below that of the rules, as package allocation.NAME. It starts from a
scenario, which is one of the starter rules; --list lists them. Where the rules
have no library yet, it is written too.

It overwrites nothing, and writes nothing if the rules would then not load, such
as when another rule serves the enrollment already.`,
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
				return fmt.Errorf("one name, not %d", len(args))
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.list {
				return listScenarios(cmd.Context(), cmd.OutOrStdout())
			}
			flags.name = args[0]
			return flags.write(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.groups, "group", nil, "enrollment group that the rule serves, by name or glob; may be repeated")
	f.StringArrayVar(&flags.individuals, "individual", nil, "registration ID of an individual enrollment that it serves, or a glob; may be repeated")
	f.StringVar(&flags.from, "from", "default", "scenario to start from")
	f.StringVar(&flags.dir, "dir", "rules", "folder of the rules")
	f.BoolVar(&flags.list, "list", false, "list the scenarios")
	completeWith(cmd, "from", scenarios()...)
	return cmd
}

// scenarios are the names of the starter rules.
func scenarios() []string {
	matches, err := fs.Glob(rules.Files(), "*/*_test.rego")
	if err != nil {
		return nil // the pattern is well formed
	}
	var names []string
	for _, match := range matches {
		if name := path.Dir(match); name != "lib" {
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
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range loaded.All() {
		fmt.Fprintf(table, "%s\t%s\n", strings.TrimPrefix(b.Package, "allocation."), b.Title)
	}
	return table.Flush()
}

var ruleName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// check refuses what would not make a rule.
func (flags *newFlags) check() error {
	switch {
	case !slices.Contains(scenarios(), flags.from):
		return fmt.Errorf("there is no scenario %q: use one of %s", flags.from, strings.Join(scenarios(), ", "))
	case !ruleName.MatchString(flags.name):
		return fmt.Errorf("%q is no name for a package: use small letters, digits and underscores, a letter first", flags.name)
	case strings.HasSuffix(flags.name, "_test") || flags.name == "lib" || flags.name == "dps":
		return fmt.Errorf("%q names something else: choose another name", flags.name)
	case flags.name == "default" && flags.from != "default":
		return fmt.Errorf("the rule default serves all other enrollments, which only the scenario default does")
	case flags.name == "default" && len(flags.groups)+len(flags.individuals) > 0:
		return errors.New("the rule default serves all other enrollments: leave --group and --individual out, or choose another name")
	case flags.name != "default" && ast.IsKeyword(flags.name):
		return fmt.Errorf("%q is a word of Rego: choose another name", flags.name)
	case flags.name != "default" && len(flags.groups)+len(flags.individuals) == 0:
		return errors.New("say whom the rule serves: --group ENROLLMENT_GROUP or --individual REGISTRATION_ID")
	}
	for _, name := range slices.Concat(flags.groups, flags.individuals) {
		if !enrollmentPattern.MatchString(name) {
			return fmt.Errorf("%q is no name of an enrollment: letters, digits and : . _ -, with * and ? as wildcards", name)
		}
	}
	return nil
}

var enrollmentPattern = regexp.MustCompile(`^[A-Za-z0-9:._*?-]{1,128}$`)

func (flags *newFlags) write(ctx context.Context, w io.Writer) error {
	if err := flags.check(); err != nil {
		return usageError(err)
	}
	files, err := flags.files()
	if err != nil {
		return err
	}
	together, missing, err := flags.together(files)
	if err != nil {
		return err
	}
	fsys, err := inMemory(together)
	if err != nil {
		return err
	}
	if _, err := decider.LoadRules(ctx, fsys, decider.RulesOptions{Name: flags.dir}); err != nil {
		return rulesError(fmt.Errorf("with the new rule, the rules would not load; nothing is written:\n%w", err))
	}
	for _, name := range missing {
		if err := writeNew(filepath.Join(flags.dir, filepath.FromSlash(name)), together[name]); err != nil {
			return err
		}
		fmt.Fprintf(w, "wrote %s\n", path.Join(filepath.ToSlash(flags.dir), name))
	}
	at := ""
	if flags.dir != "rules" {
		at = " " + flags.dir
	}
	fmt.Fprintf(w, "\nNext:\n")
	if files[flags.name+"/data.json"] != nil {
		fmt.Fprintf(w, "  edit %s: it has the hubs\n", path.Join(filepath.ToSlash(flags.dir), flags.name, "data.json"))
	}
	fmt.Fprintf(w, "  edit %s: it has the rule\n", path.Join(filepath.ToSlash(flags.dir), flags.name, flags.name+".rego"))
	fmt.Fprintf(w, "  usher test%s --run %s\n  usher check%s\n", at, flags.name, at)
	return nil
}

// together are the rules that there are with the new one, and the names of the files to be written.
func (flags *newFlags) together(files map[string][]byte) (all map[string][]byte, missing []string, err error) {
	all = map[string][]byte{}
	err = filepath.WalkDir(flags.dir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == flags.dir:
			return filepath.SkipAll // the first rule of all
		case err != nil:
			return err
		case entry.IsDir() && name != flags.dir && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		relative, err := filepath.Rel(flags.dir, name)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		all[filepath.ToSlash(relative)] = text
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(flags.dir, flags.name)); err == nil {
		return nil, nil, fmt.Errorf("%s is there already: choose another name, or remove it", filepath.Join(flags.dir, flags.name))
	}
	if !hasLibrary(all) {
		for _, name := range []string{"lib/dps.rego", "lib/dps_test.rego"} {
			if all[name] != nil {
				return nil, nil, fmt.Errorf("%s is not the library of Usher, which the rule needs: move it elsewhere", filepath.Join(flags.dir, filepath.FromSlash(name)))
			}
			text, err := fs.ReadFile(rules.Files(), name)
			if err != nil {
				return nil, nil, err
			}
			files[name] = text
		}
	}
	for name, text := range files {
		all[name] = text
		missing = append(missing, name)
	}
	slices.Sort(missing)
	return all, missing, nil
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

// writeNew writes a file that must not be there.
func writeNew(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

// files are those of the scenario under the new name.
func (flags *newFlags) files() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, suffix := range []string{".rego", "_test.rego"} {
		text, err := fs.ReadFile(rules.Files(), flags.from+"/"+flags.from+suffix)
		if err != nil {
			return nil, err
		}
		if flags.name != flags.from {
			if suffix == "_test.rego" && usesWord(text, flags.name) {
				return nil, usageError(fmt.Errorf("the test of the scenario %s has something called %s: choose another name", flags.from, flags.name))
			}
			text = flags.renamed(text)
		}
		if suffix == ".rego" {
			text = flags.bound(text)
		} else {
			text = flags.asking(text)
		}
		files[flags.name+"/"+flags.name+suffix] = text
	}
	switch text, err := fs.ReadFile(rules.Files(), flags.from+"/data.json"); {
	case err == nil:
		files[flags.name+"/data.json"] = text
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return files, nil
}

// usesWord reports whether a module has a rule, a function or a variable of that name,
// which an import of the same name would hide.
func usesWord(module []byte, name string) bool {
	parsed, err := ast.ParseModuleWithOpts("scenario", string(module), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return true // the scenarios parse
	}
	used := false
	ast.WalkVars(parsed, func(v ast.Var) bool {
		used = used || string(v) == name
		return used
	})
	for _, rule := range parsed.Rules {
		used = used || string(rule.Head.Name) == name
	}
	return used
}

// renamed puts the new name for the scenario's into packages, imports, references to data
// and what the test calls the rule.
func (flags *newFlags) renamed(module []byte) []byte {
	from := regexp.QuoteMeta(flags.from)
	for _, change := range []struct{ pattern, to string }{
		{`(?m)^package allocation\.` + from + `(_test)?$`, "package allocation." + flags.name + "$1"},
		{`(?m)^import data\.allocation(?:\.` + from + `|\["` + from + `"\])(?: as (\w+))?$`, "import data.allocation." + flags.name},
		{`\bdata(?:\.` + from + `\b|\["` + from + `"\])`, "data." + flags.name},
	} {
		module = regexp.MustCompile(change.pattern).ReplaceAll(module, []byte(change.to))
	}
	called := flags.from
	if flags.from == "default" {
		called = "everything_else" // default being a word of Rego, its test calls the rule so
	}
	// Not behind a dot, as data.tenants is none, nor within a text.
	return regexp.MustCompile(`(^|[^.\w"])`+called+`\.`).ReplaceAll(module, []byte("${1}"+flags.name+"."))
}

// asking has the test ask for the first of the new groups, where it asks for the one
// group of the scenario.
func (flags *newFlags) asking(test []byte) []byte {
	if len(flags.groups) == 0 {
		return test
	}
	group := strings.NewReplacer("*", "1", "?", "1").Replace(flags.groups[0])
	return scenarioGroup.ReplaceAll(test, []byte(`"enrollmentGroupId": "`+group+`"`))
}

// scenarioGroup is the group that a scenario's test asks for; that of residency is an
// argument, because it decides there.
var scenarioGroup = regexp.MustCompile(`"enrollmentGroupId": "[a-z-]+"`)

var (
	bindingLines = regexp.MustCompile(`(?m)^# custom:\n(?:#   .*\n)+`)
	packageLine  = regexp.MustCompile(`(?m)^package `)
)

// bound lets the rule serve the new enrollments.
func (flags *newFlags) bound(module []byte) []byte {
	if flags.name == "default" {
		return module
	}
	module = bindingLines.ReplaceAll(module, nil)
	if flags.from == "default" { // whose words are those of the last resort
		at := packageLine.FindIndex(module)
		module = slices.Concat([]byte("# METADATA\n# title: "+flags.name+"\n# description: >-\n"+
			"#   A device stays on its hub while that is linked; a new one goes to a hub by weight.\n"), module[at[0]:])
	}
	var custom bytes.Buffer
	custom.WriteString("# custom:\n")
	for _, list := range []struct {
		member string
		names  []string
	}{{"enrollment_groups", flags.groups}, {"individual_enrollments", flags.individuals}} {
		if len(list.names) > 0 {
			quoted := make([]string, len(list.names))
			for i, name := range list.names {
				quoted[i] = yamlText(name)
			}
			fmt.Fprintf(&custom, "#   %s: [%s]\n", list.member, strings.Join(quoted, ", "))
		}
	}
	at := packageLine.FindIndex(module)
	return slices.Concat(module[:at[0]], custom.Bytes(), module[at[0]:])
}

var plainYAML = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

// yamlText quotes what YAML could take for something else, such as 4711, true or *.
func yamlText(text string) string {
	if plainYAML.MatchString(text) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(text)) {
		return text
	}
	return `"` + text + `"`
}
