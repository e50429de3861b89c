//go:build amd64 && goexperiment.simd

package kernels

import (
	"simd/archsimd"
	"sync"
)

// Depthwise is the shape of a convolution of x [Batch,Height,Width,Channels] with
// w [KernelHeight,KernelWidth,1,Channels] that keeps the channels apart, with
// Top and Left rows and columns of zeros before x and as many behind it as out
// [Batch,OutHeight,OutWidth,Channels] needs.
type Depthwise struct {
	Batch, Height, Width, Channels int
	KernelHeight, KernelWidth      int
	OutHeight, OutWidth            int
	Top, Left, StrideY, StrideX    int
}

// A band of rows with lanes channels and its zeros is copied into the cache; tile
// results stay in registers while all taps are added.
const (
	lanes, tile = 16, 4
	bandFloats  = 16 << 10
)

var bands = sync.Pool{New: func() any { return new([]float32) }}

// Depthwise writes the convolution of x with w to out.
func (t Threads) Depthwise(out, x, w []float32, g Depthwise) {
	columns := ((g.OutWidth+tile-1)/tile*tile-1)*g.StrideX + g.KernelWidth
	rows := 1 // of out, in a band
	if fit := bandFloats / lanes / columns; fit > g.KernelHeight {
		rows = min(g.OutHeight, (fit-g.KernelHeight)/g.StrideY+1)
	}
	parts, blocks := (g.OutHeight+rows-1)/rows, (g.Channels+lanes-1)/lanes
	t.parallel(g.Batch*blocks*parts, rows*g.OutWidth*lanes*g.KernelHeight*g.KernelWidth, func(i int) {
		first, block, image := i%parts*rows, i/parts%blocks, i/parts/blocks
		g.band(out, x, w, image, block*lanes, first, min(rows, g.OutHeight-first), columns)
	})
}

// band computes rows rows of out, from first on, of up to lanes channels from c on.
func (g *Depthwise) band(out, x, w []float32, image, c, first, rows, columns int) {
	n := min(lanes, g.Channels-c)
	taps := g.KernelHeight * g.KernelWidth
	high := (rows-1)*g.StrideY + g.KernelHeight
	pooled := bands.Get().(*[]float32)
	defer bands.Put(pooled)
	if size := lanes * (taps + high*columns); cap(*pooled) < size {
		*pooled = make([]float32, size)
	}
	kernel := (*pooled)[:lanes*taps]
	in := (*pooled)[lanes*taps : lanes*(taps+high*columns)]
	clear(kernel)
	clear(in)
	for i := range taps {
		copy(kernel[i*lanes:], w[i*g.Channels+c:][:n])
	}
	for r := range high {
		y := first*g.StrideY + r - g.Top
		if y < 0 || y >= g.Height {
			continue
		}
		from := x[(image*g.Height+y)*g.Width*g.Channels+c:]
		for col := range min(g.Width, columns-g.Left) {
			copy(in[(r*columns+g.Left+col)*lanes:], from[col*g.Channels:][:n])
		}
	}
	var sums [tile * lanes]float32
	for r := range rows {
		to := out[((image*g.OutHeight+first+r)*g.OutWidth)*g.Channels+c:]
		for o := 0; o < g.OutWidth; o += tile {
			tileSums(&sums, in[(r*g.StrideY*columns+o*g.StrideX)*lanes:], columns*lanes, kernel, g.KernelHeight, g.KernelWidth, g.StrideX*lanes)
			for i := range min(tile, g.OutWidth-o) {
				copy(to[(o+i)*g.Channels:], sums[i*lanes:][:n])
			}
		}
	}
}

// tileSums writes the sums over all taps of tile neighbours, step floats apart.
func tileSums(sums *[tile * lanes]float32, in []float32, row int, kernel []float32, high, wide, step int) {
	zero := all(0)
	a0, a1, b0, b1, c0, c1, d0, d1 := zero, zero, zero, zero, zero, zero, zero, zero
	for dy := range high {
		at := in[dy*row:]
		for range wide {
			w0, w1 := archsimd.LoadFloat32x8Slice(kernel), archsimd.LoadFloat32x8Slice(kernel[8:])
			kernel = kernel[lanes:]
			a0 = w0.MulAdd(archsimd.LoadFloat32x8Slice(at), a0)
			a1 = w1.MulAdd(archsimd.LoadFloat32x8Slice(at[8:]), a1)
			next := at[step:]
			b0 = w0.MulAdd(archsimd.LoadFloat32x8Slice(next), b0)
			b1 = w1.MulAdd(archsimd.LoadFloat32x8Slice(next[8:]), b1)
			next = next[step:]
			c0 = w0.MulAdd(archsimd.LoadFloat32x8Slice(next), c0)
			c1 = w1.MulAdd(archsimd.LoadFloat32x8Slice(next[8:]), c1)
			next = next[step:]
			d0 = w0.MulAdd(archsimd.LoadFloat32x8Slice(next), d0)
			d1 = w1.MulAdd(archsimd.LoadFloat32x8Slice(next[8:]), d1)
			at = at[lanes:]
		}
	}
	for i, v := range [...]vec{a0, a1, b0, b1, c0, c1, d0, d1} {
		v.StoreSlice(sums[i*8:])
	}
	archsimd.ClearAVXUpperBits()
}
