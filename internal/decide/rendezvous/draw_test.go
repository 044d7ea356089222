package rendezvous

import (
	"math"
	"strconv"
	"testing"
)

// These are the published vectors: key 00 01 … 0f, message 00 01 … of the given length. All bytes are below 'A', so
// folding does not change them.
func TestHashMatchesPublishedVectors(t *testing.T) {
	t.Parallel()
	d := digest{k0: 0x0706050403020100, k1: 0x0f0e0d0c0b0a0908}
	message := make([]byte, 64)
	for i := range message {
		message[i] = byte(i)
	}
	for _, tc := range []struct {
		length int
		want   uint64
	}{
		{0, 0x726fdb47dd0e0e31},
		{1, 0x74f839c593dc67fd},
		{7, 0xab0200f58b01d137},
		{8, 0x93f5f5799a932462},
		{15, 0xa129ca6149be45e5},
		{63, 0x958a324ceb064572},
	} {
		if got := d.hash(string(message[:tc.length])); got != tc.want {
			t.Errorf("hash of %d bytes = %#x, want %#x", tc.length, got, tc.want)
		}
	}
}

// The draw is -log2(hash/2^64) in units of 2^-47, which is exact for powers of two.
func TestDrawOfPowersOfTwo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		hash, want uint64
	}{
		{0, 64 << drawBits},
		{1, 64 << drawBits},
		{1<<64 - 1, 1},                            // as near to certainty as it gets: one unit above zero
		{0xb504f333f9de6485, 1 << (drawBits - 1)}, // 2^63.5: half a bit
	} {
		if got := draw(tc.hash); got != tc.want {
			t.Errorf("draw(%#x) = %d, want %d", tc.hash, got, tc.want)
		}
	}
}

func TestFoldWordFoldsEveryByte(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		for at := range 8 {
			// Neighbours on both sides of the letters, so that a carry between bytes would show.
			for _, other := range []byte{0, 'A', 'Z', 'z', 0x80, 0xff} {
				var in, want uint64
				for i := range 8 {
					b := other
					if i == at {
						b = byte(c)
					}
					in |= uint64(b) << (8 * i)
					want |= uint64(fold(b)) << (8 * i)
				}
				if got := foldWord(in); got != want {
					t.Fatalf("foldWord(%#016x) = %#016x, want %#016x", in, got, want)
				}
			}
		}
	}
}

// The integer logarithm equals the floating-point one up to the resolution of floats.
func TestDrawIsTheLogarithm(t *testing.T) {
	t.Parallel()
	d := newDigest("any")
	for i := range 10_000 {
		h := d.hash(strconv.Itoa(i)) >> (i % 60) // small hashes too, down to a few bits
		got := float64(draw(h)) / (1 << drawBits)
		want := 64 - math.Log2(float64(h|1))
		if math.Abs(got-want) > 1e-12 {
			t.Fatalf("draw(%#x) = %.15f, want %.15f", h, got, want)
		}
	}
}
