package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/operate/azureauth"
	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/lookupsource"
	"github.com/usher-dps/usher/internal/serve/lookupsource/snapshot"
)

func newLookupCommand() *cobra.Command {
	var rules rulesFlags
	var sources sourcesFlags
	var format string
	cmd := &cobra.Command{
		Use:   "lookup [NAME KEY]",
		Short: "Show the row that a rule would get from a look-up",
		Long: `Lookup asks the source of a look-up for a key, as a rule does, and shows the row, where
it is from and how old it is. Without arguments, it asks the source of every look-up that
the rules declare, and says what is wrong with those that do not answer.

The sources are those of the webhook's settings, USHER_LOOKUP_NAME, from the environment or
else from local.settings.json. Without a setting, the fixture next to the rules answers.`,
		Example: `  usher lookup inventory press-0002
  usher lookup
  usher lookup build devices.csv --name inventory --out devices.sqlite`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) == 2 {
				return nil
			}
			return errors.New("give a look-up and a key, such as: usher lookup inventory press-0002; or neither")
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := rules.complete(cmd); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			loaded, _, err := loadRules(ctx, rules, rules.options())
			if err != nil {
				return err
			}
			opened, err := sources.open()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return examineSources(ctx, cmd, loaded, opened, format)
			}
			d, err := declared(loaded, args[0])
			if err != nil {
				return err
			}
			return showRow(ctx, cmd, loaded, opened, d, args[1], format)
		},
	}
	rules.register(cmd)
	sources.register(cmd)
	addOutputFlag(cmd, &format, "text", "json")
	cmd.AddCommand(newLookupBuildCommand())
	return cmd
}

// declared is a look-up that rules declare.
func declared(rules *decider.Rules, name string) (*lookups.Declaration, error) {
	var names []string
	for _, d := range rules.Set().Lookups() {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return nil, usageError(fmt.Errorf("the rules declare no look-up %s: there are %s", name, strings.Join(names, ", ")))
}

// sourcesFlags say where the settings of look-ups are.
type sourcesFlags struct{ settings string }

const localSettings = "local.settings.json"

func (f *sourcesFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.settings, "settings", "", "file in the form of local.settings.json, for settings that are not in the environment; default local.settings.json if there is one")
}

