package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

var errUnpack = errors.New("does not unpack; fetch the file again")

// unpackPage unpacks a page to exactly the bytes of out, never more.
func unpackPage(codec format.CompressionCodec, out, packed []byte) error {
	n, got := len(out), len(out)
	if n+len(packed) == 0 { // of nulls alone, as parquet-java packs them
		return nil
	}
	var err error
	switch codec {
	case format.Snappy:
		if got, err = snappy.DecodedLen(packed); err == nil && got == n {
			_, err = snappy.Decode(out, packed)
		}
	case format.Zstd:
		d := zstdDecoders.Get().(*zstd.Decoder)
		defer zstdDecoders.Put(d)
		var plain []byte
		plain, err = d.DecodeAll(packed, out[:0:n])
		got = len(plain)
	case format.Gzip:
		var r *gzip.Reader
		if r, err = gzip.NewReader(bytes.NewReader(packed)); err == nil {
			err = readExactly(r, out)
		}
	case format.Brotli:
		err = readExactly(brotli.NewReader(bytes.NewReader(packed)), out)
	case format.Lz4Raw:
		got, err = lz4.UncompressBlock(packed, out)
	default:
		return fmt.Errorf("is compressed with %s, which is not supported; write the table with snappy, zstd, gzip, brotli or lz4_raw", codec)
	}
	if err == nil && got != n {
		err = fmt.Errorf("unpacks to %d bytes but says %d", got, n)
	}
	if err != nil {
		return fmt.Errorf("%w (%s: %v)", errUnpack, codec, err)
	}
	return nil
}

// readExactly fills out from r, which then ends.
func readExactly(r io.Reader, out []byte) error {
	if _, err := io.ReadFull(r, out); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); !errors.Is(err, io.EOF) { // Read may return nothing before the end
		return errors.New("it is longer than it says, or broken at its end")
	}
	return nil
}

var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxPage))
	if err != nil {
		panic(err) // constant options
	}
	return d
}}

// checkPage goes through the counts inside a plain page: how long runs are, how
// many values an encoding has, how long its strings become. The library allocates
// memory by them, and makes up values that are missing.
func checkPage(h *format.PageHeader, leaf parquet.LeafColumn, body []byte) error {
	kind, width := leaf.Node.Type().Kind(), 0
	if kind == parquet.FixedLenByteArray {
		width = leaf.Node.Type().Length()
	}
	var n int64 // values, nulls too
	var encoding format.Encoding
	var levels [2][]byte // of repetition and of definition
	most := [2]int{leaf.MaxRepetitionLevel, leaf.MaxDefinitionLevel}
	switch h.Type {
	case format.DictionaryPage:
		d := h.DictionaryPageHeader.V
		if d.Encoding != format.Plain && d.Encoding != plainDictionary {
			return fmt.Errorf("a dictionary in the encoding %s, which is not supported", d.Encoding)
		}
		return checkValues(format.Plain, kind, width, int64(d.NumValues), body)
	case format.DataPage:
		d := h.DataPageHeader.V
		n, encoding = int64(d.NumValues), d.Encoding
		for i, e := range []format.Encoding{d.RepetitionLevelEncoding, d.DefinitionLevelEncoding} {
			if most[i] == 0 {
				continue
			}
			if e != format.RLE {
				return fmt.Errorf("levels in the encoding %s, which is not supported", e)
			}
			var err error
			if levels[i], body, err = prefixed(body); err != nil {
				return err
			}
		}
	default:
		d := h.DataPageHeaderV2.V
		n, encoding = int64(d.NumValues), d.Encoding
		for i, length := range []int32{d.RepetitionLevelsByteLength, d.DefinitionLevelsByteLength} {
			levels[i], body = body[:length], body[length:]
		}
	}
	present := n
	for i, max := range most {
		if max == 0 {
			continue
		}
		top, err := runs(levels[i], bits.Len(uint(max)), n, uint64(max))
		if err != nil {
			return err
		}
		present = top // that of definition is the last
	}
	if v := h.DataPageHeaderV2.V; h.Type == format.DataPageV2 && n-int64(v.NumNulls) != present {
		return fmt.Errorf("has %d values that are not null but says %d", present, n-int64(v.NumNulls))
	}
	return checkValues(encoding, kind, width, present, body)
}

