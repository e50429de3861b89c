package tensorfile

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// The bytes are those of numpy.save (2.4): hashes of its files.
func TestWriteNPY(t *testing.T) {
	floats := func(v ...float32) (b []byte) {
		for _, f := range v {
			b = le.AppendUint32(b, math.Float32bits(f))
		}
		return b
	}
	var pixels []byte
	for i := range 18 {
		pixels = append(pixels, byte(i))
	}
	path := filepath.Join(t.TempDir(), "a.npy")
	for want, x := range map[string]Tensor{
		"acb4d4837b6e86680ae9491b3fa5d11870c3900734107ebfec90554a47d42b39": {Info{"x", F32, []int64{3, 2}}, floats(1, 2, 3, 4, 5, 6)},
		"1bffa9e9237237c7b10838c66d755ddc632950ff0ca7402989434529a8b3b52a": {Info{"x", F32, []int64{2}}, floats(1, 2)},
		"dccb53c162698941e07ba90e7f3b381236461edd8d6fa45fb1abd35673e484b9": {Info{"x", U8, []int64{2, 3, 3}}, pixels},
		"7e2553c8ab322c01dcae606c0fa5f7930bcf37f5c1feaafe13e45e732f892f1f": {Info{"x", F32, nil}, floats(5)},
		"8d248f9ef2fd995918c07711003a1c4316f81aba7b08fb4a7c94128989d6e08c": {Info{"x", F32, []int64{0, 7}}, nil},
	} {
		if err := WriteNPY(path, x); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s %v: %q", x.DType, x.Shape, b)
		}
	}
	for _, x := range []Tensor{{Info{"x", F16, []int64{1}}, make([]byte, 2)}, {Info{"x", F32, []int64{2}}, make([]byte, 4)}} {
		if WriteNPY(path, x) == nil {
			t.Errorf("%s %v of %d bytes is written", x.DType, x.Shape, len(x.Data))
		}
	}
}
