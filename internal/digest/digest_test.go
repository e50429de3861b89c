package digest

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"hash"
	"math/rand/v2"
	"testing"
)

// TestWrite: Write gives two hashes the same as writing to each, with pieces of any
// length and after any beginning.
func TestWrite(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300+2*parallel)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	for range 3000 {
		a, b, wantA, wantB := sha256.New(), sha256.New(), sha256.New(), sha256.New()
		// Beginnings: aligned and not, equal and not.
		headA, headB := noise[:64*rnd.IntN(4)+rnd.IntN(2)*rnd.IntN(64)], noise[:64*rnd.IntN(4)+rnd.IntN(2)*rnd.IntN(64)]
		for h, p := range map[hash.Hash][]byte{a: headA, wantA: headA, b: headB, wantB: headB} {
			h.Write(p)
		}
		for range rnd.IntN(4) {
			n := rnd.IntN(600)
			if rnd.IntN(2) == 0 {
				n = 64 * rnd.IntN(20)
			}
			if rnd.IntN(20) == 0 {
				n = parallel + rnd.IntN(parallel)
			}
			p := noise[rnd.IntN(300):][:n]
			Write(a, b, p)
			wantA.Write(p)
			wantB.Write(p)
		}
		if !bytes.Equal(a.Sum(nil), wantA.Sum(nil)) || !bytes.Equal(b.Sum(nil), wantB.Sum(nil)) {
			t.Fatalf("after %d and %d bytes: another hash", len(headA), len(headB))
		}
	}
}

// TestOtherHash: a hash other than SHA-256 works too.
func TestOtherHash(t *testing.T) {
	a, b, want := sha256.New(), md5.New(), md5.New()
	p := make([]byte, 640)
	Write(a, b, p)
	want.Write(p)
	if got := sha256.Sum256(p); !bytes.Equal(a.Sum(nil), got[:]) || !bytes.Equal(b.Sum(nil), want.Sum(nil)) {
		t.Error("another hash")
	}
}

func BenchmarkWrite(b *testing.B) {
	p := make([]byte, 1<<18)
	x, y := sha256.New(), sha256.New()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Write(x, y, p)
	}
}

func BenchmarkOneByOne(b *testing.B) {
	p := make([]byte, 1<<18)
	x, y := sha256.New(), sha256.New()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		x.Write(p)
		y.Write(p)
	}
}
