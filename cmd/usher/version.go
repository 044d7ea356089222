package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/open-policy-agent/opa/v1/version"
	"github.com/spf13/cobra"
)

func newVersionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of usher, of the OPA in it, and of Go",
		Long: `Version prints the versions of usher, of the OPA in it, and of Go. With -o json it
adds the commit from which usher was built, if the build knew it.`,
		Example: `  $ usher version
  usher v1.4.0
  opa v1.22.2
  go1.26.8 linux/amd64`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			build := readBuild()
			if format == "json" {
				return writeJSON(cmd.OutOrStdout(), build)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), build.String())
			return err
		},
	}
	addOutputFlag(cmd, &format, "text", "json")
	return cmd
}

// build is what the go command recorded in the binary.
type build struct {
	Usher    string `json:"usher"` // a release, or a version made of commit and date
	OPA      string `json:"opa"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"`     // of the commit
	Modified bool   `json:"modified,omitempty"` // the working tree had uncommitted changes
}

func (b build) String() string {
	return fmt.Sprintf("usher %s\nopa %s\n%s %s\n", b.Usher, b.OPA, b.Go, b.Platform)
}

func readBuild() build {
	b := build{Usher: "(unknown version)", OPA: "v" + version.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Usher = cmp.Or(info.Main.Version, b.Usher)
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			b.Commit = setting.Value
		case "vcs.time":
			b.Time = setting.Value
		case "vcs.modified":
			b.Modified = setting.Value == "true"
		}
	}
	return b
}
