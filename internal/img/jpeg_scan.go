package img

import "encoding/binary"

// huffman is a table for decoding; bad says that the file's table is not a code.
// The rest is made of counts and value at the first scan that uses it.
type huffman struct {
	counts   [16]byte // of the codes of 1 to 16 bits
	n        int      // values
	built    bool
	speedy   bool        // fast is filled
	look     [256]uint16 // length<<8 | symbol of the code that 8 bits start with, length 9 for longer ones
	maxCode  [18]int32
	valueOff [18]int32
	value    [256]byte
	bad      bool
	badDC    bool // symbols over 15
	// fast is, for 10 bits that start with a whole AC coefficient or an end of
	// block: value<<16 | run<<8 | bits used, the run endOfBlock for the latter;
	// otherwise 0.
	fast [1024]int32
}

const endOfBlock = 255

// speedUp fills h.fast.
func (h *huffman) speedUp() {
	if h.speedy {
		return
	}
	h.speedy = true
	for i := range h.fast {
		e := h.look[i>>2]
		l, r, s := int(e>>8), int32(e>>4&15), int(e&15)
		switch {
		case l > 8 || l+s > 10:
		case s > 0:
			v := int32(i) >> (10 - l - s) & (1<<s - 1)
			h.fast[i] = extend(v, s)<<16 | r<<8 | int32(l+s)
		case r == 0:
			h.fast[i] = endOfBlock<<8 | int32(l)
		}
	}
}

// set is a table of a file, to be built when it is needed.
func (h *huffman) set(counts, values []byte) {
	h.built, h.n = false, len(values)
	copy(h.counts[:], counts)
	clear(h.value[copy(h.value[:], values):])
}

// build is jpeg_make_d_derived_tbl. The check of the table is left to its first
// use, as libjpeg does.
func (h *huffman) build() {
	if h.built {
		return
	}
	*h = huffman{counts: h.counts, n: h.n, value: h.value, built: true}
	for _, s := range h.value[:h.n] {
		h.badDC = h.badDC || s > 15
	}
	for i := range h.look {
		h.look[i] = 9 << 8
	}
	code, p := int32(0), int32(0)
	for l := 1; l <= 16; l++ {
		n := int32(h.counts[l-1])
		h.maxCode[l] = -1
		if n > 0 {
			h.valueOff[l] = p - code
			for range n {
				if l <= 8 && code < 1<<l {
					first := code << (8 - l)
					for i := range int32(1) << (8 - l) {
						h.look[first+i] = uint16(l)<<8 | uint16(h.value[p])
					}
				}
				code++
				p++
			}
			h.maxCode[l] = code - 1
			// No code may be all ones, and all must fit.
			h.bad = h.bad || code >= 1<<l
		}
		code <<= 1
	}
	h.maxCode[17] = 0xFFFFF // ends every search
}

// table is the built table i, nil without one.
func table(tables *[4]*huffman, i int) *huffman {
	if i > 3 || tables[i] == nil {
		return nil
	}
	tables[i].build()
	return tables[i]
}

// fill loads bytes until acc has at least 57 bits. At a marker it stops, and
// adds zeros if fewer than need bits are there.
func (d *jpegDecoder) fill(acc uint64, n, need int) (uint64, int) {
	if d.marker == 0 {
		if d.pos+8 <= len(d.data) {
			w := binary.BigEndian.Uint64(d.data[d.pos:])
			// No byte is 0xFF: no byte of the complement is zero.
			if c := ^w; (c-0x0101010101010101)&^c&0x8080808080808080 == 0 {
				k := uint(64-n) >> 3
				d.pos += int(k)
				return acc<<(8*k) | w>>(64-8*k), n + int(8*k)
			}
		}
		for n < 57 {
			if d.pos >= len(d.data) {
				return d.truncated()
			}
			c := d.data[d.pos]
			d.pos++
			if c == 0xFF {
				for c == 0xFF {
					if d.pos >= len(d.data) {
						return d.truncated()
					}
					c = d.data[d.pos]
					d.pos++
				}
				if c != 0 {
					d.marker = c
					break
				}
				c = 0xFF
			}
			acc = acc<<8 | uint64(c)
			n += 8
		}
	}
	if n < need {
		d.insufficientData = true
		return acc << (57 - n), 57
	}
	return acc, n
}

// truncated ends the scan: the error is seen after the current block, which is
// made of zeros.
func (d *jpegDecoder) truncated() (uint64, int) {
	d.err = errTruncated
	d.marker = mEOI
	return 0, 57
}