// plainDictionary is the old name of RLE_DICTIONARY, which older writers write.
const plainDictionary format.Encoding = 2

// valueBits is how many bits a plain value of a kind takes; a string takes 32
// for its length besides its bytes.
func valueBits(kind parquet.Kind, width int) int64 {
	switch kind {
	case parquet.Boolean:
		return 1
	case parquet.Int64, parquet.Double:
		return 64
	case parquet.Int96:
		return 96
	case parquet.FixedLenByteArray:
		return 8 * int64(max(1, width))
	}
	return 32
}

// checkValues checks the bytes of a page against its n values that are not
// null.
func checkValues(e format.Encoding, kind parquet.Kind, width int, n int64, body []byte) error {
	if n < 0 || n > maxPageValues {
		return fmt.Errorf("says that it has %d values; at most %d are read", n, maxPageValues)
	}
	fewer := func(have int64) error {
		if have != n {
			return fmt.Errorf("has %d values but says %d", have, n)
		}
		return nil
	}
	switch e {
	case format.Plain, format.ByteStreamSplit:
		if kind == parquet.ByteArray {
			return fewer(plainStrings(body))
		}
		if n*valueBits(kind, width) > 8*int64(len(body)) {
			return fmt.Errorf("has %d bytes for %d values", len(body), n)
		}
		return nil
	case plainDictionary, format.RLEDictionary:
		if len(body) == 0 {
			return fewer(0)
		}
		_, err := runs(body[1:], int(body[0]), n, 1<<32)
		return err
	case format.RLE:
		data, _, err := prefixed(body)
		if err == nil {
			_, err = runs(data, 1, n, 1)
		}
		return err
	case format.DeltaBinaryPacked:
		d, err := newDeltas(body)
		if err != nil {
			return err
		}
		return fewer(d.left)
	case format.DeltaLengthByteArray:
		_, count, err := deltaLengths(body, n, int64(len(body)))
		if err == nil {
			err = fewer(count)
		}
		return err
	case format.DeltaByteArray:
		// Each string begins with a part of the one before: few bytes become many.
		rest, count, err := deltaLengths(body, n, int64(len(body))*unpackRatio+spareBytes)
		if err == nil {
			err = fewer(count)
		}
		if err == nil {
			_, count, err = deltaLengths(rest, n, int64(len(rest)))
		}
		if err == nil {
			err = fewer(count)
		}
		return err
	}
	return fmt.Errorf("values in the encoding %s, which is not supported", e)
}

// plainStrings counts strings that stand after their lengths, -1 when the last
// one is cut off.
func plainStrings(body []byte) (n int64) {
	for len(body) > 0 {
		if len(body) < 4 {
			return -1
		}
		length := binary.LittleEndian.Uint32(body)
		if uint64(length) > uint64(len(body)-4) {
			return -1
		}
		body = body[4+length:]
		n++
	}
	return n
}

// deltaLengths goes through at most n lengths in the encoding
// DELTA_BINARY_PACKED, which are no more than limit together.
func deltaLengths(body []byte, n, limit int64) (rest []byte, count int64, err error) {
	d, err := newDeltas(body)
	if err != nil {
		return nil, 0, err
	}
	if count = d.left; count > n {
		return nil, 0, fmt.Errorf("has %d values but says %d", count, n)
	}
	for d.left > 0 {
		length, err := d.next()
		if err != nil {
			return nil, 0, err
		}
		if length < 0 || length > limit {
			return nil, 0, errors.New("has strings that are longer than it can hold")
		}
		limit -= length
	}
	return d.data, count, nil
}

// prefixed takes off a part that is preceded by its length in bytes.
func prefixed(body []byte) (part, rest []byte, err error) {
	if len(body) < 4 {
		return nil, nil, errors.New("ends before its levels")
	}
	length := binary.LittleEndian.Uint32(body)
	if uint64(length) > uint64(len(body)-4) {
		return nil, nil, fmt.Errorf("says that its levels have %d bytes, of which %d are there", length, len(body)-4)
	}
	return body[4 : 4+length], body[4+length:], nil
}

// runPadding is how many values the last run may have too many: bit-packed ones
// come in groups of 8, of which some writers write up to 63 in one run.
const runPadding = 8 * 64

