package dataset

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"github.com/evatool/evatool/internal/fault"
)

// parquetFile is a Parquet file whose numbers are checked before the library
// sees them. The library allocates whatever a footer or a page claims; here it
// gets a footer whose chunks are uncompressed and, from a pageStream, pages
// that have been read, unpacked and checked within the limits below.
type parquetFile struct {
	*parquet.File
	ctx    context.Context
	st     storage
	name   string
	size   int64
	chunks [][]chunkPlace // by row group and leaf column
	leaves []parquet.LeafColumn
}

// chunkPlace says where a column chunk lies.
type chunkPlace struct {
	start, end int64
	codec      format.CompressionCodec
	values     int64 // nulls too
}

// The limits: how much a file may claim for each of its bytes.
const (
	// rowsPerByte bounds the rows: every one has a picture or a path of its own.
	rowsPerByte = 64
	// spareRows and spareBytes are allowed besides, for small files.
	spareRows  = 1 << 10
	spareBytes = 16 << 20
	// unpackRatio bounds what the columns in memory unpack to, and pages of a codec
	// whose ratio has no bound.
	unpackRatio = 1000
	// maxPage bounds a page: a picture has a limit too.
	maxPage = maxImage + 1<<20
	// maxPageHeader bounds a page's header; it may hold the least and the greatest
	// value of the page.
	maxPageHeader = 16 << 20
)

var parquetProtocol thrift.CompactProtocol

