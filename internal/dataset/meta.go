package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// maxMeta bounds the numbers of a metadata member.
const maxMeta = 1 << 16

// npyType and npyShape are fields of a NumPy file's header, a Python dict.
var (
	npyType  = regexp.MustCompile(`'descr':\s*'([<>|=]?[a-z]\d+)'`)
	npyShape = regexp.MustCompile(`'shape':\s*\(([\d,\s]*)\)`)
)

// metaVector reads a sample's .npy of whole numbers in one dimension: the groups
// that a sample belongs to, or the classes that a picture shows.
func metaVector(b []byte) ([]int, error) {
	const magic = "\x93NUMPY"
	if len(b) < 12 || string(b[:6]) != magic || b[6] < 1 || b[6] > 3 {
		return nil, errors.New(".npy: not a NumPy file")
	}
	start, n := 10, int(binary.LittleEndian.Uint16(b[8:]))
	if b[6] > 1 {
		start, n = 12, int(binary.LittleEndian.Uint32(b[8:]))
	}
	if n < 0 || n > len(b)-start {
		return nil, fmt.Errorf(".npy: the header has %d bytes, the member %d", n, len(b))
	}
	head, data := string(b[start:start+n]), b[start+n:]
	kind, shape := npyType.FindStringSubmatch(head), npyShape.FindStringSubmatch(head)
	if kind == nil || shape == nil {
		return nil, fmt.Errorf(".npy: header %.80q: want numbers in one dimension", head)
	}
	dims := strings.FieldsFunc(shape[1], func(r rune) bool { return r == ',' || r == ' ' })
	if len(dims) > 1 {
		return nil, fmt.Errorf(".npy: shape (%s): want one dimension", shape[1])
	}
	count := 1 // of a bare number
	if len(dims) == 1 {
		var err error
		if count, err = strconv.Atoi(dims[0]); err != nil || count > maxMeta {
			return nil, fmt.Errorf(".npy: shape (%s): at most %d numbers", shape[1], maxMeta)
		}
	}
	value, size := npyNumber(strings.TrimLeft(kind[1], "<|="))
	if value == nil {
		return nil, fmt.Errorf(".npy: type %s: want whole numbers, little-endian", kind[1])
	}
	if len(data) != count*size {
		return nil, fmt.Errorf(".npy: %d numbers of %d bytes, but the member has %d", count, size, len(data))
	}
	out := make([]int, count)
	for i := range out {
		v := value(data[i*size:])
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 { // NaN, too
			return nil, fmt.Errorf(".npy: number %d is %v: want whole numbers", i, v)
		}
		out[i] = int(v)
	}
	return out, nil
}

// npyNumber decodes a NumPy type; nil for one that does not hold plain numbers.
func npyNumber(kind string) (value func([]byte) float64, size int) {
	le := binary.LittleEndian
	switch kind {
	case "b1", "u1":
		return func(b []byte) float64 { return float64(b[0]) }, 1
	case "i1":
		return func(b []byte) float64 { return float64(int8(b[0])) }, 1
	case "u2":
		return func(b []byte) float64 { return float64(le.Uint16(b)) }, 2
	case "i2":
		return func(b []byte) float64 { return float64(int16(le.Uint16(b))) }, 2
	case "u4":
		return func(b []byte) float64 { return float64(le.Uint32(b)) }, 4
	case "i4":
		return func(b []byte) float64 { return float64(int32(le.Uint32(b))) }, 4
	case "f4":
		return func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) }, 4
	case "u8":
		return func(b []byte) float64 { return float64(le.Uint64(b)) }, 8
	case "i8":
		return func(b []byte) float64 { return float64(int64(le.Uint64(b))) }, 8
	case "f8":
		return func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }, 8
	}
	return nil, 0
}

// TemplatesFile is the list of templates beside a set in CLIP_benchmark's layout.
const TemplatesFile = "zeroshot_classification_templates.txt"

// Words reads the class names and templates that lie beside a set's tars, or
// above their folder, as CLIP_benchmark lays them out. A list that is not there
// is nil.
func Words(ctx context.Context, src string) (names, templates []string, err error) {
	st, err := storageFor(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	folder := src
	if _, dir, err := st.stat(ctx, src); err != nil || !dir {
		folder = st.dir(src)
	}
	for _, list := range []struct {
		file string
		into *[]string
	}{{"classnames.txt", &names}, {TemplatesFile, &templates}} {
		for _, where := range []string{folder, st.join(folder, "..")} {
			if *list.into, err = classNamesFile(ctx, st, st.join(where, list.file)); err != nil || len(*list.into) > 0 {
				break
			}
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return names, templates, nil
}

// Find is the first of these folders or files below root that is there, "" when
// none is.
func Find(ctx context.Context, root string, names []string) (string, error) {
	st, err := storageFor(ctx, root)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if path := st.join(root, name); present(ctx, st, path) {
			return path, nil
		}
	}
	return "", ctx.Err()
}
