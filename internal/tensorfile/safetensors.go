package tensorfile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/evatool/evatool/internal/fault"
)

// maxHeader is the format's limit for its header, in bytes.
const maxHeader = 100_000_000

// Limits of this reader: real files have a few thousand tensors of at most 4
// dimensions, and torch allows 64. They keep a header of 100 MB from taking ten
// times its size in memory.
const (
	maxKeys = 1 << 17
	maxDims = 64
)

const metadataKey = "__metadata__"

// Header is the validated header of a safetensors file.
type Header struct {
	Tensors  []Info  // in file order
	Offsets  []int64 // of each, from the start of the file
	Metadata map[string]string
}

// ParseHeader reads and validates the header of a safetensors file of size bytes.
// The format's rules are here alone: a header of at most 100 MB that starts with
// '{' and may end in spaces, valid UTF-8, no key twice, string metadata, known
// element types, byte ranges that match the shapes, and data without gaps,
// overlaps or leftover bytes.
func ParseHeader(r io.ReaderAt, size int64) (*Header, error) {
	var lenBuf [8]byte
	if size < 8 {
		return nil, fmt.Errorf("%d bytes are too few for the 8-byte header length", size)
	}
	if err := readAt(r, lenBuf[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(lenBuf[:])
	switch {
	case n > maxHeader:
		return nil, fmt.Errorf("header length %d is over the limit of %d", n, maxHeader)
	case n > uint64(size-8):
		return nil, fmt.Errorf("header length %d is more than the %d bytes that follow", n, size-8)
	case n < 2:
		return nil, fmt.Errorf("header length %d is too short for a header", n)
	}
	head := make([]byte, n)
	if err := readAt(r, head, 8); err != nil {
		return nil, err
	}
	if head[0] != '{' {
		return nil, fmt.Errorf("header starts with %q, not with '{'", head[0])
	}
	if !utf8.Valid(head) {
		return nil, fmt.Errorf("header is not valid UTF-8")
	}
	h, ranges, err := decodeHeader(head)
	if err != nil {
		return nil, err
	}
	return h, h.layout(ranges, 8+int64(n), size)
}

// byteRange is a tensor's data_offsets.
type byteRange struct{ begin, end int64 }

// layout sorts the tensors by offset and checks that they tile the data.
func (h *Header) layout(ranges []byteRange, start, size int64) error {
	order := make([]int, len(ranges))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(ranges[a].begin, ranges[b].begin), cmp.Compare(ranges[a].end, ranges[b].end))
	})
	infos := make([]Info, len(order))
	h.Offsets = make([]int64, len(order))
	var end int64
	for i, j := range order {
		t, r := h.Tensors[j], ranges[j]
		want, ok := CheckedBytes(t)
		switch {
		case r.begin > r.end:
			return fmt.Errorf("tensor %.200q: data_offsets [%d, %d] are reversed", t.Name, r.begin, r.end)
		case !ok:
			return fmt.Errorf("tensor %.200q: shape %v is too large", t.Name, t.Shape)
		case r.end-r.begin != want:
			return fmt.Errorf("tensor %.200q: data_offsets span %d bytes, but %s %v needs %d", t.Name, r.end-r.begin, t.DType, t.Shape, want)
		case r.begin > end:
			return fmt.Errorf("tensor %.200q: %d unused bytes before it", t.Name, r.begin-end)
		case r.begin < end:
			return fmt.Errorf("tensor %.200q: overlaps the tensor before it", t.Name)
		case r.end > size-start:
			return fmt.Errorf("tensor %.200q: ends at byte %d of %d; the file is cut off", t.Name, r.end, size-start)
		}
		infos[i], h.Offsets[i], end = t, start+r.begin, r.end
	}
	if end != size-start {
		return fmt.Errorf("%d unused bytes after the last tensor", size-start-end)
	}
	h.Tensors = infos
	return nil
}

