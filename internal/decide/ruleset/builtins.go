package ruleset

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/plan"
	"github.com/usher-dps/usher/internal/decide/rendezvous"
)

// customBuiltins returns the functions that Usher adds to Rego. They are in the namespace "usher", and their results
// depend only on their arguments. Rules call them through rules/lib, which explains what they are for. They are in Go
// because the same in Rego takes a multiple of the time of the rest of a decision.
func customBuiltins() []function {
	hubs := types.NewArray(nil, types.S)
	return []function{
		custom("usher.certificate", "Reads an X.509 certificate. Undefined if the text is not a certificate. Signature, chain and dates are not checked.",
			builtinCertificate,
			types.Named("certificate", certificateType()).Description("with the names of DPS's X509CertificateInfo where that has the same members"),
			types.Named("text", types.S).Description("base64 of DER as DPS sends it, or PEM; at most 16 KiB")),
		custom("usher.hub_name", "Returns the name by which hubs are compared: the host name in lower case and without the label device, so that both host names of a hub give one name.",
			builtinHubName,
			types.Named("name", types.S).Description("such as contoso.azure-devices.net for Contoso.device.azure-devices.net"),
			types.Named("host", types.S).Description("host name or first label of a hub")),
		custom("usher.linked", "Finds linked hubs by name: an object from the usher.hub_name and the first label of each hub to the host name as given. If both host names of a hub are linked, the shorter counts; of two other spellings of one name the first.",
			builtinLinked,
			types.Named("hubs", types.NewObject(nil, types.NewDynamicProperty(types.S, types.S))).Description("name to host name"),
			types.Named("linked", hubs).Description("host names, such as input.linkedHubs")),
		custom("usher.matching", "Finds linked hubs by a glob, in which * is any text and ? one character, as in a rule's METADATA.",
			builtinMatching,
			types.Named("hubs", types.NewSet(types.S)).Description("those that match, as given"),
			types.Named("pattern", types.S).Description("compared without case with a hub's host name and with its first label"),
			types.Named("linked", hubs).Description("host names, such as input.linkedHubs")),
		custom("usher.choose", "Chooses a linked hub by weight, always the same for the same key, moving the fewest keys when hubs or weights change. Undefined if no linked hub has a weight above zero.",
			builtinChoose,
			types.Named("hub", types.S).Description("one of linked, as spelled there"),
			types.Named("key", types.S).Description("what is assigned, such as a registration ID; compared without case"),
			types.Named("hubs", types.NewAny(types.NewObject(nil, types.NewDynamicProperty(types.S, types.N)), hubs, types.NewSet(types.S))).
				Description("host names, first labels or globs as for usher.matching, without case: an object with their weights, zero for none, or an array or a set of hubs with equal weights; of two weights for one hub the higher counts"),
			types.Named("linked", hubs).Description("host names to choose from, such as input.linkedHubs")),
		custom("usher.fraction", "Places a key between 0 and 1, uniformly and always at the same place.",
			builtinFraction,
			types.Named("fraction", types.N).Description("at least 0 and below 1, with at most six decimals"),
			types.Named("key", types.S).Description("compared without case")),
	}
}

// function is a function that Usher adds to Rego, for topdown and for plans.
type function struct {
	*topdown.Builtin
	call plan.Function
}

func custom(name, description string, call plan.Function, result types.Type, args ...types.Type) function {
	_, isLookup := LookupName(name)
	// A wrong operand gets the function's name and the place of the call, as in OPA's own functions. Without them OPA drops
	// the error.
	named := func(c *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
		v, err := call(c, arguments)
		if operand, ok := errors.AsType[builtins.ErrOperand](err); ok {
			err = &topdown.Error{Code: topdown.TypeErr, Message: name + ": " + operand.Error(), Location: c.Location}
		}
		return v, err
	}
	return function{&topdown.Builtin{
		Decl: &ast.Builtin{Name: name, Description: description, Decl: types.NewFunction(args, result), CanSkipBctx: name != CertificateBuiltin && !isLookup},
		Func: plan.Function(named).ForTopdown(),
	}, named}
}

// certificateType lets the compiler refuse a misspelled property of a certificate.
func certificateType() types.Type {
	texts := types.NewArray(nil, types.S)
	object := func(members map[string]types.Type) types.Type {
		var properties []*types.StaticProperty
		for _, name := range slices.Sorted(maps.Keys(members)) {
			properties = append(properties, types.NewStaticProperty(name, members[name]))
		}
		return types.NewObject(properties, nil)
	}
	name := object(map[string]types.Type{"commonName": types.S, "serialNumber": types.S, "organization": texts,
		"organizationalUnit": texts, "country": texts, "province": texts, "locality": texts})
	return object(map[string]types.Type{"subject": name, "issuer": name, "serialNumber": types.S, "version": types.N,
		"notBeforeUtc": types.S, "notAfterUtc": types.S, "dnsNames": texts, "uris": texts,
		"sha1Thumbprint": types.S, "sha256Thumbprint": types.S})
}

