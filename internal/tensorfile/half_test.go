package tensorfile

import (
	"math"
	"testing"
)

// halfValue is the value of binary16 bits by the definition of the format.
func halfValue(h uint16) float64 {
	sign, exp, man := 1.0, int(h>>10&0x1f), float64(h&0x3ff)
	if h&0x8000 != 0 {
		sign = -1
	}
	switch exp {
	case 0:
		return sign * math.Ldexp(man, -24)
	case 0x1f:
		if man != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(1024+man, exp-25)
}

func bfloatValue(h uint16) float64 {
	sign, exp, man := 1.0, int(h>>7&0xff), float64(h&0x7f)
	if h&0x8000 != 0 {
		sign = -1
	}
	switch exp {
	case 0:
		return sign * math.Ldexp(man, -133)
	case 0xff:
		if man != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(128+man, exp-134)
}

// TestSixteenBitExhaustive checks all 65536 codes of both types against the
// definition, both ways, and the rounding at and around every midpoint.
// Tolerance: none.
func TestSixteenBitExhaustive(t *testing.T) {
	types := []struct {
		name  string
		up    func(uint16) float32
		down  func(float32) uint16
		value func(uint16) float64
		inf   uint16
		huge  float64 // the first value that would need one more exponent
	}{
		{"F16", F16toF32, F32toF16, halfValue, 0x7c00, 65536},
		{"BF16", BF16toF32, F32toBF16, bfloatValue, 0x7f80, math.Ldexp(1, 128)},
	}
	for _, tt := range types {
		for c := 0; c < 1<<16; c++ {
			h := uint16(c)
			want := tt.value(h)
			got := tt.up(h)
			if math.IsNaN(want) {
				back := tt.down(got)
				if got == got || tt.value(back) == tt.value(back) || back&0x8000 != h&0x8000 {
					t.Fatalf("%s %#04x: NaN became %v, then %#04x", tt.name, h, got, back)
				}
				continue
			}
			if float64(got) != want || math.Signbit(float64(got)) != math.Signbit(want) {
				t.Fatalf("%s %#04x: got %v, want %v", tt.name, h, got, want)
			}
			if back := tt.down(got); back != h {
				t.Fatalf("%s %#04x: came back as %#04x", tt.name, h, back)
			}
		}
		for h := uint16(0); h < tt.inf; h++ {
			next := tt.value(h + 1)
			if h+1 == tt.inf {
				next = tt.huge
			}
			mid := float32((tt.value(h) + next) / 2)
			even := h + h&1
			for _, c := range []struct {
				f    float32
				want uint16
			}{
				{math.Nextafter32(mid, 0), h}, {mid, even},
				{math.Nextafter32(mid, float32(math.Inf(1))), h + 1},
			} {
				if got := tt.down(c.f); got != c.want {
					t.Fatalf("%s(%v): got %#04x, want %#04x", tt.name, c.f, got, c.want)
				}
				if got := tt.down(-c.f); got != c.want|0x8000 {
					t.Fatalf("%s(%v): got %#04x, want %#04x", tt.name, -c.f, got, c.want|0x8000)
				}
			}
		}
	}
}

func TestRoundingOutside(t *testing.T) {
	for _, c := range []struct {
		f        float32
		f16, b16 uint16
	}{
		{float32(math.Inf(1)), 0x7c00, 0x7f80},
		{float32(math.Inf(-1)), 0xfc00, 0xff80},
		{math.MaxFloat32, 0x7c00, 0x7f80},
		{1e30, 0x7c00, 0x714a},
		{math.SmallestNonzeroFloat32, 0, 0},
		{-math.SmallestNonzeroFloat32, 0x8000, 0x8000},
		{1, 0x3c00, 0x3f80},
		{math.Float32frombits(0x7f800001), 0x7e00, 0x7fc0}, // signalling NaN with a low payload
	} {
		if got := F32toF16(c.f); got != c.f16 {
			t.Errorf("F32toF16(%v) = %#04x, want %#04x", c.f, got, c.f16)
		}
		if got := F32toBF16(c.f); got != c.b16 {
			t.Errorf("F32toBF16(%v) = %#04x, want %#04x", c.f, got, c.b16)
		}
	}
}
