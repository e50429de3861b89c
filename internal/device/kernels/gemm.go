//go:build amd64 && goexperiment.simd

package kernels

import "sync"

// A product is cut into tiles of sums, which stay in registers. The right side
// is packed into panels as wide as a tile; a block of it, depth by width, fills
// half of a processor's L2 cache and is used for all rows.
const (
	maxRows, maxCols = 14, 32 // of a tile
	maxBlock         = 384    // columns of a block
	blockDepth       = 256
)

// Product is the shape of Batch products of a [M,K] and b [K,N], or [N,K] with
// Transposed.
type Product struct {
	Batch, M, N, K int
	Transposed     bool
}

// scratch is what one worker needs.
type scratch struct {
	b    [blockDepth * maxBlock]float32
	rows [maxRows * blockDepth]float32 // the last rows of a, filled up with zeros
	tile [maxRows * maxCols]float32
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// MatMul writes the products of a and b to out. Every sum runs over K in
// the same order whatever the number of threads. The processor must be Fast.
func (t Threads) MatMul(out, a, b []float32, p Product) { t.matMul(fastest, out, a, b, p) }

func (t Threads) matMul(u kernel, out, a, b []float32, p Product) {
	if p.K == 0 {
		clear(out)
		return
	}
	blocks := (p.N + u.block - 1) / u.block
	// Work for all threads even when there are few columns: cut the rows too,
	// though each part then packs its columns again.
	parts := 1
	if n := p.Batch * blocks; n < 2*t.count() {
		parts = min((2*t.count()+n-1)/n, (p.M+47)/48)
	}
	rows := ((p.M+parts-1)/parts + u.rows - 1) / u.rows * u.rows
	run := func(i int) {
		part, block, batch := i%parts, i/parts%blocks, i/parts/blocks
		m0, n0 := part*rows, block*u.block
		p.block(u, out[batch*p.M*p.N:], a[batch*p.M*p.K:], b[batch*p.K*p.N:],
			m0, min(m0+rows, p.M), n0, min(n0+u.block, p.N))
	}
	t.parallel(p.Batch*blocks*parts, p.M*p.N*p.K/(blocks*parts), run)
}

// block computes rows m0 to m1 of columns n0 to n1.
func (p Product) block(u kernel, out, a, b []float32, m0, m1, n0, n1 int) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	for k0 := 0; k0 < p.K; k0 += blockDepth {
		depth := min(blockDepth, p.K-k0)
		p.pack(s, u.cols, b, k0, depth, n0, n1)
		for i := m0; i < m1; i += u.rows {
			from, stride := a[i*p.K+k0:], p.K
			high := min(u.rows, m1-i)
			if high < u.rows {
				stride = blockDepth
				for r := range high {
					copy(s.rows[r*stride:][:depth], from[r*p.K:])
				}
				for r := high; r < u.rows; r++ {
					clear(s.rows[r*stride:][:depth])
				}
				from = s.rows[:]
			}
			for j := n0; j < n1; j += u.cols {
				panel := &s.b[(j-n0)*depth]
				to := out[i*p.N+j:]
				wide := min(u.cols, n1-j)
				if high == u.rows && wide == u.cols {
					u.run(depth, &from[0], stride, panel, &to[0], p.N, k0 > 0)
					continue
				}
				u.run(depth, &from[0], stride, panel, &s.tile[0], u.cols, false)
				for r := range high {
					for c, v := range s.tile[r*u.cols:][:wide] {
						if k0 > 0 {
							v += to[r*p.N+c]
						}
						to[r*p.N+c] = v
					}
				}
			}
		}
	}
}

// pack writes columns n0 to n1 of b, from k0 on, as panels [depth,cols]; the
// last one is filled up with zeros.
func (p Product) pack(s *scratch, cols int, b []float32, k0, depth, n0, n1 int) {
	for j := n0; j < n1; j += cols {
		panel := s.b[(j-n0)*depth:][:cols*depth]
		wide := min(cols, n1-j)
		if wide < cols {
			clear(panel)
		}
		if !p.Transposed {
			for k := range depth {
				from := b[(k0+k)*p.N+j:]
				copy(panel[k*cols:], from[:wide])
			}
			continue
		}
		turn(panel, b[j*p.K+k0:], wide, depth, cols, p.K)
	}
}