// runs goes through runs of equal values and of packed ones, of width bits, and
// counts those of the first n that are top. There must be n, and no more except
// for padding.
func runs(data []byte, width int, n int64, top uint64) (tops int64, err error) {
	if width > 32 {
		return 0, fmt.Errorf("values of %d bits", width)
	}
	total := int64(0)
	for len(data) > 0 {
		head, k := binary.Uvarint(data)
		if k <= 0 {
			return 0, errors.New("ends in the middle of a run")
		}
		data = data[k:]
		packed, count, size := head&1 != 0, head>>1, uint64(width+7)/8
		if count == 0 {
			continue
		}
		if count > uint64(n)+runPadding {
			return 0, fmt.Errorf("has runs of more than its %d values", n)
		}
		if packed {
			size = count * uint64(width)
			count *= 8
		}
		if total+int64(count) > n+runPadding {
			return 0, fmt.Errorf("has runs of more than its %d values", n)
		}
		if size > uint64(len(data)) {
			return 0, errors.New("ends in the middle of a run")
		}
		counted := min(int64(count), max(0, n-total))
		switch {
		case top >= 1<<32: // not needed
		case packed:
			for i := range counted {
				if bitsAt(data, int(i)*width, width) == top {
					tops++
				}
			}
		case bitsAt(data[:size], 0, 8*int(size)) == top:
			tops += counted
		}
		total += int64(count)
		data = data[size:]
	}
	if total < n {
		return 0, fmt.Errorf("has %d levels or indices for %d values", total, n)
	}
	return tops, nil
}

// bitsAt is the number of width bits at a place, the lowest first; bits beyond
// the data are 0.
func bitsAt(data []byte, at, width int) (v uint64) {
	for i := 0; i < width; {
		k := (at + i) / 8
		if k >= len(data) {
			return v
		}
		shift := (at + i) % 8
		v |= uint64(data[k]>>shift) << i
		i += 8 - shift
	}
	if width < 64 {
		v &= 1<<width - 1
	}
	return v
}

// deltas reads integers in the encoding DELTA_BINARY_PACKED one after the other.
type deltas struct {
	data           []byte
	left           int64 // values to come
	first          bool
	value          int64
	blocks, perBox int // miniblocks of a block, values of a miniblock

	least  int64
	widths []byte // of the miniblocks to come
	box    []byte // bits of the current one
	at     int    // value in it
	width  int
}

func newDeltas(data []byte) (*deltas, error) {
	d := &deltas{data: data, first: true}
	var size, blocks, total uint64
	for _, v := range []*uint64{&size, &blocks, &total} {
		x, k := binary.Uvarint(d.data)
		if k <= 0 {
			return nil, errors.New("ends before its values")
		}
		*v, d.data = x, d.data[k:]
	}
	v, k := binary.Varint(d.data)
	if k <= 0 {
		return nil, errors.New("ends before its values")
	}
	d.value, d.data = v, d.data[k:]
	if size == 0 || size > 1<<20 || blocks == 0 || blocks > size || size%blocks != 0 || total > 1<<31 {
		return nil, fmt.Errorf("blocks of %d values in %d parts, %d in all", size, blocks, total)
	}
	d.left, d.blocks, d.perBox = int64(total), int(blocks), int(size/blocks)
	return d, nil
}

// next is the next integer.
func (d *deltas) next() (int64, error) {
	if d.left--; d.first {
		d.first = false
		return d.value, nil
	}
	if d.at == 0 {
		if err := d.nextBox(); err != nil {
			return 0, err
		}
	}
	delta := bitsAt(d.box, d.at*d.width, d.width)
	if d.at++; d.at == d.perBox {
		d.at = 0
	}
	d.value += d.least + int64(delta)
	return d.value, nil
}

// nextBox begins a miniblock, and a block where one ends.
func (d *deltas) nextBox() error {
	if len(d.widths) == 0 {
		v, k := binary.Varint(d.data)
		if k <= 0 || len(d.data)-k < d.blocks {
			return errors.New("ends in the middle of its values")
		}
		d.least, d.widths, d.data = v, d.data[k:k+d.blocks], d.data[k+d.blocks:]
	}
	d.width, d.widths = int(d.widths[0]), d.widths[1:]
	if d.width > 64 {
		return fmt.Errorf("differences of %d bits", d.width)
	}
	n := min(len(d.data), d.perBox*d.width/8) // the last one may be short
	d.box, d.data = d.data[:n], d.data[n:]
	return nil
}
