package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Parquet's footer and page headers are structures in Thrift's compact protocol.
// The library that decodes them allocates what a length or a count in them says;
// thriftSize first finds out whether the bytes are there, and allocates nothing.

var (
	errThriftShort = errors.New("ends in the middle of a structure")
	errThriftDeep  = errors.New("structures too deep")
)

// thriftDepth bounds structures inside structures; Parquet's are 10 deep.
const thriftDepth = 24

// The types of the compact protocol.
const (
	thriftTrue = 1 + iota
	thriftFalse
	thriftByte
	thriftI16
	thriftI32
	thriftI64
	thriftDouble
	thriftBinary
	thriftList
	thriftSet
	thriftMap
	thriftStruct
)

// thriftSize is the length of the structure that b begins with, provided that
// every string and list in it lies in b. It is errThriftShort when b ends
// before.
func thriftSize(b []byte) (int, error) {
	r := thriftReader{b: b}
	err := r.structure(0)
	return r.at, err
}

type thriftReader struct {
	b  []byte
	at int
}

func (r *thriftReader) byte() (byte, error) {
	if r.at >= len(r.b) {
		return 0, errThriftShort
	}
	r.at++
	return r.b[r.at-1], nil
}

func (r *thriftReader) uvarint() (uint64, error) {
	v, n := binary.Uvarint(r.b[r.at:])
	switch {
	case n == 0:
		return 0, errThriftShort
	case n < 0:
		return 0, errors.New("a number of more than 64 bits")
	}
	r.at += n
	return v, nil
}

func (r *thriftReader) skip(n uint64) error {
	if n > uint64(len(r.b)-r.at) {
		return errThriftShort
	}
	r.at += int(n)
	return nil
}

// structure walks over the fields up to the stop byte.
func (r *thriftReader) structure(depth int) error {
	if depth > thriftDepth {
		return errThriftDeep
	}
	for {
		head, err := r.byte()
		if err != nil {
			return err
		}
		if head == 0 {
			return nil
		}
		if head>>4 == 0 { // the field's number follows
			if _, err := r.uvarint(); err != nil {
				return err
			}
		}
		if kind := head & 15; kind != thriftTrue && kind != thriftFalse {
			if err := r.value(kind, depth); err != nil {
				return err
			}
		}
	}
}

func (r *thriftReader) value(kind byte, depth int) error {
	switch kind {
	case thriftTrue, thriftFalse, thriftByte: // as elements of a list
		return r.skip(1)
	case thriftI16, thriftI32, thriftI64:
		_, err := r.uvarint()
		return err
	case thriftDouble:
		return r.skip(8)
	case thriftBinary:
		n, err := r.uvarint()
		if err != nil {
			return err
		}
		return r.skip(n)
	case thriftList, thriftSet:
		return r.list(depth + 1)
	case thriftMap:
		return errors.New("a map, which Parquet does not use")
	case thriftStruct:
		return r.structure(depth + 1)
	}
	return fmt.Errorf("a value of the unknown type %d", kind)
}

// list walks over the elements of a list. A structure takes two bytes or more,
// so that the memory for the elements is within a multiple of the bytes for
// them.
func (r *thriftReader) list(depth int) error {
	if depth > thriftDepth {
		return errThriftDeep
	}
	head, err := r.byte()
	if err != nil {
		return err
	}
	n, kind := uint64(head>>4), head&15
	if n == 15 {
		if n, err = r.uvarint(); err != nil {
			return err
		}
	}
	if n > uint64(len(r.b)-r.at) {
		return errThriftShort
	}
	for range n {
		from := r.at
		if err := r.value(kind, depth); err != nil {
			return err
		}
		if kind == thriftStruct && r.at-from < 2 {
			return errors.New("a list of empty structures")
		}
	}
	return nil
}
