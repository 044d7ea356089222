package rendezvous_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/decide/rendezvous"
)

type candidates = []rendezvous.Candidate

// hubs returns n candidates of equal weight, with names like those of hubs.
func hubs(n int) candidates {
	cs := make(candidates, n)
	for i := range cs {
		cs[i] = rendezvous.Candidate{Name: fmt.Sprintf("contoso-hub-%02d.azure-devices.net", i), Weight: 1}
	}
	return cs
}

// fleets are the forms of registration IDs: sequential, sequential after a long common prefix, MAC addresses, and
// random.
func fleets(size int) map[string][]string {
	random := rand.New(rand.NewPCG(1, 2))
	fleets := map[string][]string{}
	for i := range size {
		fleets["sequential"] = append(fleets["sequential"], fmt.Sprintf("dev-%06d", i))
		fleets["long prefix"] = append(fleets["long prefix"], strings.Repeat("contoso:plant-1:", 6)+fmt.Sprint(i))
		fleets["mac"] = append(fleets["mac"], fmt.Sprintf("00:1b:44:%02x:%02x:%02x", i>>16&0xff, i>>8&0xff, i&0xff))
		fleets["random"] = append(fleets["random"], fmt.Sprintf("%016x", random.Uint64()))
	}
	return fleets
}

func choose(t *testing.T, key string, cs candidates) string {
	t.Helper()
	name, ok := rendezvous.Choose(key, cs)
	if !ok {
		t.Fatalf("Choose(%q) found nobody among %v", key, cs)
	}
	return name
}

// A change of any of these would move devices in production.
func TestChooseIsPinned(t *testing.T) {
	t.Parallel()
	equal := hubs(5)
	skewed := hubs(5)
	for i := range skewed {
		skewed[i].Weight = []float64{0.5, 1, 2.5, 4, 0}[i]
	}
	for _, tc := range []struct {
		key           string
		equal, skewed string
	}{
		{"", "contoso-hub-02.azure-devices.net", "contoso-hub-02.azure-devices.net"},
		{"dev-000001", "contoso-hub-02.azure-devices.net", "contoso-hub-02.azure-devices.net"},
		{"dev-000002", "contoso-hub-01.azure-devices.net", "contoso-hub-01.azure-devices.net"},
		{"dev-000005", "contoso-hub-00.azure-devices.net", "contoso-hub-03.azure-devices.net"},
		{"dev-000013", "contoso-hub-04.azure-devices.net", "contoso-hub-02.azure-devices.net"},
		{"breakroom499-contoso-tstrsd-007", "contoso-hub-01.azure-devices.net", "contoso-hub-01.azure-devices.net"},
		{"mainbuilding167-contoso-hpsd-088", "contoso-hub-02.azure-devices.net", "contoso-hub-02.azure-devices.net"},
		{"00:1b:44:11:3a:b7", "contoso-hub-03.azure-devices.net", "contoso-hub-03.azure-devices.net"},
	} {
		if got := choose(t, tc.key, equal); got != tc.equal {
			t.Errorf("Choose(%q, equal) = %q, want %q", tc.key, got, tc.equal)
		}
		if got := choose(t, tc.key, skewed); got != tc.skewed {
			t.Errorf("Choose(%q, skewed) = %q, want %q", tc.key, got, tc.skewed)
		}
	}
}

// The same for many more keys.
func TestChoicesArePinned(t *testing.T) {
	t.Parallel()
	cs := hubs(10)
	for i := range cs {
		cs[i].Weight = float64(i*i) / 10
	}
	sum := sha256.New()
	for i := range 5000 {
		key := fmt.Sprintf("dev-%06d", i)
		fmt.Fprintln(sum, choose(t, key, cs), rendezvous.Fraction(key))
	}
	const want = "56e1d2a0a5f6db027b94e2dc60b8aaec41046c09c340dbd64eeb75cf0050e4ad"
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		t.Errorf("digest of 5000 choices = %s, want %s", got, want)
	}
}

