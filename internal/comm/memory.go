package comm

import (
	"sync"

	"github.com/evatool/evatool/internal/fault"
)

// Memory is a world whose ranks are goroutines of this process.
func Memory(size int) []Comm {
	w := &memoryWorld{src: make([][]byte, size)}
	w.turn = sync.NewCond(&w.mu)
	out := make([]Comm, size)
	for i := range out {
		out[i] = &memory{w, i}
	}
	return out
}

// memoryWorld is a barrier that is passed twice in an exchange: when all ranks
// have given their bytes, and when all have taken the others'.
type memoryWorld struct {
	mu      sync.Mutex
	turn    *sync.Cond
	src     [][]byte
	arrived int
	passed  int   // barriers, so far
	gone    error // a rank has left
}

type memory struct {
	w    *memoryWorld
	rank int
}

func (m *memory) Rank() int      { return m.rank }
func (m *memory) Size() int      { return len(m.w.src) }
func (m *memory) LocalRank() int { return m.rank }

func (m *memory) Allgather(dst, src []byte) error {
	return m.exchange("Allgather", dst, src, func(from int, b []byte) { copy(dst[from*len(src):(from+1)*len(src)], b) })
}

func (m *memory) Alltoall(dst, src []byte) error {
	n := len(src) / m.Size()
	return m.exchange("Alltoall", dst, src, func(from int, b []byte) { copy(dst[from*n:(from+1)*n], b[m.rank*n:]) })
}

func (m *memory) exchange(what string, dst, src []byte, take func(from int, b []byte)) error {
	if err := lengths(what, dst, src, m.Size()); err != nil {
		return err
	}
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.src[m.rank] = src
	if err := w.barrier(); err != nil {
		return err
	}
	var err error
	for from, b := range w.src {
		if len(b) != len(src) {
			err = fault.Envf("%s: rank %d sends %d bytes, but rank %d sends %d", what, m.rank, len(src), from, len(b))
			continue
		}
		take(from, b)
	}
	if e := w.barrier(); err == nil {
		err = e
	}
	return err
}

// barrier waits for all ranks; w.mu is held.
func (w *memoryWorld) barrier() error {
	if w.gone != nil {
		return w.gone
	}
	here := w.passed
	if w.arrived++; w.arrived == len(w.src) {
		w.arrived = 0
		w.passed++
		w.turn.Broadcast()
		return nil
	}
	for w.passed == here {
		if w.gone != nil {
			return w.gone
		}
		w.turn.Wait()
	}
	return nil
}

func (m *memory) leave(err error) {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone == nil {
		w.gone = err
	}
	w.turn.Broadcast()
}

// Abort makes every exchange of the world fail.
func (m *memory) Abort(code int) {
	m.leave(fault.Envf("rank %d ended the job with status %d", m.rank, code))
}

// Close leaves the world; it does not wait. An exchange that still needs the
// rank fails.
func (m *memory) Close() error {
	m.leave(fault.Envf("rank %d has left the job", m.rank))
	return nil
}
