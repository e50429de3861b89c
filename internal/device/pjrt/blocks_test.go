//go:build linux && cgo && (amd64 || arm64)

package pjrt

import (
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/gomlx/gomlx/core/graph"
)

// TestBlocks: a freed block is taken again by what it fits, and no more is
// kept than was once in use.
func TestBlocks(t *testing.T) {
	used0, _, _ := blockBytes()
	dropBlocks()
	const mb = 1 << 20
	check := func(what string, used, kept int) {
		t.Helper()
		if u, k, _ := blockBytes(); u-used0 != used || k != kept {
			t.Fatalf("%s: %d used, %d kept; want %d, %d", what, u-used0, k, used, kept)
		}
	}
	a, b := takeBlock(100*mb), takeBlock(10*mb)
	for i := range 100 * mb / 4096 { // every byte is there
		*(*byte)(unsafe.Add(a, i*4096)) = 1
	}
	check("two", 110*mb, 0)
	giveBlock(a)
	check("one freed", 10*mb, 100*mb)
	if c := takeBlock(90 * mb); c != a {
		t.Error("the freed block was not taken again")
	}
	check("taken again", 110*mb, 0)
	giveBlock(a)
	// 40 MB do not fill it, and keeping all would be more than there ever was.
	c := takeBlock(40 * mb)
	check("a smaller one", 50*mb, 0)
	giveBlock(c)
	giveBlock(b)
	check("all freed", 0, 50*mb)
	small := takeBlock(mb / 2) // malloc's
	check("a small one", 0, 50*mb)
	giveBlock(small)
	giveBlock(nil)
	dropBlocks()
	check("dropped", 0, 0)
	if p := takeBlock(1 << 62); p != nil {
		t.Error("memory that there is not")
	}
}

// TestBlocksTogether: blocks that are in use at once do not overlap.
func TestBlocksTogether(t *testing.T) {
	const goroutines, rounds = 4, 200
	done := make(chan bool)
	for g := range goroutines {
		go func() {
			ok := true
			for r := range rounds {
				n := (1 + (r*7+g*3)%5) << 20
				p := unsafe.Slice((*byte)(takeBlock(n)), n)
				p[0], p[n-1] = byte(g), byte(g)
				for i := 4096; i < n-1; i += 1 << 16 {
					p[i] = byte(g)
				}
				for i := 4096; i < n-1; i += 1 << 16 {
					ok = ok && p[i] == byte(g)
				}
				ok = ok && p[0] == byte(g) && p[n-1] == byte(g)
				giveBlock(unsafe.Pointer(&p[0]))
			}
			done <- ok
		}()
	}
	for range goroutines {
		if !<-done {
			t.Error("two had the same block")
		}
	}
	dropBlocks()
}

// TestPluginKeepsItsMemory: the second execution of a program maps nothing.
func TestPluginKeepsItsMemory(t *testing.T) {
	c := open(t, "off")
	if !c.plugin.Keeps {
		t.Fatal("the CPU plugin's memory is malloc's")
	}
	const n = 1024
	e, _, err := compiled(t, c, false, func(x *graph.Node) *graph.Node {
		y := graph.DotGeneral(x, []int{1}, nil, x, []int{0}, nil)
		return graph.ReduceSum(graph.DotGeneral(y, []int{1}, nil, y, []int{1}, nil), 1)
	}, n, n)
	if err != nil {
		t.Fatal(err)
	}
	first := result(t, c, e, n, n)
	runtime.GC() // frees go-xla's buffers
	_, _, before := blockBytes()
	if before == 0 {
		t.Fatal("no block was taken")
	}
	for range 4 {
		if got := result(t, c, e, n, n); !slices.Equal(got, first) {
			t.Fatal("another result")
		}
		runtime.GC()
	}
	if _, _, after := blockBytes(); after-before > 2 { // what go-xla frees in finalizers may be late once
		t.Errorf("%d blocks were mapped after the first execution, %d before", after-before, before)
	}
}
