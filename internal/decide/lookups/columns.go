package lookups

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"
)

const (
	// maxUndeclared bounds how many names are kept of a table: in NDJSON, each row can have others.
	maxUndeclared = 1000
	// maxName bounds what is kept of a name, in bytes.
	maxName = 100
)

// Undeclared is a column or member of a table that its declaration does not have. Rules do not see it, and an operator's
// table may well have columns for others, so it is no error in itself.
type Undeclared struct {
	Place string `json:"place"` // file:line where it is first; the file if it has no lines
	Name  string `json:"name"`
	// Meant is a declared member that the table lacks and that has almost this name; empty if there is none. A rule then
	// goes by a member that no row has, and a blocked device passes.
	Meant string `json:"meant,omitempty"`
}

// Problem describes it for people who can change the table or d.
func (u Undeclared) Problem(d *Declaration) Problem {
	if u.Meant != "" {
		return Problem{Place: u.Place, Message: fmt.Sprintf("%s is not declared, and the declared %s is missing: rules see neither", u.Name, u.Meant),
			Fix: fmt.Sprintf("did you mean %s? Otherwise declare %s too, at %s", u.Meant, u.Name, d.Place)}
	}
	return Problem{Place: u.Place, Message: fmt.Sprintf("%s is not declared: rules do not see it", u.Name),
		Fix: fmt.Sprintf("nothing, if no rule needs it; otherwise declare it at %s, where the members are %s", d.Place, strings.Join(d.Members(), ", "))}
}

// Misspelt returns a *TableError if something that is not declared is almost a declared member which the table lacks; nil
// otherwise.
func Misspelt(undeclared []Undeclared, d *Declaration) error {
	var problems []Problem
	for _, u := range undeclared {
		if u.Meant != "" {
			problems = append(problems, u.Problem(d))
		}
	}
	if problems == nil {
		return nil
	}
	return &TableError{problems}
}

// Columns compares what a table has with what is declared.
type Columns struct {
	d          *Declaration
	properties map[string]any
	declared   map[string]bool
	undeclared map[string]string // the place of each name
}

// NewColumns compares a table with d.
func NewColumns(d *Declaration) *Columns {
	properties, _ := d.RowSchema["properties"].(map[string]any)
	return &Columns{d: d, properties: properties, declared: map[string]bool{}, undeclared: map[string]string{}}
}

// Add notes that the table has a column or member; place is called when it is new.
func (c *Columns) Add(name string, place func() string) {
	switch _, declared := c.properties[name]; {
	case declared:
		c.declared[name] = true
	case name == "" || name == c.d.Key || len(c.undeclared) >= maxUndeclared:
	default:
		if _, known := c.undeclared[name]; !known {
			c.undeclared[name] = place()
		}
	}
}

// lacking are the declared members that the table does not have.
func (c *Columns) lacking() []string {
	return slices.DeleteFunc(c.d.Members(), func(name string) bool { return c.declared[name] })
}

// Undeclared lists what is not declared, that which is almost a declared member first.
func (c *Columns) Undeclared() []Undeclared {
	lacking := c.lacking()
	var list []Undeclared
	for name, place := range c.undeclared {
		list = append(list, Undeclared{place, cut(name), nearest(name, lacking)})
	}
	slices.SortFunc(list, func(a, b Undeclared) int {
		if a.Meant == "" && b.Meant != "" {
			return 1
		}
		if a.Meant != "" && b.Meant == "" {
			return -1
		}
		return cmp.Or(strings.Compare(a.Place, b.Place), strings.Compare(a.Name, b.Name))
	})
	return list[:min(len(list), maxProblems)]
}

func cut(name string) string {
	name = strings.ToValidUTF8(name, "")
	if len(name) > maxName {
		return strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return name
}

// nearest is the name that another one is almost: but for a third of its letters or their order, and whatever their case
// and what separates them. Empty if there is none.
func nearest(name string, among []string) string {
	if len(name) > maxName || len(among) == 0 {
		return ""
	}
	if i := slices.IndexFunc(among, func(other string) bool { return inOrder(other) == inOrder(name) }); i >= 0 {
		return among[i]
	}
	distance := func(other string) int { return levenshtein.ComputeDistance(letters(name), letters(other)) }
	best := slices.MinFunc(among, func(a, b string) int { return distance(a) - distance(b) })
	if distance(best) > len(letters(best))/3 {
		return ""
	}
	return best
}

// inOrder sorts letters, so that swapped ones make no difference.
func inOrder(name string) string {
	sorted := []rune(letters(name))
	slices.Sort(sorted)
	return string(sorted)
}

func letters(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}
