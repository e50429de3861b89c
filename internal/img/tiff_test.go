package img

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"testing"
)

// rawTIFF is an uncompressed TIFF of LONG tags; blocks are its strips or tiles.
func rawTIFF(order binary.AppendByteOrder, blocks [][]byte, tags map[uint16]uint32) []byte {
	out := map[bool][]byte{true: []byte("II*\x00"), false: []byte("MM\x00*")}[order.String() == "LittleEndian"]
	offsets, sizes := uint16(tiffStripOffsets), uint16(tiffStripBytes)
	if tags[tiffTileWidth] > 0 {
		offsets, sizes = tiffTileOffsets, tiffTileBytes
	}
	n, at := len(blocks), 8+2+12*(len(tags)+2)+4
	var lists, data []byte
	for _, b := range blocks {
		lists = order.AppendUint32(lists, uint32(at+8*n+len(data)))
		data = append(data, b...)
	}
	for _, b := range blocks {
		lists = order.AppendUint32(lists, uint32(len(b)))
	}
	out = order.AppendUint32(out, 8)
	out = order.AppendUint16(out, uint16(len(tags)+2))
	entry := func(tag uint16, count int, v uint32) {
		out = order.AppendUint16(order.AppendUint16(out, tag), 4)
		out = order.AppendUint32(order.AppendUint32(out, uint32(count)), v)
	}
	for tag, v := range tags {
		entry(tag, 1, v)
	}
	for i, tag := range []uint16{offsets, sizes} {
		v := uint32(at + 4*n*i)
		if n == 1 { // a single value lies in the entry
			v = binary.LittleEndian.Uint32(lists[4*i:])
			if order.String() == "BigEndian" {
				v = binary.BigEndian.Uint32(lists[4*i:])
			}
		}
		entry(tag, n, v)
	}
	return append(append(order.AppendUint32(out, 0), lists...), data...)
}

// TestTIFFLayouts: the same pixels in strips, planes and tiles.
func TestTIFFLayouts(t *testing.T) {
	const w, h = 21, 18
	pix := pseudoRandom(3, w*h*3)
	planes := make([][]byte, 3)
	for i, v := range pix {
		planes[i%3] = append(planes[i%3], v)
	}
	var tiles [][]byte
	for y := 0; y < h; y += 16 {
		for x := 0; x < w; x += 16 {
			tile := make([]byte, 16*16*3)
			for r := range min(16, h-y) {
				copy(tile[r*48:(r+1)*48], pix[((y+r)*w+x)*3:((y+r)*w+min(x+16, w))*3])
			}
			tiles = append(tiles, tile)
		}
	}
	var wide []byte // 16 bits, of which the high byte counts
	for _, v := range pix {
		wide = append(wide, v, 77)
	}
	turned := bytes.Clone(pix)
	for i, v := range turned {
		turned[i] = bits.Reverse8(v)
	}
	tags := func(more ...uint32) map[uint16]uint32 {
		m := map[uint16]uint32{tiffWidth: w, tiffHeight: h, tiffBits: 8, tiffPhotometric: 2, tiffSamples: 3}
		for i := 0; i < len(more); i += 2 {
			m[uint16(more[i])] = more[i+1]
		}
		return m
	}
	for name, data := range map[string][]byte{
		"one strip":      rawTIFF(binary.LittleEndian, [][]byte{pix}, tags()),
		"big-endian":     rawTIFF(binary.BigEndian, [][]byte{pix}, tags()),
		"strips":         rawTIFF(binary.LittleEndian, [][]byte{pix[:w*3*10], pix[w*3*10:]}, tags(tiffRows, 10)),
		"planes":         rawTIFF(binary.BigEndian, planes, tags(tiffPlanar, 2)),
		"tiles":          rawTIFF(binary.LittleEndian, tiles, tags(tiffTileWidth, 16, tiffTileHeight, 16)),
		"16 bits":        rawTIFF(binary.BigEndian, [][]byte{wide}, tags(tiffBits, 16)),
		"bits backwards": rawTIFF(binary.LittleEndian, [][]byte{turned}, tags(tiffFillOrder, 2)),
	} {
		im, err := Decode(data)
		if err != nil || im.Mode != "RGB" || im.W != w || im.H != h || !bytes.Equal(im.Pix, pix) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Decode(data[:len(data)-9]); err == nil {
			t.Errorf("%s: cut off, and no error", name)
		}
	}
	grey := rawTIFF(binary.LittleEndian, [][]byte{{0x1B, 0xE4}}, map[uint16]uint32{tiffWidth: 4, tiffHeight: 2, tiffBits: 2, tiffPhotometric: 0})
	if im, err := Decode(grey); err != nil || im.Mode != "L" || !bytes.Equal(im.Pix, []byte{255, 170, 85, 0, 0, 85, 170, 255}) {
		t.Errorf("two bits: %v %v", im, err)
	}
	for what, tag := range map[string][]uint32{"no width": {tiffWidth, 0}, "a row too many": {tiffHeight, h + 1}, "depth": {tiffBits, 12}, "compression": {tiffCompression, 7},
		"tile of nothing": {tiffTileWidth, 16}, "huge": {tiffWidth, 1 << 31}, "floats": {tiffSampleFormat, 3}} {
		_, err := Decode(rawTIFF(binary.LittleEndian, [][]byte{pix}, tags(tag...)))
		checkError(t, what, err)
	}
}

// TestTIFFTags: a tag in an unusual type or given twice is not passed over.
func TestTIFFTags(t *testing.T) {
	pixels := []byte{1, 2, 3, 4, 5, 6}
	data := rawTIFF(binary.LittleEndian, [][]byte{pixels}, map[uint16]uint32{tiffWidth: 3, tiffHeight: 2, tiffBits: 8, tiffPhotometric: 1, tiffOrientation: 3})
	var at, width int // of the entries
	for i := 10; i < 10+7*12; i += 12 {
		switch binary.LittleEndian.Uint16(data[i:]) {
		case tiffOrientation:
			at = i
		case tiffWidth:
			width = i
		}
	}
	want := []byte{6, 5, 4, 3, 2, 1}
	for kind := range byte(20) {
		im, err := Decode(patch(data, at+2, kind))
		switch kind {
		case 3, 4, 8, 9: // SHORT, LONG, SSHORT, SLONG
			if err != nil || !bytes.Equal(im.Pix, want) {
				t.Errorf("orientation of type %d: %v", kind, err)
			}
		default:
			checkError(t, "orientation of another type", err)
		}
	}
	if im, err := Decode(patch(data, at, data[width:width+12]...)); err != nil || !bytes.Equal(im.Pix, pixels) {
		t.Errorf("the same width twice: %v", err)
	}
	twice := patch(data, at, data[width:width+12]...)
	_, err := Decode(patch(twice, at+8, 2))
	checkError(t, "two widths", err)
}
