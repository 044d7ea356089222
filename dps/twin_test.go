package dps_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
)

// nestedObjects returns n objects, one in the other, with a leaf in the last.
func nestedObjects(n int) map[string]any {
	value := map[string]any{"leaf": "x"}
	for i := n; i > 0; i-- {
		value = map[string]any{fmt.Sprint(i): value}
	}
	return value
}

// sized returns an object that IoT Hub counts as size bytes: 1 for each key and as many as it has characters for each
// string.
func sized(size int) map[string]any {
	object := map[string]any{}
	for i := rune('a'); size > 0; i++ {
		n := min(size-1, 4000)
		object[string(i)] = strings.Repeat("x", n)
		size -= n + 1
	}
	return object
}

func TestCheckInitialTwin(t *testing.T) {
	t.Parallel()
	tags := func(name string, value any) map[string]any {
		return map[string]any{"tags": map[string]any{name: value}}
	}
	desired := func(value any) map[string]any {
		return map[string]any{"properties": map[string]any{"desired": value}}
	}
	number := func(text string) map[string]any { return tags("n", json.Number(text)) }
	tests := []struct {
		name string
		twin map[string]any
		want []string
	}{
		{"nil", nil, nil},
		{"empty", map[string]any{}, nil},
		{"empty sections", map[string]any{"tags": map[string]any{}, "properties": map[string]any{"desired": map[string]any{}}}, nil},
		{"properties without desired", map[string]any{"properties": map[string]any{}}, nil},
		{"usual", map[string]any{
			"tags":       map[string]any{"site": "FRA", "floor": json.Number("3"), "list": []any{"a", json.Number("1.5"), true, nil}},
			"properties": map[string]any{"desired": map[string]any{"interval": json.Number("60"), "off": nil}}}, nil},

		{"unknown at the top", map[string]any{"tags": map[string]any{}, "deviceScope": "x"},
			[]string{"/deviceScope: an initial twin has no such member here, only tags and properties"}},
		{"Tags", map[string]any{"Tags": map[string]any{}},
			[]string{"/Tags: an initial twin has no such member here, only tags and properties"}},
		{"desired at the top", map[string]any{"desired": map[string]any{}},
			[]string{"/desired: an initial twin has no such member here, only tags and properties"}},
		{"reported", map[string]any{"properties": map[string]any{"reported": map[string]any{}}},
			[]string{"/properties/reported: an initial twin has no such member here, only desired"}},
		{"names are escaped", map[string]any{"a/b~c": true},
			[]string{"/a~1b~0c: an initial twin has no such member here, only tags and properties"}},
		{"tags no object", map[string]any{"tags": "x"}, []string{"/tags: not an object"}},
		{"tags null", map[string]any{"tags": nil}, []string{"/tags: not an object"}},
		{"properties no object", map[string]any{"properties": []any{}}, []string{"/properties: not an object"}},
		{"desired no object", desired(json.Number("1")), []string{"/properties/desired: not an object"}},

		{"tags at the limit", map[string]any{"tags": sized(8 << 10)}, nil},
		{"tags one over", map[string]any{"tags": sized(8<<10 + 1)}, []string{"/tags: 8193 bytes as IoT Hub counts them, over its limit of 8192"}},
		{"desired at the limit", desired(sized(32 << 10)), nil},
		{"desired one over", desired(sized(32<<10 + 1)), []string{"/properties/desired: 32769 bytes as IoT Hub counts them, over its limit of 32768"}},
		{"properties are counted apart from tags", map[string]any{"tags": sized(8 << 10), "properties": map[string]any{"desired": sized(32 << 10)}}, nil},

		{"ten objects deep", map[string]any{"tags": nestedObjects(10)}, nil},
		{"eleven objects deep", map[string]any{"tags": nestedObjects(11)},
			[]string{"/tags/1/2/3/4/5/6/7/8/9/10/11: nested deeper than 10 objects"}},
		{"ten objects deep in desired", desired(nestedObjects(10)), nil},
		{"eleven objects deep in desired", desired(nestedObjects(11)),
			[]string{"/properties/desired/1/2/3/4/5/6/7/8/9/10/11: nested deeper than 10 objects"}},
		{"eleven objects deep through an array", tags("0", []any{nestedObjects(10)}),
			[]string{"/tags/0/0/1/2/3/4/5/6/7/8/9/10: nested deeper than 10 objects"}},

		{"key at the limit", tags(strings.Repeat("k", 1024), true), nil},
		{"key one over", tags(strings.Repeat("k", 1025), true), []string{"/tags/" + strings.Repeat("k", 250) + "…: a key of 1025 bytes, over the limit of 1024"}},
		{"key limit is in bytes", tags(strings.Repeat("ä", 513), true), []string{"/tags/" + strings.Repeat("ä", 125) + "…: a key of 1026 bytes, over the limit of 1024"}},
		{"empty key", tags("", true), nil}, // IoT Hub allows it
		{"key with a dot", tags("a.b", true), []string{`/tags/a.b: a key with '.'`}},
		{"key with a dollar", tags("$a", true), []string{`/tags/$a: a key with '$'`}},
		{"key with a space", tags("a b", true), []string{`/tags/a b: a key with ' '`}},
		{"key with C0", tags("a\tb", true), []string{"/tags/a\tb: a key with a control character"}},
		{"key with DEL", tags("a\x7fb", true), []string{"/tags/a\x7fb: a key with a control character"}},
		{"key with C1", tags("a\u0085b", true), []string{"/tags/a\u0085b: a key with a control character"}},
		{"key after C1", tags("a\u00a0b", true), nil},
		{"key of other letters", tags("Überdruck-/_:ö", true), nil},
		{"key in an array", tags("a", []any{"x", map[string]any{"b.c": true}}), []string{`/tags/a/1/b.c: a key with '.'`}},

		{"largest integer", number("4503599627370495"), nil},
		{"one more", number("4503599627370496"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"smallest integer", number("-4503599627370496"), nil},
		{"one less", number("-4503599627370497"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"largest integer with decimals", number("4503599627370495.000"), nil},
		{"one more with decimals", number("4503599627370496.0"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"integer by exponent", number("1e3"), nil},
		{"large integer by exponent", number("1e16"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"integer of 30 digits", number("123456789012345678901234567890"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"beyond any float", number("1e99999999999"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"far beyond any float", number("1e999999999"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"beyond any big.Float", number("1e2147483647"), []string{"/tags/n: an integer beyond -4503599627370496 to 4503599627370495"}},
		{"no integer", number("1.5"), nil},
		{"small", number("1e-300"), nil},
		{"minus zero", number("-0"), nil},
		{"large integer in an array", tags("a", []any{[]any{json.Number("1e16")}}), []string{"/tags/a/0/0: an integer beyond -4503599627370496 to 4503599627370495"}},

		{"string at the limit", tags("s", strings.Repeat("x", 4096)), nil},
		{"string one over", tags("s", strings.Repeat("x", 4097)), []string{"/tags/s: a string of 4097 bytes, over the limit of 4096"}},
		{"string limit is in bytes", tags("s", strings.Repeat("ä", 2049)), []string{"/tags/s: a string of 4098 bytes, over the limit of 4096"}},
		{"string in an array", tags("a", []any{"", strings.Repeat("x", 4097)}), []string{"/tags/a/1: a string of 4097 bytes, over the limit of 4096"}},

		{"what IoT Hub writes is not counted", map[string]any{
			"tags":       map[string]any{"$version": json.Number("1e16"), "$metadata": nestedObjects(20)},
			"properties": map[string]any{"desired": map[string]any{"$version": json.Number("1"), "$metadata": sized(40000)}}}, nil},
		{"below, it is like any key", tags("a", map[string]any{"$version": json.Number("1")}), []string{`/tags/a/$version: a key with '$'`}},

		{"several, in order", map[string]any{
			"z": true, "a": true,
			"tags": map[string]any{"b.c": strings.Repeat("x", 4097), "s": sized(9000), "k": map[string]any{"d e": true}},
			"properties": map[string]any{"reported": true,
				"desired": map[string]any{"n": json.Number("1e20"), "s": sized(33000)}},
		}, []string{
			"/a: an initial twin has no such member here, only tags and properties",
			"/properties/desired: 33010 bytes as IoT Hub counts them, over its limit of 32768",
			"/properties/desired/n: an integer beyond -4503599627370496 to 4503599627370495",
			"/properties/reported: an initial twin has no such member here, only desired",
			"/tags: 13109 bytes as IoT Hub counts them, over its limit of 8192",
			"/tags/b.c: a key with '.'",
			"/tags/b.c: a string of 4097 bytes, over the limit of 4096",
			"/tags/k/d e: a key with ' '",
			"/z: an initial twin has no such member here, only tags and properties",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, problem := range dps.CheckInitialTwin(dps.ValueOf(test.twin)) {
				got = append(got, problem.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// How IoT Hub counts, shown by what is left until the limit of tags.
func TestTwinSize(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		member map[string]any
		want   int
	}{
		{"nothing", nil, 0},
		{"number", map[string]any{"n": json.Number("123456789012")}, 1 + 8},
		{"boolean", map[string]any{"b": true}, 1 + 4},
		{"null", map[string]any{"n": nil}, 1},
		{"string by character", map[string]any{"é": "€😀"}, 1 + 2},
		{"control characters do not count", map[string]any{"s": "a\n\t\u0085\x7fb"}, 1 + 2},
		{"object", map[string]any{"o": map[string]any{"ab": "cde"}}, 1 + 2 + 3},
		{"array", map[string]any{"a": []any{true, json.Number("1"), "xy", []any{"z"}, map[string]any{"k": false}}}, 1 + 4 + 8 + 2 + 1 + 1 + 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, over := range []int{0, 1} {
				// Keys of sized are single letters from a on; Z is none of them.
				tags := map[string]any{"Z": sized(dps.MaxTagsSize - 1 - test.want + over)}
				for name, value := range test.member {
					tags[name] = value
				}
				problems := dps.CheckInitialTwin(dps.ValueOf(map[string]any{"tags": tags}))
				if len(problems) != over {
					t.Errorf("with %d bytes beside it, %d over the limit: %v", dps.MaxTagsSize-test.want+over, over, problems)
				}
			}
		})
	}
}

func TestCheckInitialTwinIsDeterministic(t *testing.T) {
	t.Parallel()
	tags := map[string]any{}
	for i := range 60 {
		// Two problems at each of many places: more than a sort of few elements keeps in order by luck.
		tags[fmt.Sprintf("k.%d", i)] = strings.Repeat("x", 5000)
	}
	want := dps.CheckInitialTwin(dps.ValueOf(map[string]any{"tags": tags}))
	if len(want) != 121 {
		t.Fatalf("%d problems, want 121", len(want))
	}
	for range 50 {
		if diff := cmp.Diff(want, dps.CheckInitialTwin(dps.ValueOf(map[string]any{"tags": tags}))); diff != "" {
			t.Fatalf("another call says:\n%s", diff)
		}
	}
	if !slices.IsSortedFunc(want, func(a, b dps.TwinProblem) int { return strings.Compare(a.Pointer, b.Pointer) }) {
		t.Error("problems are not in the order of their places")
	}
}

func TestCheckInitialTwinQuotesNoValue(t *testing.T) {
	t.Parallel()
	twin := map[string]any{
		"tags":       secret,
		"other":      map[string]any{"x": secret},
		"properties": map[string]any{"desired": map[string]any{"a": strings.Repeat(secret, 400), "b.c": secret, "n": json.Number("9871236540987123654")}},
	}
	problems := dps.CheckInitialTwin(dps.ValueOf(twin))
	if len(problems) != 5 {
		t.Errorf("%d problems, want 5: %v", len(problems), problems)
	}
	for _, problem := range problems {
		if strings.Contains(problem.String(), secret) || strings.Contains(problem.String(), "98712") {
			t.Errorf("a problem shows a value: %s", problem)
		}
	}
}
