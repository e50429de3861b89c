package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/evatool/evatool/internal/fault"
)

// tarIndex is Energon's index beside a tar, NAME.tar.idx: the offset of each
// sample, and of the block after the last one, as little-endian 64-bit numbers.
type tarIndex struct {
	st      storage
	tar     string
	samples int64
}

// openTarIndex is nil where there is no index.
func openTarIndex(ctx context.Context, st storage, tar string) (*tarIndex, error) {
	size, dir, err := st.stat(ctx, tar+".idx")
	switch {
	case absent(err) || err == nil && dir:
		return nil, nil
	case err != nil:
		return nil, explain(tar+".idx", "an index of offsets", err)
	case size < 16 || size%8 != 0:
		return nil, fault.Inputf("%s.idx: %d bytes are not an index of offsets; write it again, or remove it", fault.Name(tar), size)
	}
	return &tarIndex{st, tar, size/8 - 1}, nil
}

// read gives some of the offsets.
func (x *tarIndex) read(ctx context.Context, from, n int64) ([]int64, error) {
	b, err := x.st.read(ctx, x.tar+".idx", 8*from, 8*n)
	if err != nil {
		return nil, err
	}
	out := make([]int64, n)
	for i := range out {
		off := binary.LittleEndian.Uint64(b[8*i:])
		if off%512 != 0 || off > 1<<62 {
			return nil, fault.Inputf("%s.idx: entry %d, %d, is not an offset in a tar; write the index again, or remove it", fault.Name(x.tar), from+int64(i), off)
		}
		out[i] = int64(off)
	}
	return out, nil
}

// check makes sure that the tar ends where its index says: one that has since
// been rewritten or appended to does not.
func (x *tarIndex) check(ctx context.Context) error {
	end, err := x.read(ctx, x.samples, 1)
	if err != nil {
		return err
	}
	size, _, err := x.st.stat(ctx, x.tar)
	if err != nil {
		return explain(x.tar, "a tar", err)
	}
	block := make([]byte, 512)
	if size >= end[0]+int64(len(block)) {
		if block, err = x.st.read(ctx, x.tar, end[0], int64(len(block))); err != nil {
			return err
		}
		if len(bytes.Trim(block, "\x00")) == 0 {
			return nil
		}
	}
	return staleIndex(x.tar, fmt.Sprintf("it says that the tar's entries end at offset %d", end[0]))
}

// staleIndex is the error about an index of another tar, or of this one as it
// once was.
func staleIndex(tar, why string) error {
	return fault.Inputf("%s.idx: does not match the tar as it is now (%s); write the index again, or remove it", fault.Name(tar), why)
}