// A change would swap the sides of a staged move.
func TestFractionIsPinned(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key  string
		want int
	}{
		{"", 299127},
		{"dev-000001", 63945},
		{"DEV-000001", 63945},
		{"dev-000002", 95165},
		{"breakroom499-contoso-tstrsd-007", 256509},
	} {
		if got := rendezvous.Fraction(tc.key); got != tc.want {
			t.Errorf("Fraction(%q) = %d, want %d", tc.key, got, tc.want)
		}
	}
}

func TestChooseWithoutUsableWeight(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		in   candidates
	}{
		{"no candidates", nil},
		{"drained", candidates{{Name: "a", Weight: 0}, {Name: "b", Weight: 0}}},
		{"negative", candidates{{Name: "a", Weight: -1}}},
		{"not a number", candidates{{Name: "a", Weight: math.NaN()}}},
		{"infinite", candidates{{Name: "a", Weight: math.Inf(1)}}},
	} {
		if name, ok := rendezvous.Choose("dev-1", tc.in); ok || name != "" {
			t.Errorf("%s: Choose = %q, %v; want none", tc.name, name, ok)
		}
	}
}

func TestChooseIgnoresCaseAndOrder(t *testing.T) {
	t.Parallel()
	cs := hubs(7)
	for i := range cs {
		cs[i].Weight = float64(i + 1)
	}
	loud := slices.Clone(cs)
	for i := range loud {
		loud[i].Name = strings.ToUpper(loud[i].Name)
	}
	shuffled := slices.Clone(cs)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 500 {
		key := fmt.Sprintf("Dev-%d-x", i)
		want := choose(t, key, cs)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := choose(t, key, shuffled); got != want {
			t.Errorf("%s: order changed the choice from %s to %s", key, want, got)
		}
		if got := choose(t, strings.ToUpper(key), cs); got != want {
			t.Errorf("%s: case of the key changed the choice from %s to %s", key, want, got)
		}
		// The answer keeps the spelling of its candidate.
		if got := choose(t, key, loud); got != strings.ToUpper(want) {
			t.Errorf("%s: case of the names changed the choice from %s to %s", key, want, got)
		}
	}
}

// A name with two spellings is one name with the higher weight.
func TestChooseCountsANameOnce(t *testing.T) {
	t.Parallel()
	once := candidates{{Name: "a-hub", Weight: 3}, {Name: "b-hub", Weight: 2}}
	twice := append(slices.Clone(once), rendezvous.Candidate{Name: "A-HUB", Weight: 3}, rendezvous.Candidate{Name: "B-hub", Weight: 1})
	for i := range 500 {
		key := fmt.Sprint(i)
		if got, want := strings.ToLower(choose(t, key, twice)), choose(t, key, once); got != want {
			t.Fatalf("%s: spelled twice %s, once %s", key, got, want)
		}
	}
	for range 2 {
		if got := choose(t, "dev", candidates{{Name: "a", Weight: 1}, {Name: "A", Weight: 1}}); got != "A" {
			t.Fatalf("tie between spellings went to %q, want the lower one in bytes", got)
		}
	}
}

// Only the ratio of the weights matters.
func TestChooseIsUnchangedByScale(t *testing.T) {
	t.Parallel()
	small, large := hubs(6), hubs(6)
	for i := range small {
		small[i].Weight = float64(i+1) / 64
		large[i].Weight = float64(i+1) * 1024
	}
	for i := range 1000 {
		key := fmt.Sprint(i)
		if a, b := choose(t, key, small), choose(t, key, large); a != b {
			t.Fatalf("%s: %s with weights/64, %s with weights*1024", key, a, b)
		}
	}
}

