// Package digest feeds the same bytes to two SHA-256 hashes in the time of one.
//
// The hash of a file and that of a tensor in it see the same blocks if the tensor
// starts at a multiple of 64 bytes, as in files of torch.save. Both then share
// the message schedule of a block, and the rounds of one fill the processor's
// pipeline while those of the other wait for their results.
package digest

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"sync"
)

// magic starts the state that crypto/sha256 marshals: then 8 big-endian words,
// the bytes of an unfinished block, and the length in bytes.
const magic = "sha\x03"

// parallel is the number of bytes that are worth another goroutine.
const parallel = 32 << 10

// Write writes p to a and b. If both are from crypto/sha256 and the processor
// has SHA instructions, they are computed together; otherwise each is written
// to, in parallel if p is long.
func Write(a, b hash.Hash, p []byte) {
	if n := len(p) / sha256.BlockSize; n > 0 && fast {
		var sa, sb state
		if sa.load(a) && sb.load(b) {
			blocks2(&sa.words, &sb.words, &p[0], n)
			n *= sha256.BlockSize
			sa.store(a, n)
			sb.store(b, n)
			p = p[n:]
		}
	}
	if len(p) < parallel {
		a.Write(p)
		b.Write(p)
		return
	}
	var g sync.WaitGroup
	g.Go(func() { a.Write(p) })
	b.Write(p)
	g.Wait()
}

// state is a hash between two blocks.
type state struct {
	words  [8]uint32 // in the order of the instructions: F E B A, H G D C
	length uint64
}

// order is the place of A to H in words.
var order = [8]int{3, 2, 7, 6, 1, 0, 5, 4}

// load reports whether h is a SHA-256 at the end of a block, and takes it.
func (s *state) load(h hash.Hash) bool {
	m, ok := h.(encoding.BinaryAppender)
	if !ok || h.Size() != sha256.Size {
		return false
	}
	b, err := m.AppendBinary(make([]byte, 0, 128))
	if err != nil || len(b) != len(magic)+32+sha256.BlockSize+8 || !bytes.HasPrefix(b, []byte(magic)) {
		return false
	}
	b = b[len(magic):]
	for i, at := range order {
		s.words[at] = binary.BigEndian.Uint32(b[4*i:])
	}
	s.length = binary.BigEndian.Uint64(b[32+sha256.BlockSize:])
	return s.length%sha256.BlockSize == 0
}

// store gives h the state after n more bytes.
func (s *state) store(h hash.Hash, n int) {
	b := append(make([]byte, 0, 128), magic...)
	for _, at := range order {
		b = binary.BigEndian.AppendUint32(b, s.words[at])
	}
	b = append(b, make([]byte, sha256.BlockSize)...)
	b = binary.BigEndian.AppendUint64(b, s.length+uint64(n))
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(b); err != nil {
		panic(err) // load accepted the same form
	}
}
