// Package rendezvous chooses one of several weighted names for a key (highest random weight hashing). It chooses the
// same name on every machine and in every release, and when names or weights change, as few keys as possible move.
//
// Every name draws a number that depends only on the key and the name, and divides it by its weight; the lowest result
// wins. So if a name is added, drained or gets another weight, only its own number changes: a key only moves to that
// name or away from it.
//
// The package does not know IoT hubs or devices, does not read the clock, and keeps no state. Tests pin its results,
// because a change of one bit would move devices between hubs in production.
package rendezvous

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
)

// Candidate is a name that can be chosen, and its share of the keys.
type Candidate struct {
	// Name is compared without the case of ASCII letters, so that a different spelling does not move keys.
	Name string
	// Weight is the share, relative to the weights of the other candidates. A weight that is zero, negative, infinite
	// or not a number never wins.
	Weight float64
}

// Choose returns the name of the candidate that wins the key, in the candidate's spelling, and false if no candidate
// has a usable weight.
//
// The result does not depend on the order of the candidates or on the ASCII case of key. If a name occurs twice, its
// higher weight applies.
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
		// This is one division of exact operands, which IEEE 754 rounds in the same way on every platform. There is no
		// product with which it could be fused.
		cc := float64(draw(k.hash(c.Name))) / c.Weight
		if !found || cc < cost || (cc == cost && before(c.Name, best.Name)) {
			best, cost, found = c, cc, true
		}
	}
	return best.Name, found
}

// fractionParts is the resolution of Fraction: a fleet of a million devices can move one device at a time.
const fractionParts = 1_000_000

// Fraction returns the position of the key in [0, 1), in parts per million. Keys are uniformly distributed. The
// position of a key never changes and does not depend on its ASCII case.
func Fraction(key string) int {
	hi, _ := bits.Mul64(newDigest(key).fraction, fractionParts)
	return int(hi)
}

// digest is what a key contributes to its draws.
type digest struct {
	k0, k1   uint64 // key of the hash of each name
	fraction uint64 // independent of k0 and k1, so that Fraction and Choose are not correlated
}

// newDigest hashes the key with SHA-256, so that sequential registration IDs ("dev-000001", "dev-000002") give
// unrelated digests, and no one can find an ID for a certain hub faster than by trying.
func newDigest(key string) digest {
	var buf [192]byte // registration IDs have at most 128 characters; longer keys go to the heap
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

// drawBits is the number of bits of draw after the binary point. The integer part is at most 64, so the result stays
// below 2^53 and converts to float64 without rounding.
const drawBits = 47

// draw returns -log2(u) in units of 2^-47, where u is the uniform hash as a fraction of 2^64. That is an exponentially
// distributed number, and if such numbers are divided by weights, each name has the lowest with a probability in
// proportion to its weight. The logarithm is calculated bit by bit with integers, because platform-specific
// implementations of math.Log differ in the last bit.
func draw(hash uint64) uint64 {
	hash |= 1 // keeps u above zero; the bias is one in 2^64
	zeros := bits.LeadingZeros64(hash)
	m := hash << zeros // mantissa in [1, 2), with 63 bits after the point
	var frac uint64
	for range drawBits {
		// Squaring doubles the logarithm. Whether the square is at least 2 is the next bit.
		hi, lo := bits.Mul64(m, m)
		frac = frac<<1 | hi>>63
		if hi>>63 == 0 {
			hi = hi<<1 | lo>>63
		}
		m = hi
	}
	return uint64(zeros+1)<<drawBits - frac
}

// before orders names with the same cost: by the folded names, and spellings of the same name by their bytes.
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

// fold converts only ASCII letters to lower case. Registration IDs and host names have no others, and Unicode's case
// tables change between releases of Go.
func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