func TestAddingMovesOnlyToTheNewHub(t *testing.T) {
	t.Parallel()
	const size = 8_000
	for fleet, ids := range fleets(size) {
		for _, n := range []int{1, 2, 5, 20} {
			old, grown := hubs(n), hubs(n+1)
			added := grown[n].Name
			moved := 0
			for _, id := range ids {
				was, is := choose(t, id, old), choose(t, id, grown)
				if was == is {
					continue
				}
				if is != added {
					t.Fatalf("%s: %s moved between old hubs, %s to %s", fleet, id, was, is)
				}
				moved++
			}
			near(t, fmt.Sprintf("%s: moved by hub %d", fleet, n+1), moved, size, 1/float64(n+1))
		}
	}
}

func TestDrainingMovesOnlyTheDrained(t *testing.T) {
	t.Parallel()
	before := hubs(8)
	after := slices.Clone(before)
	after[3].Weight = 0
	landed := map[string]int{}
	drained := 0
	for _, id := range fleets(16_000)["sequential"] {
		was, is := choose(t, id, before), choose(t, id, after)
		if was == before[3].Name {
			drained++
			landed[is]++
		} else if was != is {
			t.Fatalf("%s was not on the drained hub but moved from %s to %s", id, was, is)
		}
	}
	// The keys that moved are spread over all other names.
	for i, c := range after {
		if i == 3 {
			continue
		}
		near(t, "landed on "+c.Name, landed[c.Name], drained, 1.0/7)
	}
}

func TestReweightingMovesOnlyTowardsOrAway(t *testing.T) {
	t.Parallel()
	const size = 10_000
	for fleet, ids := range fleets(size) {
		before := hubs(5)
		up, down := slices.Clone(before), slices.Clone(before)
		up[2].Weight, down[2].Weight = 3, 0.25
		gained, lost := 0, 0
		for _, id := range ids {
			was := choose(t, id, before)
			if is := choose(t, id, up); is != was {
				if is != up[2].Name {
					t.Fatalf("%s: %s moved from %s to %s when another hub's weight rose", fleet, id, was, is)
				}
				gained++
			}
			if is := choose(t, id, down); is != was {
				if was != down[2].Name {
					t.Fatalf("%s: %s moved from %s to %s when another hub's weight fell", fleet, id, was, is)
				}
				lost++
			}
		}
		near(t, fleet+": gained", gained, size, 3.0/7-1.0/5)
		near(t, fleet+": lost", lost, size, 1.0/5-0.25/4.25)
	}
}

func TestSharesMatchWeights(t *testing.T) {
	t.Parallel()
	const size = 16_000
	for fleet, ids := range fleets(size) {
		for _, weights := range [][]float64{
			{1, 1},
			{1, 1, 1, 1, 1, 1, 1},
			{90, 9, 1},
			{0.7, 0.2, 0.1, 0},
			{3, 5, 7, 11, 13, 17, 19, 23, 29, 31},
		} {
			cs := hubs(len(weights))
			sum := 0.0
			for i, w := range weights {
				cs[i].Weight = w
				sum += w
			}
			counts := map[string]int{}
			for _, id := range ids {
				counts[choose(t, id, cs)]++
			}
			chi2, freedom := 0.0, -1
			for i, w := range weights {
				got := float64(counts[cs[i].Name])
				if w == 0 {
					if got != 0 {
						t.Errorf("%s %v: drained hub got %v", fleet, weights, got)
					}
					continue
				}
				want := size * w / sum
				chi2 += (got - want) * (got - want) / want
				freedom++
			}
			if bound := chiSquareBound(freedom); chi2 > bound {
				t.Errorf("%s: shares for weights %v are off: chi-square %.1f over %.1f: %v", fleet, weights, chi2, bound, counts)
			}
		}
	}
}

