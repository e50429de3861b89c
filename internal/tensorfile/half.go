package tensorfile

import "math"

// F16toF32 converts IEEE binary16 bits to a float32, exactly. A NaN's payload moves
// to the top of the wider mantissa.
func F16toF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp := uint32(h>>10) & 0x1f
	man := uint32(h & 0x3ff)
	switch {
	case exp == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | man<<13)
	case exp != 0:
		return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
	}
	// Subnormal: man * 2^-24 is exact in float32.
	f := float32(man) * (1.0 / (1 << 24))
	return math.Float32frombits(sign | math.Float32bits(f))
}

// F32toF16 rounds a float32 to IEEE binary16 bits, to nearest even. Overflow
// gives an infinity, NaN stays NaN.
func F32toF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN: keep the top of the payload, and make it quiet
		return sign | 0x7e00 | uint16(b>>13&0x3ff)
	case b >= 0x477ff000: // rounds to 2^16 or beyond
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: count in steps of 2^-24
		// Adding 2^-1 puts the step at the last mantissa bit of the sum, so that the
		// hardware rounds to nearest even at the right place.
		sum := math.Float32frombits(b) + 0.5
		return sign | uint16(math.Float32bits(sum)-0x3f000000)
	}
	b -= 112 << 23
	b += 0xfff + b>>13&1
	return sign | uint16(b>>13)
}

// BF16toF32 converts bfloat16 bits to a float32, exactly.
func BF16toF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32toBF16 rounds a float32 to bfloat16 bits, to nearest even. NaN stays NaN.
func F32toBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	b += 0x7fff + b>>16&1
	return uint16(b >> 16)
}
