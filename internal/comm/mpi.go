//go:build linux && cgo

package comm

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "mpi.h"
*/
import "C"

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/evatool/evatool/internal/fault"
)

// mpi is a rank of an MPI world. Its calls run on one thread, the one that
// called MPI_Init_thread (MPI_THREAD_FUNNELED).
type mpi struct {
	c     *C.mpi
	rank  int
	size  int
	local int
	calls chan func()
	stage [2][]byte // of exchanges in pieces
}

// openMPI loads the libmpi of w and joins its world.
func openMPI(w *world, o Options) (Comm, error) {
	m := &mpi{calls: make(chan func())}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := m.load(w, o)
		if err == nil {
			err = m.init(w)
		}
		opened <- err
		if err != nil {
			return
		}
		for call := range m.calls {
			call()
		}
	}()
	if err := <-opened; err != nil {
		return nil, err
	}
	if err := m.findLocal(); err != nil {
		return nil, err
	}
	o.Log.Debug("mpi", "library", C.GoString(&m.c.version[0]), "rank", m.rank, "size", m.size, "local_rank", m.local)
	return m, nil
}

// load opens the first library that is one of w's families.
func (m *mpi) load(w *world, o Options) error {
	list := w.libraries()
	if o.Library != "" {
		list = []string{o.Library}
	}
	var reasons []string
	for _, path := range list {
		c := (*C.mpi)(C.calloc(1, C.size_t(unsafe.Sizeof(C.mpi{})))) // MPI keeps it until the process ends
		name := C.CString(path)
		status := C.mpi_load(c, name)
		C.free(unsafe.Pointer(name))
		if status == 0 && w.fits(C.GoString(&c.version[0])) {
			m.c = c
			return nil
		}
		if filepath.IsAbs(path) {
			why := C.GoString(&c.error[0])
			if status == 0 {
				why = path + ": is " + C.GoString(&c.version[0])
			}
			reasons = append(reasons, why)
		}
		C.free(unsafe.Pointer(c))
	}
	said := ""
	if len(reasons) > 0 {
		said = " (" + strings.Join(reasons, "; ") + ")"
	}
	if o.Library != "" {
		return fault.Envf("%s: not the MPI of %s, which started this process%s; give that MPI's library", o.Library, w.launcher, said)
	}
	family := w.families[0]
	return fault.Envf("%s started this process, but its library (%s) was not found%s; %s on every host, or add its folder to LD_LIBRARY_PATH",
		w.launcher, libraryNames[family][0], said, install[family])
}

// fits says, by MPI_Get_library_version, whether a library is one of w's.
func (w *world) fits(version string) bool {
	for _, f := range w.families {
		open := strings.Contains(version, "Open MPI")
		derived := strings.Contains(version, "MPICH") || strings.Contains(version, "Intel(R) MPI") || strings.Contains(version, "MVAPICH")
		if f == openMPIFamily && open || f == mpichFamily && derived && !open {
			return true
		}
	}
	return false
}

// init joins the world and checks it against what the launcher said.
func (m *mpi) init(w *world) error {
	if C.mpi_init(m.c) != 0 {
		return m.failure()
	}
	m.rank, m.size = int(m.c.rank), int(m.c.size)
	if w.size > 0 && m.size != w.size {
		return fault.Envf("%s started %d processes, but %s sees %d: it is not the launcher's MPI; put the launcher's lib folder first in LD_LIBRARY_PATH",
			w.launcher, w.size, C.GoString(&m.c.version[0]), m.size)
	}
	return nil
}

func (m *mpi) failure() error { return fault.Envf("%s", fault.Escape(C.GoString(&m.c.error[0]))) }

// on runs f on MPI's thread.
func (m *mpi) on(f func() C.int) error {
	var err error
	done := make(chan struct{})
	m.calls <- func() {
		if f() != 0 {
			err = m.failure()
		}
		close(done)
	}
	<-done
	return err
}

// hostBytes is how many bytes of a host's name are compared.
const hostBytes = 256

// findLocal numbers the ranks of this host.
func (m *mpi) findLocal() error {
	host, err := os.Hostname()
	if err != nil {
		return fault.Envf("host name: %w", err)
	}
	own := make([]byte, hostBytes)
	copy(own, host)
	all := make([]byte, hostBytes*m.size)
	if err := m.Allgather(all, own); err != nil {
		return err
	}
	for r := range m.rank {
		if bytes.Equal(all[r*hostBytes:(r+1)*hostBytes], own) {
			m.local++
		}
	}
	return nil
}

func (m *mpi) Rank() int      { return m.rank }
func (m *mpi) Size() int      { return m.size }
func (m *mpi) LocalRank() int { return m.local }

func (m *mpi) Allgather(dst, src []byte) error {
	if err := lengths("Allgather", dst, src, m.size); err != nil {
		return err
	}
	n := len(src)
	return m.pieces(n, dst, src, func(dst, src unsafe.Pointer, k int) C.int {
		return C.mpi_allgather(m.c, dst, src, C.int(k))
	}, func(lo, hi int) []byte { return src[lo:hi] })
}

func (m *mpi) Alltoall(dst, src []byte) error {
	if err := lengths("Alltoall", dst, src, m.size); err != nil {
		return err
	}
	n := len(src) / m.size
	return m.pieces(n, dst, src, func(dst, src unsafe.Pointer, k int) C.int {
		return C.mpi_alltoall(m.c, dst, src, C.int(k))
	}, func(lo, hi int) []byte {
		out := m.staged(0, (hi-lo)*m.size)
		for r := range m.size {
			copy(out[r*(hi-lo):], src[r*n+lo:r*n+hi])
		}
		return out
	})
}

// pieces exchanges n bytes of every rank with every rank, in messages of at
// most maxMessage. What does not fit into one goes through a staging buffer.
func (m *mpi) pieces(n int, dst, src []byte, call func(dst, src unsafe.Pointer, k int) C.int, take func(lo, hi int) []byte) error {
	if n == 0 {
		return nil
	}
	if n*m.size <= maxMessage {
		return m.on(func() C.int { return call(unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0]), n) })
	}
	step := max(1, maxMessage/m.size)
	for lo := 0; lo < n; lo += step {
		hi := min(lo+step, n)
		give, got := take(lo, hi), m.staged(1, (hi-lo)*m.size)
		if err := m.on(func() C.int { return call(unsafe.Pointer(&got[0]), unsafe.Pointer(&give[0]), hi-lo) }); err != nil {
			return err
		}
		for r := range m.size {
			copy(dst[r*n+lo:r*n+hi], got[r*(hi-lo):])
		}
	}
	return nil
}

// staged is staging buffer i, n bytes of it.
func (m *mpi) staged(i, n int) []byte {
	if cap(m.stage[i]) < n {
		m.stage[i] = make([]byte, n)
	}
	return m.stage[i][:n]
}

func (m *mpi) Abort(code int) { C.mpi_abort(m.c, C.int(code)) }

func (m *mpi) Close() error {
	err := m.on(func() C.int { return C.mpi_finalize(m.c) })
	close(m.calls)
	return err
}