// slowSymbol decodes a symbol whose code has at least l bits.
func (d *jpegDecoder) slowSymbol(acc uint64, n int, h *huffman, l int) (int, uint64, int) {
	if n < l {
		acc, n = d.fill(acc, n, l)
	}
	n -= l
	code := int32(acc>>n) & (1<<l - 1)
	for code > h.maxCode[l] {
		if n < 1 {
			acc, n = d.fill(acc, n, 1)
		}
		n--
		code = code<<1 | int32(acc>>n)&1
		l++
	}
	if l > 16 {
		return 0, acc, n // not a code
	}
	return int(h.value[byte(code+h.valueOff[l])]), acc, n
}

// symbol decodes one symbol.
func (d *jpegDecoder) symbol(acc uint64, n int, h *huffman) (int, uint64, int) {
	l := 1
	if n < 8 {
		acc, n = d.fill(acc, n, 0)
	}
	if n >= 8 {
		e := h.look[byte(acc>>(n-8))]
		if l = int(e >> 8); l <= 8 {
			return int(e & 0xFF), acc, n - l
		}
	}
	return d.slowSymbol(acc, n, h, l)
}

// receive reads s bits, s > 0.
func (d *jpegDecoder) receive(s int) int32 {
	if d.n < s {
		d.acc, d.n = d.fill(d.acc, d.n, s)
	}
	d.n -= s
	return int32(d.acc>>d.n) & (1<<s - 1)
}

func (d *jpegDecoder) nextSymbol(h *huffman) int {
	var s int
	s, d.acc, d.n = d.symbol(d.acc, d.n, h)
	return s
}

// extend is figure F.12: the s bits v as a signed value.
func extend(v int32, s int) int32 {
	return v + ((v-1<<(s-1))>>31)&(-1<<s+1)
}

// sequential decodes one block of a sequential scan.
func (d *jpegDecoder) sequential(b *block, dc, ac *huffman, pred *int32) {
	acc, n := d.acc, d.n
	s, acc, n := d.symbol(acc, n, dc)
	diff := int32(0)
	if s != 0 {
		if n < s {
			acc, n = d.fill(acc, n, s)
		}
		n -= s
		diff = extend(int32(acc>>n)&(1<<s-1), s)
	}
	*pred += diff
	b[0] = int16(*pred)
	for k := 1; k < 64; k++ {
		if n >= 10 {
			if e := ac.fast[acc>>(uint(n-10)&63)&1023]; e != 0 {
				n -= int(e & 0xFF)
				k += int(e >> 8 & 0xFF)
				if k >= endOfBlock {
					break
				}
				b[naturalOrder[k&127]&63] = int16(e >> 16)
				continue
			}
		}
		var rs int
		rs, acc, n = d.symbol(acc, n, ac)
		s := rs & 15
		if s == 0 {
			if rs != 0xF0 {
				break
			}
			k += 15
			continue
		}
		k += rs >> 4
		if n < s {
			acc, n = d.fill(acc, n, s)
		}
		n -= s
		v := int32(acc>>(uint(n)&63)) & (1<<s - 1)
		b[naturalOrder[k&127]&63] = int16(extend(v, s))
	}
	d.acc, d.n = acc, n
}

// decodeBlock decodes one block of the current scan into b.
type decodeBlock func(d *jpegDecoder, b *block, i int)

func (d *jpegDecoder) dcFirst(b *block, i int) {
	s := d.nextSymbol(d.dc[d.scan[i].dcTable])
	diff := int32(0)
	if s != 0 {
		diff = extend(d.receive(s), s)
	}
	d.pred[i] += diff
	b[0] = int16(d.pred[i] << d.al)
}

func (d *jpegDecoder) dcRefine(b *block, _ int) {
	if d.receive(1) != 0 {
		b[0] |= 1 << d.al
	}
}

func (d *jpegDecoder) acFirst(b *block, _ int) {
	if d.eobRun > 0 {
		d.eobRun--
		return
	}
	acc, n, h := d.acc, d.n, d.ac[d.scan[0].acTable]
	for k := d.ss; k <= d.se; k++ {
		var rs int
		rs, acc, n = d.symbol(acc, n, h)
		r, s := rs>>4, rs&15
		if s != 0 {
			k += r
			if n < s {
				acc, n = d.fill(acc, n, s)
			}
			n -= s
			v := int32(acc>>(uint(n)&63)) & (1<<s - 1)
			b[naturalOrder[k&127]&63] = int16(extend(v, s) << d.al)
			continue
		}
		if r != 15 {
			d.eobRun = 1<<r - 1
			if r != 0 {
				if n < r {
					acc, n = d.fill(acc, n, r)
				}
				n -= r
				d.eobRun += int(acc>>n) & (1<<r - 1)
			}
			break
		}
		k += 15
	}
	d.acc, d.n = acc, n
}