// environment are the variables that settings are read from.
func (f *sourcesFlags) environment() (map[string]string, error) {
	variables := map[string]string{}
	name := f.settings
	if name == "" {
		name = localSettings
	}
	text, err := os.ReadFile(name)
	switch {
	case err == nil:
		var file struct{ Values map[string]string }
		if err := json.Unmarshal(text, &file); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		variables = file.Values
	case f.settings != "" || !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for _, variable := range os.Environ() {
		if name, value, ok := strings.Cut(variable, "="); ok && value != "" {
			variables[name] = value
		}
	}
	variables["AZURE_FUNCTIONS_ENVIRONMENT"] = "Development" // fixtures are of use here
	return variables, nil
}

// open opens the sources that the settings name. Where they name none, fixtures answer.
func (f *sourcesFlags) open() (*lookupsource.Sources, error) {
	variables, err := f.environment()
	if err != nil {
		return nil, err
	}
	getenv := func(name string) string { return variables[name] }
	var environ []string
	for name, value := range variables {
		environ = append(environ, name+"="+value)
	}
	reader := environment.NewReader(getenv)
	settings := lookupsource.Read(reader, environ)
	if err := reader.Err(); err != nil {
		return nil, err
	}
	folder, err := os.UserCacheDir()
	if err != nil {
		folder = os.TempDir()
	}
	return lookupsource.New(lookupsource.Options{Settings: settings, Folder: filepath.Join(folder, "usher-lookups"), Fixtures: true,
		Credential: func() (azcore.TokenCredential, error) { return azureauth.Credential(getenv) }})
}

// shownRow is what `usher lookup` shows of a look-up.
type shownRow struct {
	Lookup  string         `json:"lookup"`
	Key     string         `json:"key"`
	Row     map[string]any `json:"row"` // null if there is none
	Source  string         `json:"source"`
	Version string         `json:"version,omitempty"`
	AsOf    *time.Time     `json:"asOf,omitempty"`
	Fault   string         `json:"fault,omitempty"`
	Notes   []string       `json:"notes,omitempty"`
}

// notes are about the source of a look-up that answers.
func notes(rules *decider.Rules, sources *lookupsource.Sources, d *lookups.Declaration) []lookupsource.Note {
	for _, state := range sources.States() {
		if state.Name == d.Name {
			return state.Notes
		}
	}
	if table := rules.Set().Fixtures()[d.Name]; table != nil {
		return lookupsource.UndeclaredNotes(table.Undeclared(), d)
	}
	return nil
}

// ask asks the source of a look-up as a rule does.
func ask(ctx context.Context, rules *decider.Rules, sources *lookupsource.Sources, d *lookups.Declaration, key string) (shownRow, error) {
	if !d.CaseSensitive {
		key = strings.ToLower(key)
	}
	shown := shownRow{Lookup: d.Name, Key: key}
	found, err := sources.Find(ctx, d, key)
	if errors.Is(err, lookups.ErrUseFixture) {
		found, err = rules.Set().Fixtures().Find(ctx, d, key)
	}
	if err != nil {
		return shown, err
	}
	shown.Source, shown.Version = found.Source, found.Version
	if found.Fault != nil {
		shown.Fault = found.Fault.Error()
	}
	if !found.AsOf.IsZero() {
		asOf := found.AsOf.UTC()
		shown.AsOf = &asOf
	}
	if found.Row == nil {
		return shown, nil
	}
	if violations := d.Row.Validate(found.Row); len(violations) > 0 {
		return shown, fmt.Errorf("the row is not as %s declares: %s", d.Place, violations[0])
	}
	shown.Row = d.Declared(found.Row)
	return shown, nil
}

func showRow(ctx context.Context, cmd *cobra.Command, rules *decider.Rules, sources *lookupsource.Sources, d *lookups.Declaration, key, format string) error {
	if err := sources.Prepare(ctx, []*lookups.Declaration{d}); err != nil {
		return err
	}
	shown, err := ask(ctx, rules, sources, d, key)
	if err != nil {
		return fmt.Errorf("look-up %s: %w", d.Name, err)
	}
	for _, note := range notes(rules, sources, d) {
		shown.Notes = append(shown.Notes, note.String())
	}
	out := cmd.OutOrStdout()
	if format == "json" {
		return writeJSON(out, shown)
	}
	if shown.Row == nil {
		fmt.Fprintf(out, "no row for %s\n", shown.Key)
	} else if err := writeJSON(out, shown.Row); err != nil {
		return err
	}
	text := "from the " + shown.Source
	if shown.Version != "" {
		text += ", " + shorten(shown.Version)
	}
	if shown.AsOf != nil {
		text += ", " + time.Since(*shown.AsOf).Round(time.Second).String() + " old"
	}
	if shown.Fault != "" {
		text += ", because of a fault: " + shown.Fault
	}
	fmt.Fprintln(out, text)
	for _, note := range shown.Notes {
		fmt.Fprintln(out, note)
	}
	return nil
}

// shorten cuts a digest down to what people compare.
func shorten(version string) string {
	if digest, ok := strings.CutPrefix(version, "sha256:"); ok && len(digest) > 12 {
		return "sha256:" + digest[:12]
	}
	return version
}

// probeKey is a key that no row has.
const probeKey = "usher-probe"

// examined is what is known of the source of a look-up.
type examined struct {
	Lookup string   `json:"lookup"`
	Source string   `json:"source"`
	Fault  string   `json:"fault,omitempty"`
	Fix    string   `json:"fix,omitempty"`
	Notes  []string `json:"notes,omitempty"`

	notes []lookupsource.Note
}

// askAll asks the source of each look-up for a row that there is not.
func askAll(ctx context.Context, rules *decider.Rules, sources *lookupsource.Sources) []examined {
	var all []examined
	for _, d := range rules.Lookups() {
		one := examined{Lookup: d.Name}
		shown, err := shownRow{}, sources.Prepare(ctx, []*lookups.Declaration{d})
		if err == nil {
			shown, err = ask(ctx, rules, sources, d, probeKey)
		}
		one.Source = shown.Source
		if err != nil {
			one.Fault = err.Error()
			if f, ok := errors.AsType[*lookupsource.Fault](err); ok {
				one.Source, one.Fix = f.Source, f.Fix()
			}
		} else {
			one.notes = notes(rules, sources, d)
		}
		for _, note := range one.notes {
			one.Notes = append(one.Notes, note.String())
		}
		all = append(all, one)
	}
	return all
}

func examineSources(ctx context.Context, cmd *cobra.Command, rules *decider.Rules, sources *lookupsource.Sources, format string) error {
	all := askAll(ctx, rules, sources)
	out := cmd.OutOrStdout()
	if format == "json" {
		if err := writeJSON(out, all); err != nil {
			return err
		}
	} else if len(all) == 0 {
		fmt.Fprintln(out, "the rules look nothing up")
	} else {
		for _, one := range all {
			switch {
			case one.Fault == "":
				fmt.Fprintf(out, "%s: the %s answers\n", one.Lookup, one.Source)
				for _, note := range one.Notes {
					fmt.Fprintf(out, "  %s\n", strings.ReplaceAll(note, "\n", "\n  "))
				}
			default:
				fmt.Fprintf(out, "%s: %s\n", one.Lookup, one.Fault)
				if one.Fix != "" {
					fmt.Fprintf(out, "  fix: %s\n", one.Fix)
				}
			}
		}
	}
	if slices.ContainsFunc(all, func(one examined) bool { return one.Fault != "" }) {
		return errors.New("a source does not answer: decisions that need it are lookup_failed")
	}
	return nil
}

func newLookupBuildCommand() *cobra.Command {
	var rules rulesFlags
	var name, out string
	cmd := &cobra.Command{
		Use:   "build FILE",
		Short: "Make a SQLite file of a table, to serve as a snapshot",
		Long: `Build checks a table of CSV, NDJSON or YAML by a declaration in lookups.yaml, and makes
the SQLite file that the webhook would make of it. The webhook then has less to do when
the snapshot arrives. It names the columns that are not declared; one that is almost a
declared member which the table lacks is an error.`,
		Example: `  usher lookup build devices.csv --name inventory --out devices.sqlite`,
		Args:    countArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" || out == "" {
				return usageError(errors.New("--name and --out are required: which look-up the table is for, and the file to write"))
			}
			if err := rules.complete(cmd); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			loaded, _, err := loadRules(ctx, rules, rules.options())
			if err != nil {
				return err
			}
			d, err := declared(loaded, name)
			if err != nil {
				return err
			}
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			rows, undeclared, err := snapshot.Build(ctx, file, args[0], d, out)
			if err != nil {
				return err
			}
			for _, note := range lookupsource.UndeclaredNotes(undeclared, d) {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", out, plural(rows, "row"))
			return nil
		},
	}
	rules.register(cmd)
	cmd.Flags().StringVar(&name, "name", "", "look-up that the table is for")
	cmd.Flags().StringVar(&out, "out", "", "SQLite file to write; replaced if it exists")
	return cmd
}
