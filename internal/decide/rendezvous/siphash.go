package rendezvous

import "math/bits"

// hash returns SipHash-2-4 of the folded name with the digest's key. This is a keyed hash for short strings, which
// makes the draws of two names unrelated.
//
// Specification and test vectors: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012.
func (d digest) hash(name string) uint64 {
	v0 := d.k0 ^ 0x736f6d6570736575
	v1 := d.k1 ^ 0x646f72616e646f6d
	v2 := d.k0 ^ 0x6c7967656e657261
	v3 := d.k1 ^ 0x7465646279746573

	last := uint64(len(name)) << 56
	for ; len(name) >= 8; name = name[8:] {
		m := foldWord(uint64(name[0]) | uint64(name[1])<<8 | uint64(name[2])<<16 | uint64(name[3])<<24 |
			uint64(name[4])<<32 | uint64(name[5])<<40 | uint64(name[6])<<48 | uint64(name[7])<<56)
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	// The last word contains the rest of the name and the low byte of its length.
	for i := range len(name) {
		last |= uint64(fold(name[i])) << (8 * i)
	}
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last

	v2 ^= 0xff
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}

// foldWord folds eight bytes at once.
func foldWord(w uint64) uint64 {
	const every = 0x0101010101010101
	low := w &^ (every * 0x80)
	// Bit 7 of each byte: at least 'A', above 'Z', and not ASCII.
	fromA := low + every*(0x80-'A')
	beyondZ := low + every*(0x7f-'Z')
	upper := fromA &^ beyondZ &^ w & (every * 0x80)
	return w | upper>>2 // 0x80 becomes 0x20, the difference between 'A' and 'a'
}