func (d *jpegDecoder) acRefine(b *block, _ int) {
	if d.eobRun > 0 && b.zeroAC() {
		d.eobRun--
		return
	}
	p1, m1 := int16(1)<<d.al, int16(-1)<<d.al
	acc, n, k, se := d.acc, d.n, d.ss, d.se
	if d.eobRun == 0 {
		h := d.ac[d.scan[0].acTable]
		for ; k <= se; k++ {
			var rs int
			rs, acc, n = d.symbol(acc, n, h)
			r, s := rs>>4, rs&15
			value := int16(0)
			if s != 0 {
				if n < 1 {
					acc, n = d.fill(acc, n, 1)
				}
				n--
				value = m1
				if acc>>(uint(n)&63)&1 != 0 {
					value = p1
				}
			} else if r != 15 {
				d.eobRun = 1 << r
				if r != 0 {
					if n < r {
						acc, n = d.fill(acc, n, r)
					}
					n -= r
					d.eobRun += int(acc>>n) & (1<<r - 1)
				}
				break
			}
			for k <= se {
				c := &b[naturalOrder[k&127]&63]
				if *c != 0 {
					if n < 1 {
						acc, n = d.fill(acc, n, 1)
					}
					n--
					if acc>>(uint(n)&63)&1 != 0 {
						refine(c, p1, m1)
					}
				} else if r--; r < 0 {
					break
				}
				k++
			}
			if s != 0 {
				b[naturalOrder[k&127]&63] = value
			}
		}
	}
	if d.eobRun > 0 {
		for ; k <= se; k++ {
			c := &b[naturalOrder[k&127]&63]
			if *c == 0 {
				continue
			}
			if n < 1 {
				acc, n = d.fill(acc, n, 1)
			}
			n--
			if acc>>(uint(n)&63)&1 != 0 {
				refine(c, p1, m1)
			}
		}
		d.eobRun--
	}
	d.acc, d.n = acc, n
}

// refine adds a bit to a coefficient that is not zero.
func refine(c *int16, p1, m1 int16) {
	if *c&p1 != 0 {
		return
	}
	if *c >= 0 {
		*c += p1
	} else {
		*c += m1
	}
}

// startScan checks the scan's parameters and tables and says how its blocks
// are decoded. keepsZero: with no data left the blocks stay as they are.
func (d *jpegDecoder) startScan() (decode decodeBlock, keepsZero bool, err error) {
	for _, c := range d.scan {
		if c.latched {
			continue
		}
		if c.tq > 3 || d.quant[c.tq] == nil {
			return nil, false, badJPEG("quantization table %d is missing", c.tq)
		}
		for i, v := range d.quant[c.tq] {
			c.quant[i] = int16(v)
		}
		c.latched = true
	}
	d.acc, d.n, d.insufficientData, d.eobRun, d.pred = 0, 0, false, 0, [4]int32{}
	needDC, needAC := true, true
	if d.progressive {
		if err := d.checkProgression(); err != nil {
			return nil, false, err
		}
		needDC, needAC = d.ss == 0 && d.ah == 0, d.ss != 0
		decode = (*jpegDecoder).dcRefine
		switch {
		case needDC:
			decode = (*jpegDecoder).dcFirst
		case needAC && d.ah == 0:
			decode = (*jpegDecoder).acFirst
		case needAC:
			decode = (*jpegDecoder).acRefine
		}
		keepsZero = needDC || needAC
	} else {
		for _, c := range d.scan {
			if h := table(&d.ac, c.acTable); h != nil {
				h.speedUp()
			}
		}
		keepsZero = true
		read := (*jpegDecoder).sequential
		if d.exact {
			read = (*jpegDecoder).replay
		}
		decode = func(d *jpegDecoder, b *block, i int) {
			read(d, b, d.dc[d.scan[i].dcTable], d.ac[d.scan[i].acTable], &d.pred[i])
		}
	}
	for _, c := range d.scan {
		if needDC {
			if h := table(&d.dc, c.dcTable); h == nil || h.bad || h.badDC {
				return nil, false, badJPEG("DC Huffman table %d is missing or bad", c.dcTable)
			}
		}
		if needAC {
			if h := table(&d.ac, c.acTable); h == nil || h.bad {
				return nil, false, badJPEG("AC Huffman table %d is missing or bad", c.acTable)
			}
		}
	}
	return decode, keepsZero, nil
}

