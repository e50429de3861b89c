package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/evatool/evatool/internal/arch"
)

// writeCheckpoint writes what torch.save(model.state_dict()) writes for an
// architecture: a zip archive with a protocol 2 pickle and one stored member
// per tensor. zero makes a sparse file of zeros instead of noise.
func writeCheckpoint(path string, c *arch.Config, storage string, size int64, zero bool) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	out := &holes{f: f}
	buf := bufio.NewWriterSize(out, 1<<20)
	z := zip.NewWriter(buf)
	descriptor := int64(0) // bytes that end the previous member
	member := func(name string, r io.Reader) error {
		if err := errors.Join(z.Flush(), buf.Flush()); err != nil {
			return err
		}
		// torch.save aligns the bytes of a storage with an extra field.
		h := &zip.FileHeader{Name: "archive/" + name, Method: zip.Store}
		pad := 63 - (out.at+descriptor+30+int64(len(h.Name))+4+63)%64
		h.Extra = append([]byte("FB"), binary.LittleEndian.AppendUint16(nil, uint16(pad))...)
		h.Extra = append(h.Extra, bytes.Repeat([]byte("Z"), int(pad))...)
		descriptor = 16
		w, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 1<<20))
		return err
	}
	params := c.Params()
	if err := member("data.pkl", bytes.NewReader(pickle(params, storage))); err != nil {
		return err
	}
	noise := rand.NewChaCha8([32]byte{1})
	for i, p := range params {
		n := elems(p) * size
		var data io.Reader = io.LimitReader(small{noise}, n)
		if zero {
			data = io.LimitReader(zeros{}, n)
		}
		if err := member(fmt.Sprintf("data/%d", i), data); err != nil {
			return err
		}
	}
	if err := member("version", bytes.NewReader([]byte("3\n"))); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	return f.Truncate(out.at)
}

func elems(p arch.Param) int64 {
	n := int64(1)
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// pickle is the state dict: an OrderedDict of _rebuild_tensor_v2 calls.
func pickle(params []arch.Param, storage string) []byte {
	var b bytes.Buffer
	str := func(s string) {
		b.WriteByte('X')
		binary.Write(&b, binary.LittleEndian, uint32(len(s)))
		b.WriteString(s)
	}
	long := func(n int64) {
		b.Write([]byte{0x8a, 8})
		binary.Write(&b, binary.LittleEndian, n)
	}
	ints := func(v []int64) {
		b.WriteByte('(')
		for _, n := range v {
			long(n)
		}
		b.WriteByte('t')
	}
	b.WriteString("\x80\x02ccollections\nOrderedDict\n)R(")
	for i, p := range params {
		str(p.Name)
		b.WriteString("ctorch._utils\n_rebuild_tensor_v2\n((")
		str("storage")
		b.WriteString("ctorch\n" + storage + "\n")
		str(fmt.Sprint(i))
		str("cpu")
		long(elems(p))
		b.WriteString("tQ")
		long(0)
		ints(p.Shape)
		strides, step := make([]int64, len(p.Shape)), int64(1)
		for d := len(p.Shape) - 1; d >= 0; d-- {
			strides[d], step = step, step*p.Shape[d]
		}
		ints(strides)
		b.WriteString("\x89ccollections\nOrderedDict\n)RtR")
	}
	b.WriteString("u.")
	return b.Bytes()
}

// small turns noise into small finite float32 values: the exponent's top bits are
// those of numbers between 2^-32 and 2.
type small struct{ r io.Reader }

func (s small) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:len(p)&^3])
	for i := 3; i < n; i += 4 {
		p[i] = p[i]&0x8f | 0x30
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// holes leaves blocks of zeros out of the file.
type holes struct {
	f  *os.File
	at int64
}

var zeroBlock = make([]byte, 1<<20)

func (h *holes) Write(p []byte) (int, error) {
	if len(p) >= 4096 && bytes.Equal(p, zeroBlock[:len(p)]) {
		h.at += int64(len(p))
		return len(p), nil
	}
	n, err := h.f.WriteAt(p, h.at)
	h.at += int64(n)
	return n, err
}
