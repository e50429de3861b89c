//go:build amd64 && goexperiment.simd

package logistic

import (
	"simd/archsimd"
	"unsafe"

	"golang.org/x/sys/cpu"
)

var fast = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// dots8 writes the products of four rows a with two rows b, n values each, a
// multiple of 4: out[2i+j] = a[i]·b[j]. Each sum runs in four parts, in order.
func dots8(out *[8]float64, a [4][]float64, b [2][]float64, n int) {
	if !fast {
		plainDots8(out, a, b, n)
		return
	}
	a0, a1, a2, a3 := start(a[0], n), start(a[1], n), start(a[2], n), start(a[3], n)
	b0, b1 := start(b[0], n), start(b[1], n)
	var s00, s01, s10, s11, s20, s21, s30, s31 archsimd.Float64x4
	for i := 0; i < n; i += 4 {
		off := uintptr(i) * 8
		y0, y1 := load(b0, off), load(b1, off)
		x := load(a0, off)
		s00, s01 = x.MulAdd(y0, s00), x.MulAdd(y1, s01)
		x = load(a1, off)
		s10, s11 = x.MulAdd(y0, s10), x.MulAdd(y1, s11)
		x = load(a2, off)
		s20, s21 = x.MulAdd(y0, s20), x.MulAdd(y1, s21)
		x = load(a3, off)
		s30, s31 = x.MulAdd(y0, s30), x.MulAdd(y1, s31)
	}
	var parts [8][4]float64
	s00.Store(&parts[0])
	s01.Store(&parts[1])
	s10.Store(&parts[2])
	s11.Store(&parts[3])
	s20.Store(&parts[4])
	s21.Store(&parts[5])
	s30.Store(&parts[6])
	s31.Store(&parts[7])
	archsimd.ClearAVXUpperBits()
	for i, p := range parts {
		out[i] = (p[0] + p[1]) + (p[2] + p[3])
	}
}

// outer adds rᵀ·x to out [4,8]: r [n,≥4] with rows ldr apart and a value behind the
// last, x [n,8] without gaps, the rows of out ldo apart. Each sum runs over n in
// order.
func outer(out []float64, ldo int, r []float64, ldr int, x []float64, n int) {
	if !fast {
		plainOuter(out, ldo, r, ldr, x, n)
		return
	}
	_ = out[3*ldo+7]
	p, q := start(r, (n-1)*ldr+5), start(x, 8*n)
	o := start(out, 3*ldo+8)
	row := uintptr(ldo) * 8
	s00, s01 := load(o, 0), load(o, 32)
	s10, s11 := load(o, row), load(o, row+32)
	s20, s21 := load(o, 2*row), load(o, 2*row+32)
	s30, s31 := load(o, 3*row), load(o, 3*row+32)
	for i := range n {
		x0, x1 := load(q, uintptr(i)*64), load(q, uintptr(i)*64+32)
		c := uintptr(i) * uintptr(ldr) * 8
		v := spread(p, c)
		s00, s01 = v.MulAdd(x0, s00), v.MulAdd(x1, s01)
		v = spread(p, c+8)
		s10, s11 = v.MulAdd(x0, s10), v.MulAdd(x1, s11)
		v = spread(p, c+16)
		s20, s21 = v.MulAdd(x0, s20), v.MulAdd(x1, s21)
		v = spread(p, c+24)
		s30, s31 = v.MulAdd(x0, s30), v.MulAdd(x1, s31)
	}
	save(o, 0, s00, s01)
	save(o, row, s10, s11)
	save(o, 2*row, s20, s21)
	save(o, 3*row, s30, s31)
	archsimd.ClearAVXUpperBits()
}

// start is where s lies; s has at least n values.
func start(s []float64, n int) unsafe.Pointer {
	_ = s[n-1]
	return unsafe.Pointer(unsafe.SliceData(s))
}

func load(p unsafe.Pointer, off uintptr) archsimd.Float64x4 {
	return archsimd.LoadFloat64x4((*[4]float64)(unsafe.Add(p, off)))
}

// spread has the value at off four times. It reads the one behind it, too: a
// load of two and a broadcast take a third of the time of BroadcastFloat64x4,
// which goes through a general register.
func spread(p unsafe.Pointer, off uintptr) archsimd.Float64x4 {
	return archsimd.LoadFloat64x2((*[2]float64)(unsafe.Add(p, off))).Broadcast1To4()
}

func save(p unsafe.Pointer, off uintptr, a, b archsimd.Float64x4) {
	a.Store((*[4]float64)(unsafe.Add(p, off)))
	b.Store((*[4]float64)(unsafe.Add(p, off+32)))
}
