package img

import (
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// The libjpeg API reports errors through a callback that must not return. So
// every call goes through guard, in assembly, which saves where it was called
// from, and the callback is escape, which goes back there: setjmp and longjmp.

// guardCall is the argument of guard; its layout is known to the assembly.
type guardCall struct {
	fn   uintptr // called as fn(arg0, arg1, arg2)
	arg0 uintptr
	arg1 uintptr
	arg2 uintptr
	_    uintptr // the stack pointer that escape goes back to
	rows uintptr // not 0: repeat until arg2 rows are read
}

// Addresses of the functions in assembly, to be called from C.
var guardPC, escapePC, quietPC uintptr

// guard returns this after an escape.
const escaped = ^uintptr(0)

// Places in jpeg_decompress_struct and jpeg_error_mgr on 64-bit Unix, the same
// in the ABI versions 6.2 and 8. The library itself checks version and size of
// the structure at creation.
const (
	cinfoErr        = 0
	cinfoClientData = 24
	cinfoWidth      = 48
	cinfoHeight     = 52
	cinfoComponents = 56
	cinfoOutWidth   = 136
	cinfoOutHeight  = 140
	cinfoOutComps   = 148
	errErrorExit    = 0
	errOutput       = 16
	errCode         = 40
	errParam        = 44
	errWarnings     = 128
)

// libjpegABIs are the versions and structure sizes that are known.
var libjpegABIs = map[int32]int32{62: 632, 80: 656}

type libjpeg struct {
	stdError, create, memSrc, readHeader, start, read, finish, destroy uintptr

	version, size int32
	states        sync.Pool
}

// jpegState is the memory of one decompression.
type jpegState struct {
	cinfo [1024]byte
	err   [256]byte
	call  guardCall
	rows  []uintptr
}

func openLibjpeg() *library {
	h, name := dlopen("libjpeg.so.62", "libjpeg.so.8")
	if h == 0 {
		return nil
	}
	l := &libjpeg{states: sync.Pool{New: func() any { return new(jpegState) }}}
	var turboOnly uintptr
	if !symbols(h, map[string]*uintptr{
		"jpeg_std_error":          &l.stdError,
		"jpeg_CreateDecompress":   &l.create,
		"jpeg_mem_src":            &l.memSrc,
		"jpeg_read_header":        &l.readHeader,
		"jpeg_start_decompress":   &l.start,
		"jpeg_read_scanlines":     &l.read,
		"jpeg_finish_decompress":  &l.finish,
		"jpeg_destroy_decompress": &l.destroy,
		"jpeg_skip_scanlines":     &turboOnly, // other libjpegs lack it
	}) || !l.probeABI() {
		return nil
	}
	return &library{"libjpeg-turbo (" + filepath.Base(name) + ")", l.decode}
}

func at[T any](b []byte, offset int) *T { return (*T)(unsafe.Pointer(&b[offset])) }

func address[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// guarded calls fn(cinfo, a, b) and returns its result or escaped.
func (s *jpegState) guarded(fn, a, b, rows uintptr) uintptr {
	s.call = guardCall{fn: fn, arg0: address(&s.cinfo), arg1: a, arg2: b, rows: rows}
	r, _, _ := purego.SyscallN(guardPC, address(&s.call))
	return r
}

// begin makes a decompressor for the given version and structure size.
func (l *libjpeg) begin(version, size int32) (*jpegState, bool) {
	s := l.states.Get().(*jpegState)
	clear(s.cinfo[:])
	purego.SyscallN(l.stdError, address(&s.err))
	*at[uintptr](s.err[:], errErrorExit) = escapePC
	*at[uintptr](s.err[:], errOutput) = quietPC
	*at[uintptr](s.cinfo[:], cinfoErr) = address(&s.err)
	*at[uintptr](s.cinfo[:], cinfoClientData) = address(&s.call)
	return s, s.guarded(l.create, uintptr(version), uintptr(size), 0) != escaped
}

// probeABI asks the library for its version and structure size, which it
// reports when they are wrong, and checks that they are known.
func (l *libjpeg) probeABI() bool {
	s, ok := l.begin(0, 0)
	if ok {
		return false
	}
	l.version = *at[int32](s.err[:], errParam)
	if s, ok = l.begin(l.version, 0); ok {
		return false
	}
	l.size = *at[int32](s.err[:], errParam)
	return l.size > 0 && libjpegABIs[l.version] == l.size
}

func (l *libjpeg) decode(data []byte) *Image {
	s, ok := l.begin(l.version, l.size)
	defer func() {
		purego.SyscallN(l.destroy, address(&s.cinfo))
		runtime.KeepAlive(data)
		l.states.Put(s)
	}()
	const requireImage = 1
	if !ok || s.guarded(l.memSrc, address(unsafe.SliceData(data)), uintptr(len(data)), 0) == escaped ||
		s.guarded(l.readHeader, requireImage, 0, 0) != 1 {
		return nil
	}
	field := func(offset int) int { return int(*at[int32](s.cinfo[:], offset)) }
	w, h, n := field(cinfoWidth), field(cinfoHeight), field(cinfoComponents)
	im := newJPEGImage(w, h, n)
	if im == nil || s.guarded(l.start, 0, 0, 0) != 1 ||
		field(cinfoOutWidth) != w || field(cinfoOutHeight) != h || field(cinfoOutComps) != n {
		return nil
	}
	s.rows = s.rows[:0]
	for y := range h {
		s.rows = append(s.rows, address(&im.Pix[y*w*n]))
	}
	if s.guarded(l.read, address(&s.rows[0]), uintptr(h), 1) != 0 || s.guarded(l.finish, 0, 0, 0) != 1 {
		return nil
	}
	runtime.KeepAlive(im)
	if *at[int64](s.err[:], errWarnings) != 0 {
		return nil
	}
	im.invertCMYK()
	return im
}
