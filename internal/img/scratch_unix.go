//go:build unix

package img

import "golang.org/x/sys/unix"

// Scratch is n zero bytes, and free gives them back. Large ones do not come from
// the heap: there they would count until a collection long after their use.
func Scratch(n int) (b []byte, free func()) {
	if n < 1<<20 {
		return make([]byte, n), func() {}
	}
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n), func() {}
	}
	return b, func() { _ = unix.Munmap(b) }
}
