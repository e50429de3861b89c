package dataset

import (
	"slices"
	"strings"
	"testing"
)

func numpy(version byte, head, data string) []byte {
	size := []byte{byte(len(head)), byte(len(head) >> 8)}
	if version > 1 {
		size = append(size, 0, 0)
	}
	return []byte("\x93NUMPY" + string([]byte{version, 0}) + string(size) + head + data)
}

func TestMetaVector(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		want []int
		err  string
	}{
		{numpy(1, "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", "\x05\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"), []int{5, -1}, ""},
		{numpy(2, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", "\x01\x00\xff"), []int{1, 0, 255}, ""},
		{numpy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "\x00\x00\x40\x40"), []int{3}, ""},
		{numpy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "\x00\x00\x20\x40"), nil, "want whole numbers"},
		{numpy(1, "{'descr': '<i4', 'fortran_order': False, 'shape': (), }", "\x07\x00\x00\x00"), []int{7}, ""},
		{numpy(1, "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", "\x07\x00\x00\x00"), nil, "the member has 4"},
		{numpy(1, "{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1), }", "\x07\x00\x00\x00"), nil, "one dimension"},
		{numpy(1, "{'descr': '>i4', 'fortran_order': False, 'shape': (1,), }", "\x00\x00\x00\x07"), nil, "little-endian"},
		{numpy(1, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", ""), nil, "want numbers"},
		{numpy(1, "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999,), }", ""), nil, "at most"},
		{[]byte("\x93NUMPY\x01\x00\xff"), nil, "not a NumPy file"},
		{[]byte("\x93NUMPY\x01\x00\xff\xff{}  "), nil, "the header has 65535 bytes"},
		{nil, nil, "not a NumPy file"},
	} {
		got, err := metaVector(c.b)
		if c.err == "" && (err != nil || !slices.Equal(got, c.want)) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%.60q: %v, %v, want %v %q", c.b, got, err, c.want, c.err)
		}
	}
}
