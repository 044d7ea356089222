package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

func newBundleCommand() *cobra.Command {
	var rules rulesFlags
	var output, revision string
	var tests, exchanges bool
	var key rulebundle.Key
	cmd := &cobra.Command{
		Use:   "bundle [path]",
		Short: "Pack rules into one file, an OPA bundle",
		Long: `Bundle loads the rules and writes them and their data into one file, in the format of OPA
bundles. Rules that do not load are not packed, nor exchanges that fail. Every command accepts the file for --rules.

The same rules give the same bytes, and the printed digest is the one that the webhook
logs. With --signing-key the bundle is signed; --verification-key then makes other
commands require the signature.`,
		Example: `  usher bundle -o rules.tar.gz
  usher bundle rules -o rules.tar.gz --revision v1.4.0 --signing-key key.pem --signing-alg ES256
  usher test --rules rules.tar.gz --exchanges rules --verification-key public.pem --verification-alg ES256`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := rules.complete(cmd, args...); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			loaded, fsys, err := loadRules(ctx, rules, rules.options())
			if err != nil {
				return err
			}
			names, err := ruleset.Files(fsys, tests)
			if err != nil {
				return err
			}
			if exchanges {
				found, err := exchangesOf(fsys)
				if err != nil {
					return err
				}
				if err := tryExchanges(ctx, loaded, fsys, rules.path, found); err != nil {
					return err
				}
				// With tests, the fixtures are among the names already.
				names = slices.Compact(slices.Sorted(slices.Values(slices.Concat(names, found))))
			}
			options := rulebundle.WriteOptions{Revision: revision}
			if key.File != "" {
				options.Key = &key
			} else if cmd.Flags().Changed("signing-alg") {
				return usageError(errors.New("--signing-alg without --signing-key"))
			}
			var packed bytes.Buffer // the file is written as a whole or not at all
			if err := rulebundle.Write(&packed, fsys, names, options); err != nil {
				return err
			}
			if output == "-" {
				_, err := cmd.OutOrStdout().Write(packed.Bytes())
				return err
			}
			if err := writeFile(output, packed.Bytes()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %d bytes\nrevision %s\nrules %s\n",
				output, len(names), packed.Len(), cmp.Or(revision, "(none)"), loaded.Digest())
			return nil
		},
	}
	rules.register(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", "bundle.tar.gz", "file to write, - for standard output")
	flags.StringVar(&revision, "revision", "", "name of this state of the rules in the manifest, such as a tag or a commit")
	flags.BoolVar(&tests, "with-tests", false, "also pack *_test.rego and *_invariants.rego")
	flags.BoolVar(&exchanges, "with-exchanges", false, "also pack *.request.json and *.decision.json, and the fixtures of look-ups, if the rules decide as they say: the webhook tries them too before it uses the bundle")
	flags.StringVar(&key.File, "signing-key", "", "file with the private key (PEM) or, for an HS algorithm, the secret")
	flags.StringVar(&key.Algorithm, "signing-alg", "RS256", "algorithm of the signature, such as RS256, ES256 or HS256")
	completeWith(cmd, "signing-alg", signatureAlgorithms()...)
	return cmd
}

// exchangesOf lists the files of the exchanges in a folder of rules, and the fixtures that they are decided with.
func exchangesOf(fsys fs.FS) ([]string, error) {
	var names []string
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case strings.HasSuffix(name, exchange.RequestSuffix), strings.HasSuffix(name, exchange.DecisionSuffix), lookups.IsFixture(name):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// tryExchanges decides the requests of exchanges, as the webhook does before it uses a bundle, and reports every
// decision that is not the expected one. Without a file of the decision, any is.
func tryExchanges(ctx context.Context, rules *decider.Rules, fsys fs.FS, root string, names []string) error {
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		return err
	}
	var failed []string
	for _, name := range names {
		base, isDecision := strings.CutSuffix(name, exchange.DecisionSuffix)
		if !isDecision {
			continue
		}
		problems, err := exchange.Check(ctx, allocator, fsys, base)
		if err != nil {
			return err
		}
		if len(problems) > 0 {
			failed = append(failed, filepath.Join(root, filepath.FromSlash(name))+":\n  "+strings.Join(problems, "\n  "))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &exitError{code: exitTests, err: fmt.Errorf("nothing was packed, because %s (usher test --update writes what the rules decide now):\n%s",
		count(len(failed), "exchange fails", "exchanges fail"), strings.Join(failed, "\n"))}
}

// writeFile replaces a file in one step, so that a reader never sees half of it.
func writeFile(name string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // fails once it is renamed
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
