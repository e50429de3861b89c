package device

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "hook.h"
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/go-xla/pjrt"
)

// hook is a loaded plugin whose table of functions is partly ours: programs
// are compiled through the cache on disk, and executions do not wait.
type hook struct {
	path    string
	slot    int
	kind    string
	name    string // under which go-xla knows it
	version string
	err     error

	mu       sync.Mutex // held while compiling, so that what follows is about the program that is compiled
	cache    *cache
	attempts [][]byte // what is added to the compile options, tried in this order
	refused  string   // why the last attempt but one failed, "" when there was none
	fused    int      // fused attention operations in the program
}

var (
	hooks   [C.SLOTS]*hook // by slot
	hooksMu sync.Mutex
)

// takeText frees a C string.
func takeText(s *C.char) string {
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}

// loadHook loads a plugin once in a process; a plugin cannot be unloaded.
// kind may be empty: then the plugin is asked.
func loadHook(path, kind string) (_ *hook, err error) {
	hooksMu.Lock()
	defer hooksMu.Unlock()
	for _, h := range hooks {
		if h != nil && h.path == path {
			return h, h.err
		}
	}
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	var cerr *C.char
	slot := C.load_plugin(cpath, &cerr)
	if slot < 0 {
		return nil, fault.Envf("%s: cannot load the plugin: %s", path, strings.TrimPrefix(takeText(cerr), path+": "))
	}
	h := &hook{path: path, slot: int(slot), kind: kind, attempts: [][]byte{nil}}
	hooks[slot] = h
	defer func() { h.err = err }()
	var major, minor C.int
	C.plugin_version(slot, &major, &minor)
	h.version = fmt.Sprintf("PJRT %d.%d", major, minor)
	if h.kind == "" {
		name := C.probe_platform(slot, &cerr)
		if name == nil {
			return nil, explain(fault.Envf("%s: %s", path, takeText(cerr)))
		}
		switch platform := takeText(name); platform {
		case "cpu":
			h.kind = KindCPU
		case "cuda", "gpu":
			h.kind = KindCUDA
		default:
			return nil, fault.Envf("%s: a plugin for %q; give one for cpu or cuda", path, platform)
		}
	}
	// go-xla guesses the kind from the name, and searches for what is not a path.
	h.name = fmt.Sprintf("/evatool/%s-%d", strings.TrimPrefix(h.kind, "xla-"), slot)
	if err := pjrt.RegisterPreloadedPlugin(h.name, uintptr(C.plugin_table(slot))); err != nil {
		return nil, fault.Envf("%s: %w", path, err)
	}
	return h, nil
}

// preload loads a library that a plugin will look for by its name.
func preload(path string) bool {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	return C.preload(cpath) != 0
}

// option is an entry of CompileOptionsProto.env_option_overrides; value is an
// OptionOverrideProto.
func option(name string, value ...byte) []byte {
	return protoField(7, slices.Concat(protoField(1, []byte(name)), protoField(2, value)))
}

func protoField(number byte, text []byte) []byte {
	return append([]byte{number<<3 | 2, byte(len(text))}, text...)
}

var (
	// memoryOrder has the CPU plugin schedule for memory (a string, field 1).
	memoryOrder = option("xla_cpu_scheduler_type", protoField(1, []byte("CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"))...)
	// noTriton leaves a GPU's products to cuBLAS (a bool, field 2: false). XLA's
	// own kernels cannot be cut for every product, and then it gives up; seen
	// with a float32 training step and no autotuner.
	noTriton = option("xla_gpu_enable_triton_gemm", 2<<3, 0)
)

// attempts are the compile options to try for a program.
func (p *Program) attempts(kind string) [][]byte {
	switch {
	case kind == KindCUDA:
		return [][]byte{nil, noTriton}
	case kind == KindCPU && p.saveMemory:
		return [][]byte{memoryOrder, nil} // an older plugin does not know it
	}
	return [][]byte{nil}
}

// evatoolCompile stands for PJRT_Client_Compile.
//
//export evatoolCompile
func evatoolCompile(slot C.int, args unsafe.Pointer) unsafe.Pointer {
	a := (*C.client_compile_args)(args)
	h := hooks[slot]
	h.fused = bytes.Count(unsafe.Slice((*byte)(unsafe.Pointer(a.program.code)), a.program.code_size), []byte("__cudnn$fmha"))
	h.refused = ""
	plain, size := a.options, a.options_size
	defer func() { a.options, a.options_size = plain, size }()
	var e unsafe.Pointer
	for i, more := range h.attempts {
		if i > 0 {
			h.refused = takeText(C.error_text(slot, e))
		}
		options := C.CBytes(slices.Concat(unsafe.Slice((*byte)(unsafe.Pointer(plain)), size), more))
		a.options, a.options_size = (*C.char)(options), size+C.size_t(len(more))
		e = h.compile(a)
		C.free(options)
		if e == nil {
			break
		}
	}
	return e
}

// compile takes the program from the cache, or has the plugin compile it.
func (h *hook) compile(a *C.client_compile_args) unsafe.Pointer {
	slot, c := C.int(h.slot), h.cache
	if c == nil {
		return C.compile_program(slot, a)
	}
	key := c.key(unsafe.Slice((*byte)(unsafe.Pointer(a.program.code)), a.program.code_size),
		unsafe.Slice((*byte)(unsafe.Pointer(a.options)), a.options_size))
	if data := c.get(key); data != nil {
		e := C.load_program(slot, a, unsafe.Pointer(&data[0]), C.size_t(len(data)))
		if e == nil {
			c.hits.Add(1)
			return nil
		}
		c.drop(key, errors.New(takeText(C.error_text(slot, e))))
	}
	if e := C.compile_program(slot, a); e != nil {
		return e
	}
	c.misses.Add(1)
	var s C.executable_serialize_args
	if e := C.serialize_program(slot, a.executable, &s); e != nil {
		c.log.Debug("compiled program not cached", "reason", takeText(C.error_text(slot, e)))
		return nil
	}
	c.put(key, unsafe.Slice((*byte)(unsafe.Pointer(s.bytes)), s.bytes_size))
	C.free_serialized(&s)
	return nil
}

// Memory is what the plugin says about the memory of the first device, in
// bytes; ok is false when it does not say (CPU).
func (d *Device) Memory() (inUse, peak, limit int64, ok bool) {
	if d.hook == nil {
		return 0, 0, 0, false
	}
	var a, b, c C.int64_t
	ok = C.memory_stats(C.int(d.hook.slot), &a, &b, &c) != 0
	return int64(a), int64(b), int64(c), ok
}
