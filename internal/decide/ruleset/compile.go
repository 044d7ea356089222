package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/internal/decide/plan"
)

// Restricted reports whether a built-in function is off unless [Options.AllowBuiltins] names it: its result depends on
// the network, the clock, chance or the host, so that the same request could get another answer on another instance; or
// it compiles Rego itself, or computes without end.
func Restricted(builtin *ast.Builtin) bool {
	switch builtin.Name {
	case "opa.runtime", "rego.parse_module", "net.lookup_ip_addr", "http.send", "crypto.x509.parse_and_verify_certificates",
		"crypto.x509.parse_and_verify_certificates_with_options",
		"bits.lsh": // for a large number it computes for minutes, and cannot be interrupted
		return true
	}
	return builtin.Nondeterministic
}

// parserOptions contain the capabilities, which OPA would otherwise collect again for every file.
func (rs *Ruleset) parserOptions() ast.ParserOptions {
	return ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1, Capabilities: rs.capabilities}
}

// buildEnvironment determines what rules may call and what their input looks like.
func (rs *Ruleset) buildEnvironment() error {
	var problems []Problem
	rs.capabilities = ast.CapabilitiesForThisVersion()
	known := map[string]bool{}
	allowed := rs.capabilities.Builtins[:0]
	for _, builtin := range rs.capabilities.Builtins {
		known[builtin.Name] = true
		if !Restricted(builtin) || slices.Contains(rs.options.AllowBuiltins, builtin.Name) {
			allowed = append(allowed, builtin)
		}
	}
	for _, name := range rs.options.AllowBuiltins {
		if !known[name] {
			problems = append(problems, Problem{Message: fmt.Sprintf("OPA has no built-in function %q to allow", name)})
		}
	}
	rs.builtins, rs.functions = map[string]*topdown.Builtin{}, map[string]plan.Function{}
	added := customBuiltins()
	for _, d := range rs.lookups {
		added = append(added, rs.lookupFunction(d))
	}
	for _, f := range added {
		allowed = append(allowed, f.Decl)
		rs.added = append(rs.added, f.Builtin)
		rs.builtins[f.Decl.Name], rs.functions[f.Decl.Name] = f.Builtin, f.call
	}
	rs.builtins[notedBuiltin] = &topdown.Builtin{Func: note, Decl: &ast.Builtin{Name: notedBuiltin, Decl: types.NewFunction(types.Args(types.N), nil)}}
	rs.capabilities.Builtins = allowed
	rs.capabilities.AllowNet = append([]string{}, rs.options.AllowNet...) // nil would mean any host
	withBounded := *rs.capabilities
	withBounded.Builtins = slices.Clone(allowed)
	for _, builtin := range allowed {
		if by := bounded(builtin); by != nil {
			rs.builtins[by.Decl.Name] = by
			withBounded.Builtins = append(withBounded.Builtins, by.Decl)
		}
	}
	rs.compiling = &withBounded
	if rs.options.InputSchema != nil {
		rs.schemas = ast.NewSchemaSet()
		rs.schemas.Put(ast.SchemaRootRef, rs.options.InputSchema)
	}
	if len(problems) > 0 {
		return NewLoadError(problems)
	}
	return nil
}

// unbound finds packages with entry rules that serve no enrollment and that nothing refers to: with METADATA in the
// wrong place or misspelled, another rule would serve their devices, and no one would notice.
func (rs *Ruleset) unbound(all *units) []Problem {
	referred := map[*rulePackage]bool{}
	for _, u := range all.list {
		for p, byOther := range u.referred {
			referred[p] = referred[p] || byOther
		}
	}
	var problems []Problem
	for _, p := range rs.packages {
		if referred[p] || rs.ruleOf[p.name] != nil {
			continue
		}
		for _, e := range []string{entryReject, entryHold, entryHub} {
			rules := all.of[p.name].compiler.GetRulesExact(p.path.Append(ast.StringTerm(e)))
			if len(rules) == 0 {
				continue
			}
			problems = append(problems, Problem{
				Place:   PlaceOf(rules[0].Location),
				Message: fmt.Sprintf("package %s has the entry rule %s but serves no enrollment", p.name, e),
				Fix: "name enrollments under custom." + customGroups + " or custom." + customIndividuals +
					" in METADATA right above the package clause; or give the rule another name",
			})
			break
		}
	}
	return problems
}