// CertificateBuiltin is the function that reads certificates. Of a replayed request its result is known, and not the
// certificate.
const CertificateBuiltin = "usher.certificate"

func builtinCertificate(c *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
	text, err := textOperand(arguments, 1)
	if err != nil {
		return nil, err
	}
	if len(c.NDBuiltinCache) > 0 {
		if known, ok := c.NDBuiltinCache.Get(CertificateBuiltin, ast.NewArray(ast.StringTerm(text))); ok {
			return known, nil
		}
	}
	read, err := parseCertificate(c.Cancel, text)
	if err != nil {
		return nil, nil // undefined: to a rule, an unreadable certificate is none
	}
	return plan.NewObject(
		plan.Member{Name: "subject", Value: certificateName(read.Subject)},
		plan.Member{Name: "issuer", Value: certificateName(read.Issuer)},
		plan.Member{Name: "serialNumber", Value: read.SerialNumber},
		plan.Member{Name: "version", Value: ast.InternedTerm(read.Version).Value},
		plan.Member{Name: "notBeforeUtc", Value: read.NotBefore.Format(time.RFC3339)},
		plan.Member{Name: "notAfterUtc", Value: read.NotAfter.Format(time.RFC3339)},
		plan.Member{Name: "dnsNames", Value: textArray(read.DNSNames)},
		plan.Member{Name: "uris", Value: textArray(read.URIs)},
		plan.Member{Name: "sha1Thumbprint", Value: read.SHA1Thumbprint},
		plan.Member{Name: "sha256Thumbprint", Value: read.SHA256Thumbprint},
	), nil
}

// parseCertificate reads a certificate. That of the request may have been read already. OPA passes nothing else of an
// evaluation to a function than what can cancel it.
func parseCertificate(evaluation topdown.Cancel, text string) (*dps.Certificate, error) {
	if e, ok := evaluation.(interface{ shown() *dps.DeviceCertificate }); ok {
		if shown := e.shown(); shown != nil && shown.Text == text {
			return shown.Parse()
		}
	}
	return dps.ParseCertificate(text)
}

// certificateName leaves nothing out: an absent attribute is "" or [], so that rules need no guards.
func certificateName(n dps.CertificateName) plan.Value {
	return plan.NewObject(
		plan.Member{Name: "commonName", Value: n.CommonName},
		plan.Member{Name: "serialNumber", Value: n.SerialNumber},
		plan.Member{Name: "organization", Value: textArray(n.Organization)},
		plan.Member{Name: "organizationalUnit", Value: textArray(n.OrganizationalUnit)},
		plan.Member{Name: "country", Value: textArray(n.Country)},
		plan.Member{Name: "province", Value: textArray(n.Province)},
		plan.Member{Name: "locality", Value: textArray(n.Locality)},
	)
}

func textArray(texts []string) plan.Value {
	elements := make([]plan.Value, len(texts))
	for i, text := range texts {
		elements[i] = text
	}
	return plan.NewArray(elements...)
}

func builtinLinked(_ *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
	linked, err := hubOperand(arguments, 1)
	if err != nil {
		return nil, err
	}
	names := byName(linked)
	found := make([]plan.Member, 0, len(names))
	for name, hub := range names {
		found = append(found, plan.Member{Name: name, Value: hub})
	}
	return plan.NewObject(found...), nil
}

// byName maps the names and first labels of hubs to the host names as given. Of two hubs with one name the first counts,
// but of the two host names of a hub the shorter, so that the order does not matter.
func byName(linked []string) map[string]string {
	names := make(map[string]string, 2*len(linked))
	for _, hub := range linked {
		name := dps.HubName(hub)
		label, _, _ := strings.Cut(name, ".")
		for _, name := range []string{name, label} {
			if other, taken := names[name]; !taken || len(hub) < len(other) && dps.SameHub(hub, other) {
				names[name] = hub
			}
		}
	}
	return names
}

func builtinHubName(_ *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
	host, err := textOperand(arguments, 1)
	if err != nil {
		return nil, err
	}
	return dps.HubName(host), nil
}

