// Package rendezvous chooses one of several weighted names for a key, the same
// one on every machine and in every release, and with the fewest possible moves
// when the names or weights change (highest random weight hashing).
//
// Every name draws a number from the key and its own spelling alone, divides it
// by its weight, and the lowest wins. So a name that is added, drained or
// re-weighted changes its own number and no other: a key moves only to it or
// away from it.
//
// The package knows nothing of IoT hubs or devices; it does not read the clock,
// and keeps nothing between calls. Its outputs are pinned by tests, because a
// change of one bit would move devices between hubs in production.
package rendezvous

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
)

// Candidate is a name that can be chosen, and how much of the keys it should get.
type Candidate struct {
	// Name is compared without regard to the case of ASCII letters, so that
	// another spelling of a name does not move keys.
	Name string
	// Weight is the share relative to the other candidates' weights. A weight
	// that is zero, negative, infinite or not a number never wins.
	Weight float64
}

// Choose returns the name of the candidate that wins the key, in the spelling of
// that candidate, and false if no candidate has a usable weight.
//
// The answer does not depend on the order of the candidates or on the ASCII case
// of key. If a name is there twice, its higher weight counts.
func Choose(key string, candidates []Candidate) (string, bool) {
	k := newDigest(key)
	var (
		best  Candidate
		cost  float64
		found bool
	)
	for _, c := range candidates {
		if !(c.Weight > 0) || math.IsInf(c.Weight, 1) {
			continue
		}
		// One division of exact operands: IEEE 754 rounds it the same way on
		// every platform, and there is no product next to it to fuse with.
		cc := float64(draw(k.hash(c.Name))) / c.Weight
		if !found || cc < cost || (cc == cost && before(c.Name, best.Name)) {
			best, cost, found = c, cc, true
		}
	}
	return best.Name, found
}

// fractionParts is the resolution of Fraction: a fleet of a million devices can
// be moved one device at a time.
const fractionParts = 1_000_000

// Fraction returns where the key falls in [0, 1), in parts per million: uniform
// over keys, the same for ever for one key, and regardless of its ASCII case.
func Fraction(key string) int {
	hi, _ := bits.Mul64(newDigest(key).fraction, fractionParts)
	return int(hi)
}

// digest is what a key contributes to its draws.
type digest struct {
	k0, k1   uint64 // key of the hash that each name is drawn with
	fraction uint64 // apart from the above, so that Fraction tells nothing of Choose
}

// newDigest takes the key through SHA-256 once: sequential registration IDs
// ("dev-000001", "dev-000002") come out unrelated, and nobody can search for an
// ID that lands on a hub of their liking faster than by trying.
func newDigest(key string) digest {
	var buf [192]byte // registration IDs have at most 128 characters; longer keys spill to the heap
	folded := append(buf[:0], key...)
	for i, c := range folded {
		folded[i] = fold(c)
	}
	sum := sha256.Sum256(folded)
	return digest{
		k0:       binary.LittleEndian.Uint64(sum[0:]),
		k1:       binary.LittleEndian.Uint64(sum[8:]),
		fraction: binary.LittleEndian.Uint64(sum[16:]),
	}
}

// drawBits are the bits of draw behind the binary point. With at most 64 before
// it the result stays within 2^53 and converts to float64 without rounding.
const drawBits = 47

// draw turns a uniform hash into -log2(u), where u is the hash as a fraction of
// 2^64, in units of 2^-47. That is an exponentially distributed number, and of
// exponentials divided by weights the lowest falls to each name in proportion
// to its weight. The logarithm is taken bit by bit with integers, since
// math.Log has platform-specific implementations that differ in the last bit.
func draw(hash uint64) uint64 {
	hash |= 1 // keeps u above zero; one of 2^64 values is no bias
	zeros := bits.LeadingZeros64(hash)
	m := hash << zeros // mantissa in [1, 2), 63 bits behind the point
	var frac uint64
	for range drawBits {
		// Squaring doubles the logarithm; what it gains above 2 is its next bit.
		hi, lo := bits.Mul64(m, m)
		frac = frac<<1 | hi>>63
		if hi>>63 == 0 {
			hi = hi<<1 | lo>>63
		}
		m = hi
	}
	return uint64(zeros+1)<<drawBits - frac
}

// before orders names that cost the same: without case first, and between mere
// spellings of one name by the spelling.
func before(a, b string) bool {
	for i := range min(len(a), len(b)) {
		if x, y := fold(a[i]), fold(b[i]); x != y {
			return x < y
		}
	}
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

// fold lowers ASCII letters alone. Registration IDs and host names have no
// others, and Unicode's case tables change between releases of Go.
func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
