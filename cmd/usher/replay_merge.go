package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/replay"
)

// shardFlag is the value of --shard.
type shardFlag struct{ replay.Shard }

func (s *shardFlag) String() string { return "" }
func (s *shardFlag) Type() string   { return "I/N" }

func (s *shardFlag) Set(text string) (err error) {
	s.Shard, err = replay.ParseShard(text)
	return err
}

func newReplayMergeCommand() *cobra.Command {
	var flags replayFlags
	cmd := &cobra.Command{
		Use:   "merge REPORT ...",
		Short: "Add the reports on all shards of a log to one",
		Long: `Merge adds the reports that 'usher replay --shard I/N' wrote for each I from 0 to N-1. The
report is that of one replay of all devices, byte for byte, in each form. The order of
the files does not matter; - is standard input.

It refuses reports that are not all shards of one replay: with other rules, logs or
options.`,
		Example: `  usher replay merge reports/*.json
  usher replay merge reports/*.json --html replay.html --fail-on 'rejected,moved>5%'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("which reports? Name the files that usher replay --shard wrote"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.parseFailures(); err != nil {
				return err
			}
			if err := checkStdin(args); err != nil {
				return err
			}
			var reports []*replay.Report
			for _, name := range args {
				report, err := readPart(name, cmd.InOrStdin())
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				reports = append(reports, report)
			}
			report, part, err := replay.Merge(reports)
			if err != nil {
				return err
			}
			flags.rules.path, flags.baseline = part.RulesName, part.BaselineName
			if err := flags.write(cmd.OutOrStdout(), report); err != nil {
				return err
			}
			return flags.judge(report)
		},
	}
	flags.registerOutput(cmd)
	return cmd
}

func readPart(name string, stdin io.Reader) (*replay.Report, error) {
	if name == "-" {
		return replay.ReadPart(stdin)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller names the file
	}
	defer file.Close()
	return replay.ReadPart(file)
}
