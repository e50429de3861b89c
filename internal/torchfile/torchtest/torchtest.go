// Package torchtest writes PyTorch files for tests and benchmarks: the pickle
// and zip records that torch.save makes, without torch.
package torchtest

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/evatool/evatool/internal/tensorfile"
)

// Values that Pickle writes besides Go's string, int, float64, bool, []byte and
// nil (None).
type (
	// List is a Python list.
	List []any
	// Tuple is a Python tuple.
	Tuple []any
	// Dict is a Python dict, in order.
	Dict []Item
	// Item is a key and value of a Dict.
	Item struct{ Key, Value any }
	// Global is a class or function.
	Global struct{ Module, Name string }
	// Reduce is a call of a Global.
	Reduce struct {
		Func any
		Args Tuple
	}
	// Build is an object and the state that it is given.
	Build struct{ Object, State any }
	// Persistent is a persistent id.
	Persistent struct{ ID any }
	// Raw is pickle bytes that push one value.
	Raw []byte
)

// OrderedDict is a collections.OrderedDict, in order.
type OrderedDict []Item

// Pickle writes v as a pickle of protocol 2, 3, 4 or 5.
func Pickle(v any, protocol int) []byte {
	p := &pickler{protocol: protocol}
	p.value(v)
	p.WriteByte('.')
	head := []byte{0x80, byte(protocol)}
	if protocol >= 4 {
		head = append(head, 0x95)
		head = binary.LittleEndian.AppendUint64(head, uint64(p.Len()))
	}
	return append(head, p.Bytes()...)
}

type pickler struct {
	bytes.Buffer
	protocol int
}

func (p *pickler) le32(n int) { p.Write(binary.LittleEndian.AppendUint32(nil, uint32(n))) }

func (p *pickler) value(v any) {
	switch v := v.(type) {
	case nil:
		p.WriteByte('N')
	case bool:
		p.WriteByte(map[bool]byte{true: 0x88, false: 0x89}[v])
	case int:
		p.int(v)
	case float64:
		p.WriteByte('G')
		p.Write(binary.BigEndian.AppendUint64(nil, math.Float64bits(v)))
	case string:
		p.string(v)
	case []byte:
		p.WriteByte('B')
		p.le32(len(v))
		p.Write(v)
	case List:
		p.WriteString("](")
		p.values(v)
		p.WriteByte('e')
	case Tuple:
		p.WriteByte('(')
		p.values(v)
		p.WriteByte('t')
	case Dict:
		p.WriteByte('}')
		p.items(v)
	case OrderedDict:
		p.value(Reduce{Global{"collections", "OrderedDict"}, nil})
		p.items(v)
	case Global:
		p.global(v)
	case Reduce:
		p.value(v.Func)
		p.value(v.Args)
		p.WriteByte('R')
	case Build:
		p.value(v.Object)
		p.value(v.State)
		p.WriteByte('b')
	case Persistent:
		p.value(v.ID)
		p.WriteByte('Q')
	case Raw:
		p.Write(v)
	default:
		panic(fmt.Sprintf("torchtest: cannot pickle a %T", v))
	}
}

func (p *pickler) values(l []any) {
	for _, x := range l {
		p.value(x)
	}
}

func (p *pickler) items(l []Item) {
	p.WriteByte('(')
	for _, x := range l {
		p.value(x.Key)
		p.value(x.Value)
	}
	p.WriteByte('u')
}

