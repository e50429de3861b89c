package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"github.com/evatool/evatool/internal/fault"
)

const parquetFiles = "../../testdata/parquet"

// Every codec and encoding, as pyarrow wrote them and reads them back; rows in
// order, backwards and at random.
func TestParquetEncodings(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(parquetFiles, "values.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][]struct {
		Caption []string
		Label   int
		Image   *string
		Path    string
	}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for name, want := range all {
		src := filepath.Join(parquetFiles, name+".parquet")
		d, err := Open(context.Background(), src, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		order := make([]int, 0, 4*len(want))
		for i := range want {
			order = append(order, i)
		}
		order = append(order, rand.New(rand.NewPCG(1, 1)).Perm(len(want))...)
		for i := range want {
			order = append(order, len(want)-1-i)
		}
		for _, i := range order {
			ex, err := d.Read(i)
			w := want[i]
			if w.Image == nil {
				if err == nil || !strings.Contains(err.Error(), w.Path+": no such file") {
					t.Errorf("%s: row %d: %v", name, i, err)
				}
			} else if err != nil || hex.EncodeToString(ex.Image) != *w.Image {
				t.Errorf("%s: row %d: image %x, %v; want %s", name, i, ex.Image, err, *w.Image)
			}
			if ex.Label != w.Label || !slices.Equal(ex.Captions, w.Caption) {
				t.Errorf("%s: row %d: label %d, captions %q; want %d, %q", name, i, ex.Label, ex.Captions, w.Label, w.Caption)
			}
		}
		d.Close()
		if d.Len() != len(want) {
			t.Errorf("%s: %d rows, want %d", name, d.Len(), len(want))
		}
		paths, err := Open(context.Background(), src, Options{ImageColumn: "path"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, r := range paths.(*list).records {
			if w := fmt.Sprintf("images/%06d.jpg", i); r.key != w {
				t.Errorf("%s: row %d: path %s, want %s", name, i, r.key, w)
			}
		}
	}
}

// allocated is how much memory f asks for.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// openAndRead opens a table in each way and reads it.
func openAndRead(src string) {
	for _, o := range []Options{{}, {ImageColumn: "path"}} {
		d, err := Open(context.Background(), src, o)
		if err != nil {
			continue
		}
		for i := range min(d.Len(), 200) {
			d.Read(i * 7 % d.Len())
		}
		d.Close()
	}
}

// parquetCeiling is what a table of n bytes may make evatool reserve, all
// allocations counted.
func parquetCeiling(n int) int64 { return 256<<20 + 20_000*int64(n) }

// Footers and pages that declare what is not there.
func TestParquetBombs(t *testing.T) {
	whole := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(parquetFiles, name+".parquet"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	footer := func(data []byte, change func(m *format.FileMetaData)) []byte {
		n := int(binary.LittleEndian.Uint32(data[len(data)-8:]))
		var m format.FileMetaData
		if err := thrift.Unmarshal(&parquetProtocol, data[len(data)-8-n:len(data)-8], &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		b, err := thrift.Marshal(&parquetProtocol, &m)
		if err != nil {
			t.Fatal(err)
		}
		out := append(slices.Clone(data[:len(data)-8-n]), b...)
		return append(binary.LittleEndian.AppendUint32(out, uint32(len(b))), "PAR1"...)
	}
	raw := func(footer ...byte) []byte {
		out := append([]byte("PAR1"), footer...)
		return append(binary.LittleEndian.AppendUint32(out, uint32(len(footer))), "PAR1"...)
	}
	// page puts a page in the place of those of the column label.
	page := func(data []byte, h format.PageHeader, body []byte) []byte {
		head, err := thrift.Marshal(&parquetProtocol, &h)
		if err != nil {
			t.Fatal(err)
		}
		n := int(binary.LittleEndian.Uint32(data[len(data)-8:]))
		at := len(data) - 8 - n
		moved := slices.Concat(data[:at], head, body, data[at:])
		return footer(moved, func(m *format.FileMetaData) {
			for k := range m.RowGroups[0].Columns {
				if c := &m.RowGroups[0].Columns[k].MetaData; c.PathInSchema[0] == "label" {
					c.DictionaryPageOffset, c.DataPageOffset, c.TotalCompressedSize = 0, int64(at), int64(len(head)+len(body))
				}
			}
		})
	}
	dataPage := func(values int32, encoding format.Encoding, packed, plain int32) format.PageHeader {
		return format.PageHeader{Type: format.DataPage, CompressedPageSize: packed, UncompressedPageSize: plain, DataPageHeader: thrift.New(format.DataPageHeader{
			NumValues: values, Encoding: encoding, DefinitionLevelEncoding: format.RLE, RepetitionLevelEncoding: format.RLE,
		})}
	}
	levels := func(runs []byte, values ...byte) []byte {
		return slices.Concat(binary.LittleEndian.AppendUint32(nil, uint32(len(runs))), runs, values)
	}
	present := []byte{24, 1} // a run of 12 levels 1
	long := []byte{0xfe, 0xff, 0xff, 0xff, 0x07, 1}
	said := map[string]string{
		"a footer longer than the file": "its end says that the footer has 2147483648 bytes",
		"a list of 2^31 columns":        "ends in the middle of a structure",
		"a string of 2^31 bytes":        "ends in the middle of a structure",
		"structures without end":        "structures too deep",
		"empty structures":              "a list of empty structures",
		"2^62 rows":                     "row group 0 says that it has 4611686018427387904 rows",
		"rows that overflow":            "row group 0 says that it has 9223372036854775807 rows",
		"a chunk beyond the file":       "outside the",
		"a chunk before the file":       "outside the",
		"a chunk that overflows":        "outside the",
		"values without end":            "says that it has 1099511627776 values",
		"children without end":          "children",
		"a page of 2^31 bytes":          "says that it has 2147483647 bytes, of which 0 are there",
		"a page of -1 bytes":            "says that it has -1 bytes",
		"a page of 2^31 values":         "says that it has 2147483647 values, and the column 12",
		"a run of 2^30 levels":          "has runs of more than its 12 values",
		"levels longer than the page":   "says that its levels have 2147483647 bytes",
		"a run of 2^30 indices":         "has runs of more than its 12 values",
		"2^31 deltas":                   "has 2147483647 values but says 12",
		"a statistic of 2^31 bytes":     "its header ends in the middle of a structure",
		"a dictionary of 2^31 values":   "says that it has 2147483647 values; at most",
		"zstd that says more":           "unpack to 1073741824, more than",
		"snappy that says more":         "unpacks to 4294967295 bytes but says 190",
		"fewer levels than values":      "has 5 levels or indices for 12 values",
		"fewer indices than values":     "has 5 levels or indices for 12 values",
		"fewer numbers than values":     "has 8 bytes for 12 values",
	}
	plain := whole("codec-none")
	for name, data := range map[string][]byte{
		"a footer longer than the file": append(binary.LittleEndian.AppendUint32(slices.Clone(plain[:len(plain)-8]), 1<<31), "PAR1"...),
		"a list of 2^31 columns":        raw(0x29, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07),
		"a string of 2^31 bytes":        raw(0x68, 0xff, 0xff, 0xff, 0xff, 0x07),
		"structures without end":        raw(bytes.Repeat([]byte{0x1c}, 1<<16)...),
		"empty structures":              raw(append([]byte{0x29, 0xfc, 0x80, 0x80, 0x04}, make([]byte, 1<<16)...)...),
		"2^62 rows":                     footer(plain, func(m *format.FileMetaData) { m.NumRows, m.RowGroups[0].NumRows = 1<<62, 1<<62 }),
		"rows that overflow": footer(plain, func(m *format.FileMetaData) {
			m.RowGroups = append(m.RowGroups, m.RowGroups[0], m.RowGroups[0])
			for i := range m.RowGroups {
				m.RowGroups[i].NumRows = 1<<63 - 1
			}
		}),
		"a chunk beyond the file": footer(plain, func(m *format.FileMetaData) { m.RowGroups[0].Columns[0].MetaData.DataPageOffset = 1 << 40 }),
		"a chunk before the file": footer(plain, func(m *format.FileMetaData) { m.RowGroups[0].Columns[0].MetaData.DataPageOffset = -9 }),
		"a chunk that overflows":  footer(plain, func(m *format.FileMetaData) { m.RowGroups[0].Columns[0].MetaData.TotalCompressedSize = 1<<63 - 1 }),
		"values without end":      footer(plain, func(m *format.FileMetaData) { m.RowGroups[0].Columns[2].MetaData.NumValues = 1 << 40 }),
		"children without end": footer(plain, func(m *format.FileMetaData) {
			for i := range m.Schema {
				if m.Schema[i].NumChildren.Valid {
					m.Schema[i].NumChildren.V = 1<<31 - 1
				}
			}
		}),
		"a page of 2^31 bytes":        page(plain, dataPage(12, format.Plain, 1<<31-1, 1<<31-1), nil),
		"a page of -1 bytes":          page(plain, dataPage(12, format.Plain, -1, -1), nil),
		"a page of 2^31 values":       page(plain, dataPage(1<<31-1, format.Plain, 6, 6), levels(present)),
		"a run of 2^30 levels":        page(plain, dataPage(12, format.Plain, 10, 10), levels(long)),
		"levels longer than the page": page(plain, dataPage(12, format.Plain, 5, 5), []byte{255, 255, 255, 127, 0}),
		"a run of 2^30 indices":       page(plain, dataPage(12, format.RLEDictionary, 13, 13), levels(present, append([]byte{1}, long...)...)),
		"2^31 deltas":                 page(plain, dataPage(12, format.DeltaBinaryPacked, 15, 15), levels(present, 128, 1, 4, 0xff, 0xff, 0xff, 0xff, 7, 0)),
		"a statistic of 2^31 bytes": func() []byte {
			h := dataPage(12, format.Plain, 6, 6)
			h.DataPageHeader.V.Statistics.MaxValue = bytes.Repeat([]byte{'x'}, 200)
			out := page(plain, h, levels(present))
			i := bytes.Index(out, append([]byte{0xc8, 1}, "xxxxxxxx"...))
			copy(out[i:], []byte{0xff, 0xff, 0xff, 0xff, 0x07})
			return out
		}(),
		"a dictionary of 2^31 values": page(plain, format.PageHeader{Type: format.DictionaryPage, CompressedPageSize: 8, UncompressedPageSize: 8, DictionaryPageHeader: thrift.New(format.DictionaryPageHeader{NumValues: 1<<31 - 1})},
			slices.Concat(make([]byte, 8), mustMarshal(t, dataPage(12, format.RLEDictionary, 9, 9)), levels(present, 1, 24, 0))),
		"zstd that says more":       page(whole("codec-zstd"), dataPage(12, format.Plain, 9, 1<<30), make([]byte, 9)),
		"snappy that says more":     page(whole("codec-snappy"), dataPage(12, format.Plain, 9, 190), []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0}),
		"fewer levels than values":  page(plain, dataPage(12, format.Plain, 6, 6), levels([]byte{10, 1})),
		"fewer indices than values": page(plain, dataPage(12, format.RLEDictionary, 9, 9), levels(present, 1, 10, 0)),
		"fewer numbers than values": page(plain, dataPage(12, format.Plain, 14, 14), levels(present, make([]byte, 8)...)),
	} {
		src := write(t, filepath.Join(t.TempDir(), "x.parquet"), string(data))
		var err error
		n := allocated(func() {
			var d Dataset
			if d, err = Open(context.Background(), src, Options{ClassNames: make([]string, 2000)}); err == nil {
				_, err = d.Read(0)
				d.Close()
			}
		})
		if said[name] == "" || err == nil || !strings.Contains(err.Error(), said[name]) || fault.Code(err) != int(fault.Input) {
			t.Errorf("%s: %v; want %q", name, err, said[name])
		}
		if limit := int64(4<<20) + 300*int64(len(data)); n > limit {
			t.Errorf("%s: %d bytes were asked for, want at most %d; %v", name, n, limit, err)
		}
		t.Logf("%s: %d bytes: %v", name, n, err)
	}
}

func mustMarshal(t *testing.T, h format.PageHeader) []byte {
	t.Helper()
	b, err := thrift.Marshal(&parquetProtocol, &h)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzParquet: whatever a file declares, memory stays within a multiple of it.
func FuzzParquet(f *testing.F) {
	names, err := filepath.Glob(filepath.Join(parquetFiles, "*.parquet"))
	if err != nil || len(names) == 0 {
		f.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		src := write(t, filepath.Join(t.TempDir(), "x.parquet"), string(data))
		if n := allocated(func() { openAndRead(src) }); n > parquetCeiling(len(data)) {
			t.Errorf("%d bytes were asked for by a file of %d", n, len(data))
		}
	})
}

// A run whose count overflows when it is multiplied is no short run.
func TestRuns(t *testing.T) {
	for _, c := range []struct {
		data  []byte
		width int
		n     int64
		tops  int64
		fails bool
	}{
		{[]byte{24, 1}, 1, 12, 12, false},
		{[]byte{10, 1, 14, 0}, 1, 12, 5, false},
		{[]byte{3, 0b10110101}, 1, 8, 5, false},
		{[]byte{3, 0b10110101}, 1, 6, 4, false}, // the last two are padding
		{[]byte{0, 24, 1}, 1, 12, 12, false},    // an empty run has no value
		{binary.AppendUvarint(nil, (1<<61+1)<<1|1), 0, 8, 0, true},
		{append(binary.AppendUvarint(nil, (1<<61+1)<<1|1), 0, 0), 2, 8, 0, true},
		{[]byte{24}, 1, 12, 0, true},
		{[]byte{0x80}, 1, 12, 0, true},
		{[]byte{24, 1}, 33, 12, 0, true},
	} {
		tops, err := runs(c.data, c.width, c.n, 1)
		if (err != nil) != c.fails || tops != c.tops && !c.fails {
			t.Errorf("runs(%v, %d, %d) = %d, %v; want %d, fails %v", c.data, c.width, c.n, tops, err, c.tops, c.fails)
		}
	}
}

// A page of nulls alone has nothing to unpack; parquet-java writes no bytes for it.
func TestUnpackNothing(t *testing.T) {
	for _, codec := range []format.CompressionCodec{format.Snappy, format.Gzip, format.Brotli, format.Zstd, format.Lz4Raw} {
		if err := unpackPage(codec, nil, nil); err != nil {
			t.Errorf("%s: %v", codec, err)
		}
	}
}
