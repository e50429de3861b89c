package tensorfile

import "math"

// codes8 holds the values of the 256 codes of every 8-bit float. E4M3 and E5M2 are
// those of the OCP 8-bit floating point specification; the FNUZ types have one
// zero, no infinity and one NaN (arXiv 2206.02915); E8M0 is the scale of the OCP
// microscaling formats.
var codes8 = map[DType]*[256]float32{
	F8_E4M3:     codes(func(b byte) float64 { return minifloat(b, 3, 7, b&0x7f == 0x7f) }),
	F8_E5M2:     codes(e5m2),
	F8_E4M3FNUZ: codes(func(b byte) float64 { return minifloat(b, 3, 8, b == 0x80) }),
	F8_E5M2FNUZ: codes(func(b byte) float64 { return minifloat(b, 2, 16, b == 0x80) }),
	F8_E8M0: codes(func(b byte) float64 {
		if b == 0xff {
			return math.NaN()
		}
		return math.Ldexp(1, int(b)-127)
	}),
}

func codes(value func(b byte) float64) *[256]float32 {
	t := new([256]float32)
	for i := range t {
		t[i] = float32(value(byte(i)))
	}
	return t
}

// minifloat is the value of b with the given number of mantissa bits, as in IEEE
// 754 but without infinities.
func minifloat(b byte, mantissa, bias int, nan bool) float64 {
	man, exp := int(b)&(1<<mantissa-1), int(b&0x7f)>>mantissa
	v := math.Ldexp(float64(man), 1-bias-mantissa)
	if exp > 0 {
		v = math.Ldexp(float64(man+1<<mantissa), exp-bias-mantissa)
	}
	if nan {
		v = math.NaN()
	}
	if b&0x80 != 0 {
		v = math.Copysign(v, -1)
	}
	return v
}

// e5m2 is the upper half of a binary16.
func e5m2(b byte) float64 { return float64(F16toF32(uint16(b) << 8)) }