func (p *pickler) int(n int) {
	if n == int(int32(n)) {
		p.WriteByte('J')
		p.le32(n)
		return
	}
	p.WriteString("\x8a\x08")
	p.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func (p *pickler) string(s string) {
	if p.protocol >= 4 && len(s) < 256 {
		p.WriteString("\x8c" + string(byte(len(s))) + s)
		return
	}
	p.WriteByte('X')
	p.le32(len(s))
	p.WriteString(s)
}

func (p *pickler) global(g Global) {
	if p.protocol >= 4 {
		p.string(g.Module)
		p.string(g.Name)
		p.WriteByte(0x93)
		return
	}
	p.WriteString("c" + g.Module + "\n" + g.Name + "\n")
}

// StorageNames are torch's storage classes by element type.
var StorageNames = map[tensorfile.DType]string{
	tensorfile.F64: "DoubleStorage", tensorfile.F32: "FloatStorage", tensorfile.F16: "HalfStorage",
	tensorfile.BF16: "BFloat16Storage", tensorfile.I64: "LongStorage", tensorfile.I32: "IntStorage",
	tensorfile.I16: "ShortStorage", tensorfile.I8: "CharStorage", tensorfile.U8: "ByteStorage",
	tensorfile.BOOL: "BoolStorage",
}

// Storage is the persistent id of a storage in a zip file.
func Storage(t tensorfile.DType, key string, elems int64) any {
	return Persistent{Tuple{"storage", Global{"torch", StorageNames[t]}, key, "cpu", int(elems)}}
}

// View is a tensor that is a view of a storage.
func View(storage any, offset int64, shape, stride []int64) any {
	return Reduce{Global{"torch._utils", "_rebuild_tensor_v2"}, Tuple{
		storage, int(offset), ints(shape), ints(stride), false, OrderedDict{},
	}}
}

func ints(l []int64) Tuple {
	out := Tuple{}
	for _, n := range l {
		out = append(out, int(n))
	}
	return out
}

// Contiguous are the strides of a contiguous tensor.
func Contiguous(shape []int64) []int64 {
	out := make([]int64, len(shape))
	step := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		out[i] = step
		step *= shape[i]
	}
	return out
}

// Member is a record of a zip file.
type Member struct {
	Name    string
	Data    io.Reader
	Deflate bool
}

// WriteZip writes the members as archive/NAME, sizes after the data as torch
// does, zip64 where needed.
func WriteZip(w io.Writer, members []Member) error {
	z := zip.NewWriter(w)
	var buf []byte // only for what does not write itself: fuzzing makes thousands a second
	for _, m := range members {
		method := zip.Store
		if m.Deflate {
			method = zip.Deflate
		}
		f, err := z.CreateHeader(&zip.FileHeader{Name: "archive/" + m.Name, Method: method})
		if err != nil {
			return err
		}
		if _, ok := m.Data.(io.WriterTo); !ok && buf == nil {
			buf = make([]byte, 1<<20)
		}
		if _, err := io.CopyBuffer(f, m.Data, buf); err != nil {
			return err
		}
	}
	return z.Close()
}

// Tensor is a tensor of a made-up state dict.
type Tensor struct {
	tensorfile.Info
	Data io.Reader // NumBytes bytes, or nil for zeros
}

// WriteStateDict writes the tensors as torch.save(state_dict) would, each with
// its own storage, as a stream: nothing is held in memory.
func WriteStateDict(w io.Writer, tensors []Tensor) error {
	var dict OrderedDict
	members := []Member{{}, {Name: "byteorder", Data: bytes.NewReader([]byte("little"))}}
	for i, t := range tensors {
		key := strconv.Itoa(i)
		view := View(Storage(t.DType, key, t.Elems()), 0, t.Shape, Contiguous(t.Shape))
		dict = append(dict, Item{t.Name, view})
		data := t.Data
		if data == nil {
			data = zeros{}
		}
		members = append(members, Member{Name: "data/" + key, Data: io.LimitReader(data, t.NumBytes())})
	}
	members[0] = Member{Name: "data.pkl", Data: bytes.NewReader(Pickle(dict, 2))}
	return WriteZip(w, append(members, Member{Name: "version", Data: bytes.NewReader([]byte("3\n"))}))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Sparse writes to a file and leaves holes for zeros, so that a made-up file of
// many gigabytes takes no space on disk.
type Sparse struct {
	F   *os.File
	pos int64
}

var zeroBlock [64 << 10]byte

// Write writes p, in blocks.
func (s *Sparse) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		b := p[n:min(len(p), n+len(zeroBlock))]
		if !bytes.Equal(b, zeroBlock[:len(b)]) {
			if _, err := s.F.WriteAt(b, s.pos); err != nil {
				return n, err
			}
		}
		s.pos += int64(len(b))
		n += len(b)
	}
	return len(p), nil
}

// Close gives the file its length and closes it.
func (s *Sparse) Close() error {
	if err := s.F.Truncate(s.pos); err != nil {
		s.F.Close()
		return err
	}
	return s.F.Close()
}