// CheckedBytes is NumBytes for a shape that has not been checked yet: ok is false
// if a dimension is negative or the size overflows.
func CheckedBytes(t Info) (int64, bool) {
	n := int64(t.DType.Size())
	zero := false
	for _, d := range t.Shape {
		switch {
		case d < 0:
			return 0, false
		case d == 0:
			zero = true
		case n > math.MaxInt64/d:
			return 0, false
		default:
			n *= d
		}
	}
	if zero {
		return 0, true
	}
	return n, true
}

func decodeHeader(head []byte) (*Header, []byteRange, error) {
	d := newObjectDecoder(head)
	h := &Header{}
	var ranges []byteRange
	err := d.object(func(name string) error {
		if name == metadataKey {
			h.Metadata = map[string]string{}
			return d.object(func(key string) error {
				s, err := d.str()
				if err != nil {
					return fmt.Errorf("%s %.200q: %w", metadataKey, key, err)
				}
				h.Metadata[key] = s
				return nil
			})
		}
		t, r, err := d.tensor(name)
		if err != nil {
			return fmt.Errorf("tensor %.200q: %w", name, err)
		}
		h.Tensors, ranges = append(h.Tensors, t), append(ranges, r)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if rest := bytes.TrimRight(head[d.dec.InputOffset():], " "); len(rest) > 0 {
		return nil, nil, fmt.Errorf("header continues after its end with %q", rest[0])
	}
	return h, ranges, nil
}

// packedError is the error for a valid file with an element type that this package
// does not read.
type packedError string

func (e packedError) Error() string {
	return fmt.Sprintf("elements of type %s are smaller than a byte, which evatool does not read; cast the tensor with torch first", string(e))
}

// objectDecoder reads JSON token by token, so that nothing recurses and repeated
// keys are noticed.
type objectDecoder struct{ dec *json.Decoder }

func newObjectDecoder(b []byte) objectDecoder {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return objectDecoder{dec}
}

func (d objectDecoder) token() (json.Token, error) {
	t, err := d.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return t, nil
}

// object reads an object; value must consume the value of each key.
func (d objectDecoder) object(value func(key string) error) error {
	if err := d.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for d.dec.More() {
		t, err := d.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return fmt.Errorf("key %s is not a string", show(t))
		}
		if seen[key] {
			return fmt.Errorf("key %.200q appears twice", key)
		}
		if seen[key] = true; len(seen) > maxKeys {
			return fmt.Errorf("more than %d keys", maxKeys)
		}
		if err := value(key); err != nil {
			return err
		}
	}
	return d.delim('}')
}

func (d objectDecoder) delim(want json.Delim) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("%s where %q should be", show(t), want.String())
	}
	return nil
}

func (d objectDecoder) str() (string, error) {
	t, err := d.token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%s is not a string", show(t))
	}
	return s, nil
}

// ints reads an array of natural numbers.
func (d objectDecoder) ints() ([]int64, error) {
	if err := d.delim('['); err != nil {
		return nil, err
	}
	out := []int64{}
	for d.dec.More() {
		t, err := d.token()
		if err != nil {
			return nil, err
		}
		num, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%s is not a number", show(t))
		}
		n, err := strconv.ParseUint(num.String(), 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%s is not a natural number of at most 63 bits", show(num))
		}
		if out = append(out, int64(n)); len(out) > maxDims {
			return nil, fmt.Errorf("more than %d numbers", maxDims)
		}
	}
	return out, d.delim(']')
}

func (d objectDecoder) tensor(name string) (Info, byteRange, error) {
	t := Info{Name: name}
	var offsets []int64
	err := d.object(func(key string) error {
		var err error
		switch key {
		case "dtype":
			var s string
			s, err = d.str()
			if t.DType = DType(s); err == nil && t.DType.Size() == 0 {
				err = fmt.Errorf("unknown element type %.200q", s)
				if slices.Contains(packed, t.DType) {
					err = packedError(s)
				}
			}
		case "shape":
			t.Shape, err = d.ints()
		case "data_offsets":
			offsets, err = d.ints()
		default:
			err = fmt.Errorf("unknown key %.200q", key)
		}
		return err
	})
	switch {
	case err != nil:
		return t, byteRange{}, err
	case t.DType == "":
		return t, byteRange{}, fmt.Errorf("dtype is missing")
	case t.Shape == nil:
		return t, byteRange{}, fmt.Errorf("shape is missing")
	case len(offsets) != 2:
		return t, byteRange{}, fmt.Errorf("data_offsets has %d numbers, not 2", len(offsets))
	}
	return t, byteRange{offsets[0], offsets[1]}, nil
}

