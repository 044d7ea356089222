package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// completeWith lets the shell complete the value of a flag or, if the flag takes a list, the last of its values. A
// value may be followed by a tab and a description.
func completeWith(cmd *cobra.Command, flag string, values ...string) {
	complete(cmd, flag, func() []string { return values })
}

// completeRules completes a flag with the packages of the rules that the command works with.
func completeRules(cmd *cobra.Command, flag string, rules *rulesFlags) {
	complete(cmd, flag, func() []string {
		if err := rules.complete(cmd); err != nil {
			return nil
		}
		options := rules.options()
		options.Lazy = true // because someone is waiting at the keyboard
		loaded, _, err := loadRules(cmd.Context(), *rules, options)
		if err != nil {
			return nil
		}
		var values []string
		for _, b := range loaded.All() {
			values = append(values, strings.TrimPrefix(b.Package, "allocation.")+"\t"+b.Title)
		}
		return values
	})
}

func complete(cmd *cobra.Command, flag string, values func() []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if strings.HasSuffix(cmd.Flag(flag).Value.Type(), "Slice") {
			before = typed[:strings.LastIndexByte(typed, ',')+1]
		}
		var list []string
		for _, value := range values() {
			if value = before + value; strings.HasPrefix(value, typed) {
				list = append(list, value)
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the command has no such flag
	}
}

// signatureAlgorithms returns the algorithms of JSON Web Signature with which OPA signs bundles.
func signatureAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "HS256", "HS384", "HS512"}
}