// maxProblems bounds how many compile errors are listed.
const maxProblems = 50

// problemsOf turns OPA's errors into problems with a place and, if the message does not suggest one, a fix.
func problemsOf(err error) []Problem {
	list, ok := errors.AsType[ast.Errors](err)
	if !ok {
		one, ok := errors.AsType[*ast.Error](err)
		if !ok {
			return []Problem{{Message: err.Error()}}
		}
		list = ast.Errors{one}
	}
	problems := make([]Problem, 0, len(list))
	for _, e := range list {
		problem := Problem{Place: PlaceOf(e.Location), Message: e.Code + ": " + e.Message}
		if e.Details != nil {
			for _, line := range e.Details.Lines() {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "^") {
					problem.Message += "; " + line
				}
			}
		}
		if name, ok := strings.CutPrefix(e.Message, "undefined function "); ok && isRestricted(name) {
			problem.Fix = "this built-in is off; the setting USHER_RULES_BUILTINS allows it by name"
		}
		if strings.HasPrefix(e.Message, "yaml: ") {
			problem.Fix = "METADATA is YAML: put names with special characters into quotes, such as \"*-line\""
		}
		problems = append(problems, problem)
	}
	return problems
}

// compileProblems are the compiler's errors, with the other place if two places disagree.
func (rs *Ruleset) compileProblems(compiler *ast.Compiler) []Problem {
	problems := problemsOf(compiler.Errors)
	used := map[string]int{}
	for i := range problems {
		p := &problems[i]
		// OPA gives a reference the place of the last rule of the package that it leads into.
		if ref := undefinedRef(compiler.Errors[i]); ref.HasPrefix(ast.DefaultRootRef) {
			if places := placesOf(compiler, ref); used[ref.String()] < len(places) {
				p.Place = places[used[ref.String()]]
				used[ref.String()]++
			}
		}
		if found, ok := between(p.Message, "conflicting rule for data path ", " found"); ok {
			name := "data." + strings.ReplaceAll(found, "/", ".")
			p.Message = fmt.Sprintf("%s is a rule, but %s claims the same path", name, cmp.Or(rs.dataFileOf(found), "a data file"))
			p.Fix = "rename one of them: the folder of a data file is part of the path of its data"
		}
		if _, called, ok := strings.Cut(p.Message, "undefined function "+lookupPrefix); ok && p.Fix == "" {
			p.Fix = rs.declaredLookups(called)
		}
		if name, ok := between(p.Message, "conflicting rules ", " found"); ok {
			p.Message = fmt.Sprintf("definitions of %s are of different kinds: %s", name, kindsOf(compiler, name))
			p.Fix = "write all of them in one form, or give one another name"
			if strings.HasSuffix(name, ".reject") || strings.HasSuffix(name, ".hold") {
				p.Fix = "write all of them with contains, and no default"
			}
		}
	}
	return problems
}

// undefinedRef is the reference that an error of the type checker is about; nil for other errors.
func undefinedRef(e *ast.Error) ast.Ref {
	switch details := e.Details.(type) {
	case *ast.RefErrInvalidDetail:
		return details.Ref
	case *ast.RefErrUnsupportedDetail:
		return details.Ref
	}
	return nil
}

// placesOf lists where rules refer to something.
func placesOf(compiler *ast.Compiler, ref ast.Ref) []string {
	var places []string
	for _, file := range slices.Sorted(maps.Keys(compiler.Modules)) {
		ast.WalkTerms(compiler.Modules[file], func(term *ast.Term) bool {
			if found, ok := term.Value.(ast.Ref); ok && found.Equal(ref) {
				places = append(places, PlaceOf(term.Location))
			}
			return false
		})
	}
	return places
}

