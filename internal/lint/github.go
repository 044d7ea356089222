package lint

import (
	"fmt"
	"io"
	"strings"
)

// WriteGitHub writes each finding as an annotation of a workflow on GitHub. Source:
// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
func WriteGitHub(w io.Writer, report Report) error {
	text := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, f := range report.Findings {
		column := ""
		if f.Column > 0 {
			column = fmt.Sprintf(",col=%d", f.Column)
		}
		message := f.Message
		if f.Mend != "" {
			message += "\n" + f.Mend
		}
		_, err := fmt.Fprintf(w, "::%s file=%s,line=%d%s,title=%s::%s\n",
			f.Level, property.Replace(slashed(f.File)), f.Line, column, property.Replace(f.Lint), text.Replace(message))
		if err != nil {
			return err
		}
	}
	return nil
}
