package dataset

import "math/bits"

// MixKey hashes three numbers (splitmix64's finisher).
func MixKey(a, b, c uint64) uint64 {
	h := a
	for _, x := range [...]uint64{b, c, 0x9e3779b97f4a7c15} {
		h = (h ^ x) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

const feistelRounds = 6

// Permute is a bijection of 0…n-1: a Feistel network over the next even power
// of two, walked until the value is below n.
func Permute(key, i, n uint64) uint64 {
	half := halfBits(n)
	mask := uint64(1)<<half - 1
	for {
		l, r := i>>half, i&mask
		for round := range uint64(feistelRounds) {
			l, r = r, l^(MixKey(key, r, round)&mask)
		}
		if i = l<<half | r; i < n {
			return i
		}
	}
}

// Unpermute is the inverse of Permute.
func Unpermute(key, i, n uint64) uint64 {
	half := halfBits(n)
	mask := uint64(1)<<half - 1
	for {
		l, r := i>>half, i&mask
		for round := range uint64(feistelRounds) {
			l, r = r^(MixKey(key, l, feistelRounds-1-round)&mask), l
		}
		if i = l<<half | r; i < n {
			return i
		}
	}
}

func halfBits(n uint64) int { return max(1, (bits.Len64(n-1)+1)/2) }