func between(text, start, end string) (string, bool) {
	_, rest, found := strings.Cut(text, start)
	rest, ends := strings.CutSuffix(rest, end)
	return rest, found && ends
}

// kindsOf lists the definitions of a rule with their kinds and places.
func kindsOf(compiler *ast.Compiler, name string) string {
	var kinds []string
	for _, file := range slices.Sorted(maps.Keys(compiler.Modules)) {
		for _, rule := range compiler.Modules[file].Rules {
			if rule.Ref().GroundPrefix().String() != name {
				continue
			}
			kind := "one value"
			switch {
			case rule.Default:
				kind = "a default"
			case len(rule.Head.Args) > 0:
				kind = fmt.Sprintf("a function of %d", len(rule.Head.Args))
			case rule.Head.RuleKind() == ast.MultiValue:
				kind = "a set (contains)"
			case !rule.Ref().IsGround():
				kind = "an object"
			}
			kinds = append(kinds, kind+" at "+PlaceOf(rule.Location))
		}
	}
	return strings.Join(kinds, ", ")
}

func isRestricted(name string) bool {
	builtin := ast.BuiltinMap[name]
	return builtin != nil && Restricted(builtin)
}

// headOf writes the head of a compiled rule as its author did. The compiler gives variables other names, and puts a
// variable in place of an expression.
func headOf(compiler *ast.Compiler, rule *ast.Rule) string {
	head := rule.Head.Ref().Copy()
	for i, term := range head[1:] {
		v, ok := term.Value.(ast.Var)
		if !ok {
			continue
		}
		written, ok := compiler.RewrittenVars[v]
		if !ok {
			written = ast.Var(expressionOf(rule.Body, v))
		}
		head[i+1] = ast.VarTerm(string(written))
	}
	return head.String()
}

// expressionOf returns the text of the expression that the compiler replaced by a variable; _ if the author named
// nothing.
func expressionOf(body ast.Body, v ast.Var) string {
	for _, expr := range body {
		terms, ok := expr.Terms.([]*ast.Term)
		if !ok || !expr.Generated {
			continue
		}
		for _, term := range terms {
			if text := string(expr.Location.Text); term.Value.Compare(v) == 0 && text != "" {
				return text
			}
		}
	}
	return "_"
}

// checkEntries finds a rule package that can say nothing, and entry rules of a form that cannot be right.
func checkEntries(compiler *ast.Compiler, rule *Rule) []Problem {
	var problems []Problem
	defined := 0
	for _, e := range entries {
		rules := compiler.GetRulesWithPrefix(rule.Entry(e))
		for _, r := range rules {
			place := PlaceOf(r.Location)
			below := len(r.Ref()) > len(rule.Entry(e)) // such as payload.greeting
			switch {
			case len(r.Head.Args) > 0:
				problems = append(problems, Problem{Place: place,
					Message: fmt.Sprintf("%s is a function, but %s is an entry rule of package %s", r.Head.Ref(), e, rule.Package),
					Fix:     "give the function another name"})
			case below && isGuard(e):
				problems = append(problems, Problem{Place: place,
					Message: fmt.Sprintf("%s makes an object of %s, which is a set of reasons", headOf(compiler, r), e),
					Fix:     fmt.Sprintf("write %s contains \"the reason\" if ...", e)})
			case below && e == entryHub:
				problems = append(problems, Problem{Place: place,
					Message: fmt.Sprintf("%s makes an object of hub, which is a host name", headOf(compiler, r)),
					Fix:     "define hub itself"})
			}
		}
		if len(rules) > 0 && e != entryInitialTwin && e != entryPayload {
			defined++
		}
	}
	if defined == 0 && len(problems) == 0 {
		problems = append(problems, Problem{Place: rule.Place,
			Message: fmt.Sprintf("package %s serves enrollments but has none of the rules hub, reject, hold", rule.Package),
			Fix:     "define hub"})
	}
	return problems
}
