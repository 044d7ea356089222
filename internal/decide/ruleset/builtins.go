package ruleset

import (
	"encoding/json"
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
	"github.com/usher-dps/usher/internal/decide/rendezvous"
)

// customBuiltins returns the functions that Usher adds to Rego. They are in the namespace "usher", and their results
// depend only on their arguments. Rules call them through rules/lib, which explains what they are for. They are in Go
// because the same in Rego takes a multiple of the time of the rest of a decision.
func customBuiltins() []*topdown.Builtin {
	hubs := types.NewArray(nil, types.S)
	return []*topdown.Builtin{
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

func custom(name, description string, impl topdown.BuiltinFunc, result types.Type, args ...types.Type) *topdown.Builtin {
	_, isLookup := LookupName(name)
	return &topdown.Builtin{
		Decl: &ast.Builtin{Name: name, Description: description, Decl: types.NewFunction(args, result), CanSkipBctx: name != CertificateBuiltin && !isLookup},
		// A wrong operand gets the function's name and the place of the call, as in OPA's own functions. Without them
		// OPA drops the error.
		Func: func(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
			err := impl(bctx, operands, iter)
			if operand, ok := errors.AsType[builtins.ErrOperand](err); ok {
				return &topdown.Error{Code: topdown.TypeErr, Message: name + ": " + operand.Error(), Location: bctx.Location}
			}
			return err
		},
	}
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

func builtinCertificate(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	if known, ok := bctx.NDBuiltinCache.Get(CertificateBuiltin, ast.NewArray(operands[0])); ok {
		return iter(ast.NewTerm(known))
	}
	text, err := builtins.StringOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	c, err := parseCertificate(bctx.Cancel, string(text))
	if err != nil {
		return nil // undefined: to a rule, an unreadable certificate is none
	}
	return iter(ast.ObjectTerm(
		ast.Item(ast.InternedTerm("subject"), certificateNameTerm(c.Subject)),
		ast.Item(ast.InternedTerm("issuer"), certificateNameTerm(c.Issuer)),
		ast.Item(ast.InternedTerm("serialNumber"), ast.StringTerm(c.SerialNumber)),
		ast.Item(ast.InternedTerm("version"), ast.IntNumberTerm(c.Version)),
		ast.Item(ast.InternedTerm("notBeforeUtc"), ast.StringTerm(c.NotBefore.Format(time.RFC3339))),
		ast.Item(ast.InternedTerm("notAfterUtc"), ast.StringTerm(c.NotAfter.Format(time.RFC3339))),
		ast.Item(ast.InternedTerm("dnsNames"), textsTerm(c.DNSNames)),
		ast.Item(ast.InternedTerm("uris"), textsTerm(c.URIs)),
		ast.Item(ast.InternedTerm("sha1Thumbprint"), ast.StringTerm(c.SHA1Thumbprint)),
		ast.Item(ast.InternedTerm("sha256Thumbprint"), ast.StringTerm(c.SHA256Thumbprint)),
	))
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

// certificateNameTerm leaves nothing out: an absent attribute is "" or [], so that rules need no guards.
func certificateNameTerm(n dps.CertificateName) *ast.Term {
	return ast.ObjectTerm(
		ast.Item(ast.InternedTerm("commonName"), ast.StringTerm(n.CommonName)),
		ast.Item(ast.InternedTerm("serialNumber"), ast.StringTerm(n.SerialNumber)),
		ast.Item(ast.InternedTerm("organization"), textsTerm(n.Organization)),
		ast.Item(ast.InternedTerm("organizationalUnit"), textsTerm(n.OrganizationalUnit)),
		ast.Item(ast.InternedTerm("country"), textsTerm(n.Country)),
		ast.Item(ast.InternedTerm("province"), textsTerm(n.Province)),
		ast.Item(ast.InternedTerm("locality"), textsTerm(n.Locality)),
	)
}

func textsTerm(texts []string) *ast.Term {
	terms := make([]*ast.Term, len(texts))
	for i, text := range texts {
		terms[i] = ast.StringTerm(text)
	}
	return ast.ArrayTerm(terms...)
}

func builtinLinked(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	linked, err := hubOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	names := byName(linked)
	found := ast.NewObjectWithCapacity(len(names))
	for name, hub := range names {
		found.Insert(ast.StringTerm(name), ast.StringTerm(hub))
	}
	return iter(ast.NewTerm(found))
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

func builtinHubName(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	host, err := builtins.StringOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	return iter(ast.StringTerm(dps.HubName(string(host))))
}

func builtinMatching(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	text, err := builtins.StringOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	linked, err := hubOperand(operands[1].Value, 2)
	if err != nil {
		return err
	}
	found := ast.NewSetWithCapacity(len(linked))
	for _, hub := range hubsLike(lowerASCII(string(text)), linked) {
		found.Add(ast.StringTerm(hub))
	}
	return iter(ast.NewTerm(found))
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

// hubOperand reads an array of host names.
func hubOperand(value ast.Value, position int) ([]string, error) {
	array, err := builtins.ArrayOperand(value, position)
	if err != nil {
		return nil, err
	}
	hubs := make([]string, 0, array.Len())
	err = array.Iter(func(element *ast.Term) error {
		hub, ok := element.Value.(ast.String)
		if !ok {
			return builtins.NewOperandErr(position, "host names must be strings but one is %s", ast.ValueName(element.Value))
		}
		hubs = append(hubs, string(hub))
		return nil
	})
	return hubs, err
}

func builtinChoose(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	key, err := builtins.StringOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	linked, err := hubOperand(operands[2].Value, 3)
	if err != nil {
		return err
	}
	names := byName(linked)
	var few [16]rendezvous.Candidate
	candidates := few[:0]
	add := func(name *ast.Term, weight float64) error {
		n, ok := name.Value.(ast.String)
		if !ok {
			return builtins.NewOperandErr(2, "names must be strings but one is %s", ast.ValueName(name.Value))
		}
		folded := dps.HubName(string(n))
		if hub, ok := names[folded]; ok {
			candidates = append(candidates, rendezvous.Candidate{Name: dps.HubName(hub), Weight: weight})
		} else if strings.ContainsAny(folded, "*?") {
			for _, hub := range hubsLike(folded, linked) {
				candidates = append(candidates, rendezvous.Candidate{Name: dps.HubName(hub), Weight: weight})
			}
		}
		return nil
	}
	equal := func(name *ast.Term) error { return add(name, 1) }
	switch hubs := operands[1].Value.(type) {
	case ast.Object:
		err = hubs.Iter(func(name, weight *ast.Term) error {
			w, err := weightOf(name, weight.Value)
			if err != nil {
				return err
			}
			return add(name, w)
		})
	case *ast.Array:
		err = hubs.Iter(equal)
	case ast.Set:
		err = hubs.Iter(equal)
	default:
		err = builtins.NewOperandTypeErr(2, hubs, "object", "array", "set")
	}
	if err != nil {
		return err
	}
	name, ok := rendezvous.Choose(string(key), candidates)
	if !ok {
		return nil
	}
	return iter(ast.StringTerm(names[name]))
}

func weightOf(name *ast.Term, value ast.Value) (float64, error) {
	number, ok := value.(ast.Number)
	if !ok {
		return 0, builtins.NewOperandErr(2, "weight of %s must be a number but is %s", name, ast.ValueName(value))
	}
	weight, ok := number.Float64()
	if !ok || weight < 0 {
		return 0, builtins.NewOperandErr(2, "weight of %s must be a number from 0 to 1e308 but is %s", name, string(number))
	}
	return weight, nil
}

func builtinFraction(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	key, err := builtins.StringOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	ppm := rendezvous.Fraction(string(key))
	if ppm == 0 {
		return iter(ast.InternedTerm(0))
	}
	// Written as a decimal rather than divided, because that is exact. The leading 1 keeps the zeros after the point.
	digits := strconv.Itoa(1_000_000 + ppm)[1:]
	return iter(ast.NumberTerm(json.Number("0." + strings.TrimRight(digits, "0"))))
}