func TestFractionIsUniform(t *testing.T) {
	t.Parallel()
	const size, bins = 20_000, 50
	for fleet, ids := range fleets(size) {
		var counts [bins]int
		for _, id := range ids {
			f := rendezvous.Fraction(id)
			if f < 0 || f >= 1_000_000 {
				t.Fatalf("Fraction(%q) = %d, want within [0, 1000000)", id, f)
			}
			counts[f*bins/1_000_000]++
		}
		chi2 := 0.0
		for _, got := range counts {
			const want = float64(size) / bins
			chi2 += (float64(got) - want) * (float64(got) - want) / want
		}
		if bound := chiSquareBound(bins - 1); chi2 > bound {
			t.Errorf("%s: chi-square %.1f over %.1f: %v", fleet, chi2, bound, counts)
		}
	}
}

// If they were correlated, one side of a staged move would fill one hub.
func TestFractionTellsNothingOfChoose(t *testing.T) {
	t.Parallel()
	cs := hubs(4)
	low := map[string]int{}
	total := 0
	for _, id := range fleets(16_000)["sequential"] {
		if rendezvous.Fraction(id) < 100_000 {
			low[choose(t, id, cs)]++
			total++
		}
	}
	for _, c := range cs {
		near(t, c.Name, low[c.Name], total, 0.25)
	}
}

// chiSquareBound is exceeded by fewer than one in 160,000 true distributions (e^-12; Laurent and Massart's bound of the
// tail). The IDs are fixed, so the result is always the same.
func chiSquareBound(freedom int) float64 {
	const x = 12
	return float64(freedom) + 2*math.Sqrt(float64(freedom)*x) + 2*x
}

// near fails unless got of total is within five standard deviations of the share.
func near(t *testing.T, what string, got, total int, share float64) {
	t.Helper()
	want := float64(total) * share
	if slack := 5 * math.Sqrt(want*(1-share)); math.Abs(float64(got)-want) > slack {
		t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, total, want, slack)
	}
}

// Whatever the weights are: the winner is a candidate with a weight above zero, removing a loser changes nothing, and a
// higher weight keeps the winner.
func FuzzChoose(f *testing.F) {
	f.Add("dev-000001", "a", 1.0, "b", 2.0, "c", 0.0)
	f.Add("", "", 5e-324, "A", math.MaxFloat64, "a", 1.0)
	f.Add("x", "same", 1.0, "SAME", 1.0, "Same", 1.0)
	f.Fuzz(func(t *testing.T, key, a string, wa float64, b string, wb float64, c string, wc float64) {
		cs := candidates{{Name: a, Weight: wa}, {Name: b, Weight: wb}, {Name: c, Weight: wc}}
		name, ok := rendezvous.Choose(key, cs)
		usable := func(w float64) bool { return w > 0 && w <= math.MaxFloat64 }
		if want := usable(wa) || usable(wb) || usable(wc); ok != want {
			t.Fatalf("found = %v, want %v", ok, want)
		}
		if !ok {
			return
		}
		winner := slices.IndexFunc(cs, func(c rendezvous.Candidate) bool { return c.Name == name && usable(c.Weight) })
		if winner < 0 {
			t.Fatalf("chose %q, which has no weight in %v", name, cs)
		}
		for i := range cs {
			if cs[i].Name == name {
				continue
			}
			if got := choose(t, key, slices.Delete(slices.Clone(cs), i, i+1)); got != name {
				t.Fatalf("without the loser %q the choice went from %q to %q", cs[i].Name, name, got)
			}
		}
		cs[winner].Weight = math.MaxFloat64
		if got := choose(t, key, cs); got != name && !strings.EqualFold(got, name) && cs[slices.IndexFunc(cs, func(c rendezvous.Candidate) bool { return c.Name == got })].Weight < math.MaxFloat64 {
			t.Fatalf("with more weight the choice went from %q to %q", name, got)
		}
	})
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{2, 10, 50} {
		cs := hubs(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rendezvous.Choose("breakroom499-contoso-tstrsd-007", cs)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/hub")
		})
	}
}

func BenchmarkFraction(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		rendezvous.Fraction("staged-move/breakroom499-contoso-tstrsd-007")
	}
}