func (d *jpegDecoder) checkProgression() error {
	bad := d.al > 13 || d.ah != 0 && d.al != d.ah-1
	if d.ss == 0 {
		bad = bad || d.se != 0
	} else {
		bad = bad || d.ss > d.se || d.se > 63 || len(d.scan) != 1
	}
	if bad {
		return badJPEG("bad progressive scan %d-%d, bits %d-%d", d.ss, d.se, d.ah, d.al)
	}
	for _, c := range d.scan {
		for k := min(d.ss, 1); k <= max(d.se, 9); k++ {
			c.bitsBefore[k] = 0
			if d.scans > 1 {
				c.bitsBefore[k] = c.bits[k]
			}
		}
		for k := d.ss; k <= d.se; k++ {
			c.bits[k] = int8(d.al)
		}
	}
	return nil
}

// readScan decodes the entropy-coded data after a scan header: with direct into
// planes, otherwise into the components' coefficients.
func (d *jpegDecoder) readScan(direct bool) error {
	decode, keepsZero, err := d.startScan()
	if err != nil {
		return err
	}
	columns, rows := divUp(d.w, d.maxH*8), divUp(d.h, d.maxV*8)
	single, perRow, blocks := len(d.scan) == 1, 1, 1 // perRow: rows of this scan to a row of MCUs
	if single {
		perRow = d.scan[0].v
		columns, rows = d.scan[0].wBlocks, d.scan[0].hBlocks
	} else {
		blocks = 0
		for _, c := range d.scan {
			blocks += c.h * c.v
		}
		if blocks > 10 {
			return badJPEG("%d blocks to a unit, over the limit of 10", blocks)
		}
	}
	toGo := d.restart
	// A run of blocks that this scan has nothing for is skipped as a whole.
	runs := d.progressive && d.ss != 0 && d.ah == 0 && d.restart == 0
	var one block
	for my := range rows {
		if direct {
			for _, c := range d.scan {
				for v := range c.v {
					c.out[v] = c.blockRow(my*blockRows(c, single) + v)
				}
			}
		}
		for mx := 0; mx < columns; mx++ {
			if !d.insufficientData {
				d.lastGood = my / perRow
			} else if !direct && d.restart == 0 {
				return nil // no coefficient changes any more
			}
			if runs && d.eobRun > 0 {
				n := min(d.eobRun, columns-mx)
				d.eobRun, mx = d.eobRun-n, mx+n-1
				continue
			}
			if d.restart != 0 {
				if toGo == 0 {
					if err := d.processRestart(); err != nil {
						return err
					}
					toGo = d.restart
				}
				toGo--
			}
			skip := keepsZero && d.insufficientData
			if d.exact {
				d.exactLoads(blocks)
			}
			for i, c := range d.scan {
				h, v := c.h, blockRows(c, single)
				if single {
					h = 1
				}
				for by := my * v; by < my*v+v; by++ {
					for bx := mx * h; bx < mx*h+h; bx++ {
						b := &one
						if direct {
							one = block{}
						} else {
							b = &c.coef[by*c.coefStride+bx]
						}
						if !skip {
							decode(d, b, i)
						}
						if direct && bx < c.wBlocks && by < c.hBlocks {
							idct(c.out[by-my*v][bx*8:], c.wBlocks*8, b, &c.quant)
						}
					}
				}
			}
			if d.err != nil {
				return d.err
			}
		}
		if direct {
			d.emit(my+1, single)
		}
	}
	return nil
}

// blockRows is how many rows of blocks of c a row of MCUs has.
func blockRows(c *component, single bool) int {
	if single {
		return 1
	}
	return c.v
}

// processRestart reads a restart marker; if another is there it recovers as
// jpeg_resync_to_restart does.
func (d *jpegDecoder) processRestart() error {
	d.n = 0
	if d.marker == 0 {
		if err := d.nextMarker(); err != nil {
			return err
		}
	}
	want := d.nextRestart
	if d.marker == mRST0+want {
		d.marker = 0
	} else {
	resync:
		for {
			m := d.marker
			ahead := (m - mRST0 - want) & 7
			switch {
			case m < mSOF0: // not a marker: look for the next
			case m < mRST0 || m > mRST0+7, ahead == 1 || ahead == 2:
				break resync // the marker stays: an empty segment
			case ahead == 6 || ahead == 7: // one that has passed: look for the next
			default:
				d.marker = 0 // too far away: ignore it
				break resync
			}
			if err := d.nextMarker(); err != nil {
				return err
			}
		}
	}
	d.nextRestart = (want + 1) & 7
	d.pred, d.eobRun = [4]int32{}, 0
	if d.marker == 0 {
		d.insufficientData = false
	}
	return nil
}