// openParquetFile reads the footer.
func openParquetFile(ctx context.Context, st storage, name string, size int64) (*parquetFile, error) {
	const frame = 4 + 4 + 4 // a mark at each end, the footer's length
	damaged := func(format string, args ...any) error {
		return fault.Inputf("not a Parquet file, or cut short: "+format, args...)
	}
	if size < frame {
		return nil, damaged("%d bytes", size)
	}
	end, err := st.read(ctx, name, size-8, 8)
	if err != nil {
		return nil, err
	}
	switch string(end[4:]) {
	case "PAR1":
	case "PARE":
		return nil, fault.Inputf("encrypted, which is not supported; write the table without encryption")
	default:
		return nil, damaged("no PAR1 at its end")
	}
	n := int64(binary.LittleEndian.Uint32(end))
	if n > size-frame {
		return nil, damaged("its end says that the footer has %d bytes, but the file has %d", n, size)
	}
	footer, err := st.read(ctx, name, size-8-n, n)
	if err != nil {
		return nil, err
	}
	length, err := thriftSize(footer)
	if err != nil {
		return nil, damaged("the footer %w", err)
	}
	var meta format.FileMetaData
	if err := thrift.Unmarshal(&parquetProtocol, footer[:length], &meta); err != nil {
		return nil, damaged("the footer: %w", err)
	}
	f := &parquetFile{ctx: ctx, st: st, name: name, size: size}
	if err := f.place(&meta, size-8-n); err != nil {
		return nil, err
	}
	plain, err := thrift.Marshal(&parquetProtocol, &meta)
	if err != nil {
		return nil, damaged("the footer: %w", err)
	}
	plain = binary.LittleEndian.AppendUint32(append([]byte("PAR1"), plain...), uint32(len(plain)))
	plain = append(plain, "PAR1"...)
	f.File, err = parquet.OpenFile(bytes.NewReader(plain), int64(len(plain)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(streamBuffer))
	if err != nil {
		return nil, damaged("%w", err)
	}
	schema := f.Schema()
	for _, path := range schema.Columns() {
		leaf, ok := schema.Lookup(path...)
		if !ok {
			return nil, damaged("column %s is not in the schema", fault.Name(strings.Join(path, ".")))
		}
		f.leaves = append(f.leaves, leaf)
	}
	for i, g := range f.chunks {
		if len(g) != len(f.leaves) {
			return nil, damaged("row group %d has %d columns, but the schema has %d", i, len(g), len(f.leaves))
		}
	}
	return f, nil
}

// place notes where the chunks lie, all before end, and makes the footer one of
// plain chunks.
func (f *parquetFile) place(meta *format.FileMetaData, end int64) error {
	limit := f.size*rowsPerByte + spareRows
	rows := int64(0)
	meta.RowGroups = slices.DeleteFunc(meta.RowGroups, func(g format.RowGroup) bool { return g.NumRows == 0 }) // their chunks may lie nowhere
	for i := range meta.RowGroups {
		g := &meta.RowGroups[i]
		if g.NumRows < 0 || g.NumRows > limit-rows {
			return fault.Inputf("row group %d says that it has %d rows, in a file of %d bytes; fetch the file again", i, g.NumRows, f.size)
		}
		rows += g.NumRows
		var places []chunkPlace
		for k := range g.Columns {
			c := &g.Columns[k]
			m := &c.MetaData
			p := chunkPlace{start: m.DataPageOffset, codec: m.Codec, values: m.NumValues}
			if d := m.DictionaryPageOffset; d > 0 {
				p.start = min(p.start, d)
			}
			what := fmt.Sprintf("row group %d, column %s", i, fault.Name(brief(strings.Join(m.PathInSchema, "."))))
			switch {
			case c.FilePath != "":
				return fault.Inputf("%s: lies in another file; write the table as one file", what)
			case len(c.EncryptedColumnMetadata) > 0 || c.CryptoMetadata.Value != nil:
				return fault.Inputf("%s: encrypted, which is not supported; write the table without encryption", what)
			case m.DataPageOffset < p.start || m.DataPageOffset-p.start > m.TotalCompressedSize || p.start < 4 || m.TotalCompressedSize < 0 || p.start > end || m.TotalCompressedSize > end-p.start:
				return fault.Inputf("%s: lies at offset %d with %d bytes, outside the %d bytes of data; fetch the file again", what, p.start, m.TotalCompressedSize, end)
			case m.NumValues < 0 || m.NumValues > limit:
				return fault.Inputf("%s: says that it has %d values, in a file of %d bytes; fetch the file again", what, m.NumValues, f.size)
			}
			p.end = p.start + m.TotalCompressedSize
			places = append(places, p)
			*c = format.ColumnChunk{MetaData: format.ColumnMetaData{
				Type: m.Type, Encoding: m.Encoding, PathInSchema: m.PathInSchema, NumValues: m.NumValues,
				TotalUncompressedSize: streamSize, TotalCompressedSize: streamSize, DataPageOffset: streamStart,
			}}
		}
		g.SortingColumns = nil
		f.chunks = append(f.chunks, places)
	}
	if rows != meta.NumRows {
		return fault.Inputf("the row groups have %d rows together, but the footer says %d; fetch the file again", rows, meta.NumRows)
	}
	return nil
}

// chunk reads the pages of one column chunk.
type chunk struct {
	f      *parquetFile
	place  chunkPlace
	leaf   parquet.LeafColumn
	column parquet.ColumnChunk
	what   string

	window []byte // of the file, from at
	at     int64
	plain  []byte // the page that was unpacked last

	pages []pagePlace // those passed so far
	next  int64       // where the header after them lies
	rows  int64       // in pages

	dict      *pagePlace
	dictPiece *piece // of dict, when it was needed
}

// piece is a page as the library gets it: plain, under a header of its own.
type piece struct{ head, body []byte }

func (p piece) size() int64 { return int64(len(p.head) + len(p.body)) }

// read copies what there is from an offset of the piece.
func (p piece) read(to []byte, off int64) int {
	if off < int64(len(p.head)) {
		return copy(to, p.head[off:])
	}
	return copy(to, p.body[off-int64(len(p.head)):])
}

// pagePlace is a page that was passed: where its bytes lie, and the row it
// begins with; the row is right only for columns without lists.
type pagePlace struct {
	header format.PageHeader
	body   int64
	row    int64
}

func (f *parquetFile) chunk(group, leaf int) *chunk {
	place := f.chunks[group][leaf]
	return &chunk{
		f: f, place: place, next: place.start, leaf: f.leaves[leaf],
		column: f.RowGroups()[group].ColumnChunks()[leaf],
		what:   fmt.Sprintf("row group %d, column %s", group, fault.Name(brief(strings.Join(f.leaves[leaf].Path, ".")))),
	}
}

// glue is how much of a window is worth keeping: less is read again, which costs
// less than copying what follows.
const glue = 64 << 10

// bytes are n bytes of the file from off, or what there is of them in the chunk.
func (c *chunk) bytes(off, n int64) ([]byte, error) {
	n = min(n, c.place.end-off)
	have := c.at + int64(len(c.window))
	if off >= c.at && off+n <= have {
		return c.window[off-c.at : off-c.at+n], nil
	}
	from, head := off, []byte(nil)
	if off >= c.at && have-off > glue {
		from, head = have, c.window[off-c.at:]
	}
	more := min(max(off+n-from, min(c.f.st.window(), parquetWindow)), c.place.end-from)
	data, err := c.f.st.read(c.f.ctx, c.f.name, from, more)
	if err != nil {
		return nil, err
	}
	if head != nil {
		data = append(append(make([]byte, 0, len(head)+len(data)), head...), data...)
	}
	c.window, c.at = data, off
	return data[:n], nil
}

// page is data page i of the chunk; io.EOF after the last.
func (c *chunk) page(i int) (*pagePlace, error) {
	for i >= len(c.pages) {
		if c.next >= c.place.end {
			return nil, io.EOF
		}
		p, err := c.header(c.next)
		if err != nil {
			return nil, fault.As(fault.Input, fmt.Errorf("%s: page at offset %d: %w", c.what, c.next, err))
		}
		c.next = p.body + int64(p.header.CompressedPageSize)
		switch p.header.Type {
		case format.DictionaryPage:
			if c.dict == nil {
				c.dict = p
			}
		case format.DataPage, format.DataPageV2:
			p.row = c.rows
			c.rows += int64(pageRows(&p.header))
			c.pages = append(c.pages, *p)
		}
	}
	return &c.pages[i], nil
}

// pageOf is the number of the page that holds a row of a column without lists.
func (c *chunk) pageOf(row int64) (int, error) {
	for row >= c.rows {
		if _, err := c.page(len(c.pages)); errors.Is(err, io.EOF) {
			return 0, fault.Inputf("%s: has %d rows, so no row %d; fetch the file again", c.what, c.rows, row)
		} else if err != nil {
			return 0, err
		}
	}
	i, found := slices.BinarySearchFunc(c.pages, row, func(p pagePlace, row int64) int { return cmp.Compare(p.row, row) })
	if !found {
		i--
	}
	for i+1 < len(c.pages) && c.pages[i+1].row == row { // after pages without rows
		i++
	}
	return i, nil
}

func pageRows(h *format.PageHeader) int32 {
	if h.Type == format.DataPageV2 {
		return h.DataPageHeaderV2.V.NumRows
	}
	return h.DataPageHeader.V.NumValues
}

// header reads the page header at off and checks it against what is there.
func (c *chunk) header(off int64) (*pagePlace, error) {
	var head []byte
	var length int
	for want := int64(512); ; want *= 8 {
		var err error
		if head, err = c.bytes(off, want); err != nil {
			return nil, err
		}
		length, err = thriftSize(head)
		if err == nil {
			break
		}
		if !errors.Is(err, errThriftShort) || int64(len(head)) < want || want >= maxPageHeader {
			return nil, fmt.Errorf("its header %w", err)
		}
	}
	p := &pagePlace{body: off + int64(length)}
	if err := thrift.Unmarshal(&parquetProtocol, head[:length], &p.header); err != nil {
		return nil, fmt.Errorf("its header: %w", err)
	}
	h := &p.header
	packed, plain := int64(h.CompressedPageSize), int64(h.UncompressedPageSize)
	switch {
	case packed < 0 || packed > c.place.end-p.body:
		return nil, fmt.Errorf("says that it has %d bytes, of which %d are there", packed, c.place.end-p.body)
	case plain < 0 || plain > c.unpacksTo(packed):
		return nil, fmt.Errorf("says that its %d bytes unpack to %d, more than %s can hold or evatool takes (%d)", packed, plain, c.place.codec, c.unpacksTo(packed))
	}
	values := int32(0)
	switch h.Type {
	case format.DataPage:
		if !h.DataPageHeader.Valid {
			return nil, errors.New("has no header of its kind")
		}
		values = h.DataPageHeader.V.NumValues
		h.DataPageHeader.V.Statistics = format.Statistics{}
	case format.DataPageV2:
		v := &h.DataPageHeaderV2.V
		if !h.DataPageHeaderV2.Valid {
			return nil, errors.New("has no header of its kind")
		}
		values = v.NumValues
		v.Statistics = format.Statistics{}
		levels := int64(v.RepetitionLevelsByteLength) + int64(v.DefinitionLevelsByteLength)
		if v.RepetitionLevelsByteLength < 0 || v.DefinitionLevelsByteLength < 0 || levels > packed || levels > plain || v.NumRows < 0 || v.NumRows > v.NumValues || v.NumNulls < 0 || v.NumNulls > v.NumValues {
			return nil, errors.New("has a header that contradicts itself")
		}
	case format.DictionaryPage:
		if !h.DictionaryPageHeader.Valid {
			return nil, errors.New("has no header of its kind")
		}
		values = 0 // checked with its bytes
	}
	if values < 0 || int64(values) > c.place.values || values > maxPageValues {
		return nil, fmt.Errorf("says that it has %d values, and the column %d; at most %d are read", values, c.place.values, maxPageValues)
	}
	return p, nil
}

// unpacksTo bounds what n packed bytes of the chunk's codec are.
func (c *chunk) unpacksTo(n int64) int64 {
	limit := n
	switch c.place.codec {
	case format.Uncompressed:
	case format.Snappy: // a copy of 64 bytes takes 3
		limit = 22*n + 64
	case format.Lz4Raw:
		limit = 256*n + 64
	case format.Gzip:
		limit = 1040*n + 1024
	default: // no bound of its own
		limit = unpackRatio*n + spareBytes
	}
	return min(limit, maxPage)
}

// piece reads, unpacks and checks a page. It holds until the next one is read.
func (c *chunk) piece(p *pagePlace) (piece, error) {
	wrap := func(err error) (piece, error) {
		return piece{}, fault.As(fault.Input, fmt.Errorf("%s: page at offset %d: %w", c.what, p.body, err))
	}
	packed, err := c.bytes(p.body, int64(p.header.CompressedPageSize))
	if err != nil {
		return wrap(err)
	}
	h := p.header
	if h.CRC != 0 && uint32(h.CRC) != crc32.ChecksumIEEE(packed) {
		return wrap(errors.New("its checksum differs; fetch the file again"))
	}
	levels, codec := 0, c.place.codec // bytes that are not packed
	if v := h.DataPageHeaderV2.V; h.Type == format.DataPageV2 {
		levels = int(v.RepetitionLevelsByteLength) + int(v.DefinitionLevelsByteLength)
		if v.IsCompressed.Valid && !v.IsCompressed.V {
			codec = format.Uncompressed
		}
	}
	var body []byte
	if codec == format.Uncompressed {
		if body = packed; len(body) != int(h.UncompressedPageSize) {
			return wrap(fmt.Errorf("has %d bytes but says %d", len(body), h.UncompressedPageSize))
		}
	} else {
		n := int(h.UncompressedPageSize)
		if cap(c.plain) < n {
			c.plain = make([]byte, n)
		}
		body = c.plain[:n]
		copy(body, packed[:levels])
		if err := unpackPage(codec, body[levels:], packed[levels:]); err != nil {
			return wrap(err)
		}
	}
	if err := checkPage(&h, c.leaf, body); err != nil {
		return wrap(err)
	}
	h.CRC, h.CompressedPageSize, h.UncompressedPageSize = 0, int32(len(body)), int32(len(body))
	head, err := thrift.Marshal(&parquetProtocol, &h)
	if err != nil {
		return wrap(err)
	}
	return piece{head, body}, nil
}

// trim lets go of large buffers: many files may be open.
func (c *chunk) trim() {
	if len(c.window) > 4*parquetWindow {
		c.window = nil
	}
	if cap(c.plain) > 4*parquetWindow {
		c.plain = nil
	}
}

// dictionary is the piece of the chunk's dictionary, if it has one.
func (c *chunk) dictionary() (*piece, error) {
	if c.dictPiece != nil || c.dict == nil {
		return c.dictPiece, nil
	}
	p, err := c.piece(c.dict)
	if err != nil {
		return nil, err
	}
	c.dictPiece, c.plain = &p, nil // it is kept
	return c.dictPiece, nil
}

// open starts the library at data page i.
func (c *chunk) open(i int) *openPages {
	s := &pageStream{c: c, page: i, start: streamStart}
	return &openPages{s, c.column.(*parquet.FileColumnChunk).PagesFrom(s)}
}

// openPages are pages one after the other.
type openPages struct {
	s     *pageStream
	pages *parquet.FilePages
}

// read is the next page; io.EOF after the last.
func (p *openPages) read() (parquet.Page, error) {
	page, err := p.pages.ReadPage()
	if err != nil && p.s.err != nil && !errors.Is(p.s.err, io.EOF) {
		return nil, p.s.err // the library wraps it in its own words
	}
	return page, err
}

func (p *openPages) Close() error { return p.pages.Close() }

// The library takes a chunk's length from the footer; that of a stream is not
// known there.
const (
	streamStart  = 4
	streamSize   = 1 << 40
	streamBuffer = 16 << 10
)

// pageStream is what the library reads as the bytes of a chunk: the dictionary,
// then plain pages, made as they are asked for.
type pageStream struct {
	c     *chunk
	page  int  // the next one
	dict  bool // the dictionary has been given
	piece piece
	start int64 // offset of piece
	err   error
}

// ReadAt is called in sequence, as an io.Reader would be, and returns what
// there is.
func (s *pageStream) ReadAt(p []byte, off int64) (int, error) {
	for off >= s.start+s.piece.size() {
		if s.err != nil {
			return 0, s.err
		}
		s.start += s.piece.size()
		if s.piece, s.err = s.advance(); s.err != nil {
			return 0, s.err
		}
	}
	if off < s.start {
		return 0, fmt.Errorf("%s: offset %d was asked for again", s.c.what, off)
	}
	return s.piece.read(p, off-s.start), nil
}

func (s *pageStream) advance() (piece, error) {
	place, err := s.c.page(s.page)
	if err != nil {
		return piece{}, err
	}
	if !s.dict {
		s.dict = true
		if d, err := s.c.dictionary(); err != nil {
			return piece{}, err
		} else if d != nil {
			return *d, nil
		}
	}
	s.page++
	return s.c.piece(place)
}
