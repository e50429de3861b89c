package img

// A file without an end marker is whole or truncated by the accident of how
// many bytes libjpeg had fetched ahead, which depends on the bits that its two
// ways of decoding a unit load at a time. Where it matters, replay decodes such
// a file once more with the same loads.

// exactLoads chooses libjpeg's way for the next unit of so many blocks.
func (d *jpegDecoder) exactLoads(blocks int) {
	d.fast = len(d.data)-d.pos >= 512*blocks && d.marker == 0
}

// load is what the fast way does before every symbol and every value.
func (d *jpegDecoder) load() {
	if d.fast = d.fast && d.pos+12 <= len(d.data); !d.fast || d.n > 16 {
		return
	}
	for range 6 {
		c := d.data[d.pos]
		d.pos++
		if c == 0xFF {
			if d.data[d.pos] != 0 {
				d.pos-- // a marker: left to fill
				d.fast = false
				return
			}
			d.pos++
		}
		d.acc = d.acc<<8 | uint64(c)
		d.n += 8
	}
}

// replay is sequential with libjpeg's loads.
func (d *jpegDecoder) replay(b *block, dc, ac *huffman, pred *int32) {
	d.load()
	if s := d.nextSymbol(dc); s != 0 {
		d.load()
		*pred += extend(d.receive(s), s)
	}
	b[0] = int16(*pred)
	for k := 1; k < 64; k++ {
		d.load()
		rs := d.nextSymbol(ac)
		s := rs & 15
		k += rs >> 4
		if s == 0 {
			if rs != 0xF0 {
				break
			}
			continue
		}
		d.load()
		b[naturalOrder[k&127]&63] = int16(extend(d.receive(s), s))
	}
}
