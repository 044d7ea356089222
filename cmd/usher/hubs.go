package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/verify"
)

// hubList is the value of --hubs: hubs by host name, such as contoso-eu.azure-devices.net, or by first label, such as
// contoso-eu.
type hubList []string

// addHubs adds the flag --hubs to a command, which may also be spelt --hub.
func addHubs(cmd *cobra.Command, hubs *hubList, usage string) {
	cmd.Flags().Var(hubs, "hubs", usage+"; by host name or first label, with commas between them or repeated")
	renameFlag(cmd, "hub", "hubs")
}

// renameFlag lets a command accept another name of a flag.
func renameFlag(cmd *cobra.Command, other, flag string) {
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == other {
			name = flag
		}
		return pflag.NormalizedName(name)
	})
}

func (h *hubList) String() string { return strings.Join(*h, ",") }
func (h *hubList) Type() string   { return "strings" }

func (h *hubList) Set(text string) error {
	names := strings.Split(text, ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if !verify.IsHub(names[i]) {
			return errors.New("name a hub by its host name, such as contoso-eu.azure-devices.net, or by its first label, such as contoso-eu")
		}
	}
	*h = append(*h, names...)
	return nil
}

// has reports whether a host name is that of one of the hubs.
func (h hubList) has(host string) bool {
	return slices.ContainsFunc(h, func(name string) bool { return namesHub(name, host) })
}

// namesHub reports whether a name, which is a host name or a first label, is that of the hub with this host name.
func namesHub(name, host string) bool {
	label, _, _ := strings.Cut(host, ".")
	return dps.SameHub(name, host) || dps.SameHub(name, label)
}
