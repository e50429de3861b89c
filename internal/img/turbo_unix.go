//go:build linux || darwin

package img

import (
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// openers are the ways to a library, best first.
var openers = []opener{openTurboJPEG}

// dlopen opens the first of names that is there.
func dlopen(names ...string) (handle uintptr, name string) {
	for _, name := range names {
		if h, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL); err == nil {
			return h, name
		}
	}
	return 0, ""
}

// symbols finds functions of a library; false if one is missing.
func symbols(handle uintptr, into map[string]*uintptr) bool {
	for name, p := range into {
		var err error
		if *p, err = purego.Dlsym(handle, name); err != nil {
			return false
		}
	}
	return true
}

// openTurboJPEG finds the TurboJPEG API (version 1.4 and later).
func openTurboJPEG() *library {
	h, name := dlopen("libturbojpeg.so.0", "libturbojpeg.0.dylib", "/opt/homebrew/lib/libturbojpeg.0.dylib", "/usr/local/lib/libturbojpeg.0.dylib")
	if h == 0 {
		return nil
	}
	var t turboJPEG
	if !symbols(h, map[string]*uintptr{
		"tjInitDecompress":    &t.init,
		"tjDecompressHeader3": &t.header,
		"tjDecompress2":       &t.decompress,
		"tjDestroy":           &t.destroy,
	}) {
		return nil
	}
	return &library{"libjpeg-turbo (" + name + ")", t.decode}
}

type turboJPEG struct{ init, header, decompress, destroy uintptr }

func (t *turboJPEG) decode(data []byte) *Image {
	h, _, _ := purego.SyscallN(t.init)
	if h == 0 {
		return nil
	}
	defer purego.SyscallN(t.destroy, h)
	// On the heap: C writes to it.
	info := new(struct{ w, h, subsampling, space int32 })
	src := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	r, _, _ := purego.SyscallN(t.header, h, src, uintptr(len(data)),
		uintptr(unsafe.Pointer(&info.w)), uintptr(unsafe.Pointer(&info.h)),
		uintptr(unsafe.Pointer(&info.subsampling)), uintptr(unsafe.Pointer(&info.space)))
	if int32(r) != 0 {
		return nil
	}
	// TJCS_RGB, YCbCr, GRAY, CMYK, YCCK: their components and pixel formats.
	kinds := []struct {
		n      int
		format uintptr
	}{{3, 0}, {3, 0}, {1, 6}, {4, 11}, {4, 11}}
	if info.space < 0 || int(info.space) >= len(kinds) {
		return nil
	}
	k := kinds[info.space]
	im := newJPEGImage(int(info.w), int(info.h), k.n)
	if im == nil {
		return nil
	}
	const accurateDCT, stopOnWarning = 4096, 8192
	r, _, _ = purego.SyscallN(t.decompress, h, src, uintptr(len(data)),
		uintptr(unsafe.Pointer(unsafe.SliceData(im.Pix))), 0, 0, 0, k.format, accurateDCT|stopOnWarning)
	runtime.KeepAlive(data)
	runtime.KeepAlive(info)
	if int32(r) != 0 {
		return nil
	}
	im.invertCMYK()
	return im
}
