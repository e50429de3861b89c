//go:build amd64 && goexperiment.simd

package kernels

// Transpose writes x, of dimensions dims, to out with its axes in the order of
// perm: axis i of out is axis perm[i] of x.
func (t Threads) Transpose(out, x []float32, dims, perm []int) {
	dims, perm = mergeOrder(dims, perm)
	rank := len(dims)
	if rank < 2 {
		t.each(len(x), 1, func(from, to int) { copy(out[from:to], x[from:to]) })
		return
	}
	xs, os := make([]int, rank), make([]int, rank) // strides of x and, by x's axes, of out
	for i, s := rank-1, 1; i >= 0; i-- {
		xs[i], s = s, s*dims[i]
	}
	for i, s := rank-1, 1; i >= 0; i-- {
		os[perm[i]], s = s, s*dims[perm[i]]
	}
	// Two axes make up a piece: x's last and out's last. The others are walked.
	last, first := rank-1, perm[rank-1]
	if first == last {
		first = perm[rank-2]
	}
	pieces := 1
	var walk []int
	for i := range rank {
		if i != last && i != first {
			walk = append(walk, i)
			pieces *= dims[i]
		}
	}
	rows, cols := dims[first], dims[last]
	// A long piece is cut along its rows.
	cut := max(8, span/cols/8*8)
	cuts := (rows + cut - 1) / cut
	t.parallel(pieces*cuts, min(cut, rows)*cols, func(i int) {
		row, rest := i%cuts*cut, i/cuts
		from, to := row*xs[first], row*os[first]
		for k := len(walk) - 1; k >= 0; k-- {
			n := dims[walk[k]]
			from, to, rest = from+rest%n*xs[walk[k]], to+rest%n*os[walk[k]], rest/n
		}
		high := min(cut, rows-row)
		if os[last] == 1 {
			for r := range high {
				copy(out[to+r*os[first]:][:cols], x[from+r*xs[first]:][:cols])
			}
			return
		}
		turn(out[to:], x[from:], high, cols, os[last], xs[first])
	})
}

// turn writes x [rows,cols], rows lds apart, to out [cols,rows], rows ldd apart.
func turn(out, x []float32, rows, cols, ldd, lds int) {
	n := cols / 8
	done := 0 // rows
	if n > 0 {
		for ; done+8 <= rows; done += 8 {
			transpose8(&out[done], ldd, &x[done*lds], lds, n)
		}
	}
	for r := range rows {
		c := 0
		if r < done {
			c = n * 8
		}
		for ; c < cols; c++ {
			out[c*ldd+r] = x[r*lds+c]
		}
	}
}

// mergeOrder drops axes of length 1 and merges those that stay neighbours.
func mergeOrder(dims, perm []int) (d, p []int) {
	// groups in the order of out: x's axes first to last.
	type group struct{ first, last, n int }
	var groups []group
	for _, a := range perm {
		if dims[a] == 1 {
			continue
		}
		if k := len(groups) - 1; k >= 0 && follows(dims, groups[k].last, a) {
			groups[k].last = a
			groups[k].n *= dims[a]
		} else {
			groups = append(groups, group{a, a, dims[a]})
		}
	}
	d, p = make([]int, len(groups)), make([]int, len(groups))
	for i, g := range groups {
		for _, o := range groups {
			if o.first < g.first {
				p[i]++
			}
		}
		d[p[i]] = g.n
	}
	return d, p
}

// follows says whether b comes after a, with only axes of length 1 between.
func follows(dims []int, a, b int) bool {
	if b <= a {
		return false
	}
	for _, n := range dims[a+1 : b] {
		if n != 1 {
			return false
		}
	}
	return true
}

// Slice writes to out, of dimensions dims, the part of x, of dimensions xDims,
// that begins at starts.
func (t Threads) Slice(out, x []float32, dims, xDims, starts []int) {
	last := len(dims) - 1
	n := dims[last]
	group := max(1, span/n) // rows at a time
	rows := len(out) / n
	t.parallel((rows+group-1)/group, group*n, func(i int) {
		for r := i * group; r < min(rows, (i+1)*group); r++ {
			at, rest, stride := starts[last], r, xDims[last]
			for k := last - 1; k >= 0; k-- {
				at, rest = at+(starts[k]+rest%dims[k])*stride, rest/dims[k]
				stride *= xDims[k]
			}
			copy(out[r*n:(r+1)*n], x[at:])
		}
	})
}