func builtinMatching(_ *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
	pattern, err := textOperand(arguments, 1)
	if err != nil {
		return nil, err
	}
	linked, err := hubOperand(arguments, 2)
	if err != nil {
		return nil, err
	}
	found := ast.NewSetWithCapacity(len(linked))
	for _, hub := range hubsLike(lowerASCII(pattern), linked) {
		found.Add(ast.StringTerm(hub))
	}
	return found, nil
}

// hubsLike returns the hubs with a name or first label that matches a glob in lower case, each in one spelling, as byName
// chooses it.
func hubsLike(pattern string, linked []string) []string {
	found := make([]string, 0, len(linked))
	for _, hub := range linked {
		name := dps.HubName(hub)
		label, _, _ := strings.Cut(name, ".")
		if !matches(pattern, name) && !matches(pattern, label) && !matches(pattern, lowerASCII(hub)) {
			continue
		}
		same := slices.IndexFunc(found, func(other string) bool { return dps.SameHub(other, hub) })
		switch {
		case same < 0:
			found = append(found, hub)
		case len(hub) < len(found[same]):
			found[same] = hub
		}
	}
	return found
}

// lowerASCII puts a host name into lower case, as DNS compares it.
func lowerASCII(host string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, host)
}

// textOperand reads an argument that must be a string. Positions count from 1.
func textOperand(arguments []plan.Value, position int) (string, error) {
	if text, ok := plan.Text(arguments[position-1]); ok {
		return text, nil
	}
	return "", typeError(arguments, position, "string")
}

func typeError(arguments []plan.Value, position int, want ...string) error {
	return builtins.NewOperandTypeErr(position, plan.Term(arguments[position-1]).Value, want...)
}

// hubOperand reads an array of host names.
func hubOperand(arguments []plan.Value, position int) ([]string, error) {
	array := arguments[position-1]
	if !plan.IsArray(array) {
		return nil, typeError(arguments, position, "array")
	}
	var hubs []string
	var err error
	plan.Each(array, func(_, element plan.Value) bool {
		hub, ok := plan.Text(element)
		if !ok {
			err = builtins.NewOperandErr(position, "host names must be strings but one is %s", ast.ValueName(plan.Term(element).Value))
		}
		hubs = append(hubs, hub)
		return ok
	})
	return hubs, err
}

func builtinChoose(_ *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
	key, err := textOperand(arguments, 1)
	if err != nil {
		return nil, err
	}
	linked, err := hubOperand(arguments, 3)
	if err != nil {
		return nil, err
	}
	hubs := arguments[1]
	weighted := plan.IsObject(hubs)
	if !weighted && !plan.IsArray(hubs) && !plan.IsSet(hubs) {
		return nil, typeError(arguments, 2, "object", "array", "set")
	}
	names := byName(linked)
	var few [16]rendezvous.Candidate
	candidates := few[:0]
	plan.Each(hubs, func(name, value plan.Value) bool {
		weight := 1.0
		if weighted {
			weight, err = weightOf(name, value)
		} else {
			name = value
		}
		text, ok := plan.Text(name)
		switch {
		case err != nil:
			return false
		case !ok:
			err = builtins.NewOperandErr(2, "names must be strings but one is %s", ast.ValueName(plan.Term(name).Value))
			return false
		}
		folded := dps.HubName(text)
		if hub, ok := names[folded]; ok {
			candidates = append(candidates, rendezvous.Candidate{Name: dps.HubName(hub), Weight: weight})
		} else if strings.ContainsAny(folded, "*?") {
			for _, hub := range hubsLike(folded, linked) {
				candidates = append(candidates, rendezvous.Candidate{Name: dps.HubName(hub), Weight: weight})
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	name, ok := rendezvous.Choose(key, candidates)
	if !ok {
		return nil, nil
	}
	return names[name], nil
}

func weightOf(name, value plan.Value) (float64, error) {
	number, ok := plan.Number(value)
	if !ok {
		return 0, builtins.NewOperandErr(2, "weight of %s must be a number but is %s", plan.Term(name), ast.ValueName(plan.Term(value).Value))
	}
	weight, ok := number.Float64()
	if !ok || weight < 0 {
		return 0, builtins.NewOperandErr(2, "weight of %s must be a number from 0 to 1e308 but is %s", plan.Term(name), string(number))
	}
	return weight, nil
}

func builtinFraction(_ *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
	key, err := textOperand(arguments, 1)
	if err != nil {
		return nil, err
	}
	ppm := rendezvous.Fraction(key)
	if ppm == 0 {
		return ast.InternedTerm(0).Value, nil
	}
	// Written as a decimal rather than divided, because that is exact. The leading 1 keeps the zeros after the point.
	digits := strconv.Itoa(1_000_000 + ppm)[1:]
	return ast.Number("0." + strings.TrimRight(digits, "0")), nil
}
