package img

// libjpeg guesses coefficients of progressive files whose last scans are
// missing, from the averages of the 5 x 5 blocks around (decompress_smooth_data
// of libjpeg-turbo 2.1).

// kernel weighs the averages of 25 blocks, row by row.
type kernel [25]int

// guesses are the coefficients 1 to 9 in zigzag order, first for blocks of
// which only the average is known. Those without a kernel are left alone.
var guesses = [2][10]*kernel{
	{
		0: {-2, -6, -8, -6, -2, -6, 6, 42, 6, -6, -8, 42, 152, 42, -8, -6, 6, 42, 6, -6, -2, -6, -8, -6, -2},
		1: {-1, -1, 0, 1, 1, -3, 13, 0, -13, 3, -3, 38, 0, -38, 3, -3, 13, 0, -13, 3, -1, -1, 0, 1, 1},
		2: {-1, -3, -3, -3, -1, -1, 13, 38, 13, -1, 0, 0, 0, 0, 0, 1, -13, -38, -13, 1, 1, 3, 3, 3, 1},
		3: {0, 0, 1, 0, 0, 0, 2, 7, 2, 0, 0, -5, -14, -5, 0, 0, 2, 7, 2, 0, 0, 0, 1, 0, 0},
		4: {-1, 0, 0, 0, 1, 0, 9, 0, -9, 0, 0, 0, 0, 0, 0, 0, -9, 0, 9, 0, 1, 0, 0, 0, -1},
		5: {0, 0, 0, 0, 0, 0, 2, -5, 2, 0, 1, 7, -14, 7, 1, 0, 2, -5, 2, 0, 0, 0, 0, 0, 0},
		6: {6: 1, 8: -1, 11: 2, 13: -2, 16: 1, 18: -1},
		7: {6: 1, 7: -3, 8: 1, 16: -1, 17: 3, 18: -1},
		8: {6: 1, 8: -1, 11: -3, 13: 3, 16: 1, 18: -1},
		9: {6: 1, 7: 2, 8: 1, 16: -1, 17: -2, 18: -1},
	},
	{
		1: {10: -7, 11: 50, 13: -50, 14: 7},
		2: {2: -7, 7: 50, 17: -50, 22: 7},
		3: {2: -1, 7: 13, 12: -24, 17: 13, 22: -1},
		4: {1: -1, 3: 1, 5: -1, 6: 10, 8: -10, 9: 1, 15: 1, 16: -10, 18: 10, 19: -1, 21: 1, 23: -1},
		5: {10: -1, 11: 13, 12: -24, 13: 13, 14: -1},
	},
}

// smooths says whether libjpeg would guess (smoothing_ok).
func (d *jpegDecoder) smooths() bool {
	useful := false
	for i := range d.comp {
		c := &d.comp[i]
		for _, k := range naturalOrder[:10] {
			if c.quant[k] == 0 {
				return false
			}
		}
		if c.bits[0] < 0 {
			return false
		}
		for _, b := range c.bits[1:10] {
			useful = useful || b != 0
		}
	}
	return useful
}

// smoothRow transforms a row of blocks of c with guesses.
func (d *jpegDecoder) smoothRow(c *component, by int) {
	lastMCU := divUp(d.h, d.maxV*8) - 1
	mcu, row := by/c.v, by%c.v
	rowsHere := c.v
	if mcu == lastMCU {
		rowsHere = c.hBlocks - mcu*c.v
	}
	// The rows around; near the edges the nearest one known is repeated.
	rows := [5]int{by, by, by, by, by}
	if by > 0 {
		rows[0], rows[1] = by-1, by-1
	}
	if row > 1 || mcu > 1 {
		rows[0] = by - 2
	}
	if row < rowsHere-1 || mcu < lastMCU {
		rows[3], rows[4] = by+1, by+1
	}
	if row < rowsHere-2 || mcu+1 < lastMCU {
		rows[4] = by + 2
	}
	bits := &c.bits
	if mcu > d.lastGood && d.scans > 1 {
		bits = &c.bitsBefore
	}
	c.smoothRow(by, rows, bits)
}

func (c *component) smoothRow(by int, rows [5]int, bits *[64]int8) {
	set := 0
	for _, b := range bits[1:10] {
		if b != -1 {
			set = 1
		}
	}
	at := func(r, x int) int { return int(c.coef[rows[r]*c.coefStride+x][0]) }
	var dc [5][5]int // averages around the block: row, column
	for r := range dc {
		for x := range dc[r] {
			dc[r][x] = at(r, 0)
		}
	}
	last, out := c.wBlocks-1, c.blockRow(by)
	for x := range c.wBlocks {
		for r := range dc {
			if x == 0 && x < last {
				dc[r][3] = at(r, 1)
			}
			if x+1 < last {
				dc[r][4] = at(r, x+2)
			}
		}
		b := c.coef[by*c.coefStride+x] // a copy
		if !flat(&dc) {
			for i := 1; i < 10; i++ {
				k, pos := guesses[set][i], naturalOrder[i]
				if k != nil && bits[i] != 0 && b[pos] == 0 {
					b[pos] = c.guess(k, &dc, int(c.quant[pos]), int(bits[i]))
				}
			}
			if k := guesses[set][0]; k != nil {
				b[0] = c.guess(k, &dc, int(c.quant[0]), 0)
			}
		}
		idct(out[x*8:], c.wBlocks*8, &b, &c.quant)
		for r := range dc {
			copy(dc[r][:4], dc[r][1:])
		}
	}
}

// flat says whether all averages are equal: then the guesses are what is there,
// since all kernels but the first add up to 0, and that to 256.
func flat(dc *[5][5]int) bool {
	first := [5]int{dc[0][0], dc[0][0], dc[0][0], dc[0][0], dc[0][0]}
	return dc[0] == first && dc[1] == first && dc[2] == first && dc[3] == first && dc[4] == first
}

// guess is a coefficient of quantizer q whose lowest al bits are unknown.
func (c *component) guess(k *kernel, dc *[5][5]int, q, al int) int16 {
	num := 0
	for i, w := range k {
		num += w * dc[i/5][i%5]
	}
	num *= int(uint16(c.quant[0]))
	q = int(uint16(q))
	pred := (q<<7 + max(num, -num)) / (q << 8)
	if al > 0 {
		pred = min(pred, 1<<al-1)
	}
	if num < 0 {
		pred = -pred
	}
	return int16(pred)
}