// show is a token as short text on one line.
func show(t json.Token) string { return fmt.Sprintf("%.60q", fmt.Sprint(t)) }

// readAt reads all of p at off.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// File is an opened safetensors file.
type File struct {
	name  string
	r     io.ReaderAt
	f     *os.File // nil when not opened from a path
	head  *Header
	index map[string]int
}

var _ Source = (*File)(nil)

// OpenFile opens a safetensors file and validates its header.
func OpenFile(path string) (*File, error) {
	const want = "a .safetensors file"
	if err := fault.RegularFile(path, want); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.File(path, want, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fault.File(path, want, err)
	}
	file, err := OpenReaderAt(f, st.Size(), path)
	if err != nil {
		f.Close()
		return nil, err
	}
	file.f = f
	return file, nil
}

// OpenReaderAt is OpenFile over anything that can be read at offsets; name is
// used in errors. Closing the File does not close r.
func OpenReaderAt(r io.ReaderAt, size int64, name string) (*File, error) {
	head, err := ParseHeader(r, size)
	var small packedError
	if errors.As(err, &small) {
		return nil, fault.Inputf("%s: %w", name, err)
	}
	if err != nil {
		head := make([]byte, 512)
		n, _ := r.ReadAt(head, 0)
		// The length of a header may begin with any bytes, also those of other formats.
		header := n > 8 && head[8] == '{' && bytes.Equal(head[4:8], make([]byte, 4))
		if what := Mistaken(head[:n], size); what != "" && !header {
			return nil, fault.Inputf("%s: %s; give a safetensors file", name, what)
		}
		return nil, fault.Inputf("%s: not a valid safetensors file: %w; download or write it again", name, err)
	}
	file := &File{name: name, r: r, head: head, index: make(map[string]int, len(head.Tensors))}
	for i, t := range head.Tensors {
		file.index[t.Name] = i
	}
	return file, nil
}

// Tensors lists the tensors in file order.
func (f *File) Tensors() []Info { return f.head.Tensors }

// Metadata is the __metadata__ map, or nil.
func (f *File) Metadata() map[string]string { return f.head.Metadata }

// Open streams a tensor's bytes.
func (f *File) Open(name string) (io.ReadCloser, error) {
	i, ok := f.index[name]
	if !ok {
		return nil, fault.Inputf("%s: no tensor %.200q; `evatool inspect` lists them", f.name, name)
	}
	n := f.head.Tensors[i].NumBytes()
	return io.NopCloser(&exact{r: io.NewSectionReader(f.r, f.head.Offsets[i], n), left: n, file: f.name, tensor: name}), nil
}

// Extent returns where a tensor's bytes lie.
func (f *File) Extent(name string) (*os.File, int64, bool) {
	i, ok := f.index[name]
	if !ok || f.f == nil {
		return nil, 0, false
	}
	return f.f, f.head.Offsets[i], true
}

// Close closes the file.
func (f *File) Close() error {
	if f.f == nil {
		return nil
	}
	return f.f.Close()
}

// exact turns an early end into an error.
type exact struct {
	r            io.Reader
	left         int64
	file, tensor string
}

func (e *exact) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.left -= int64(n)
	switch {
	case err == io.EOF && e.left > 0:
		err = fault.Inputf("%s: tensor %.200q ends %d bytes early; the file shrank while it was read", e.file, e.tensor, e.left)
	case err != nil && err != io.EOF:
		err = fault.Inputf("%s: tensor %.200q: %w", e.file, e.tensor, err)
	}
	return n, err
}
