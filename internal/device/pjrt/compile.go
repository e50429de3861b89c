package pjrt

/*
#include <stdlib.h>
#include "table.h"
*/
import "C"

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"unsafe"

	"github.com/evatool/evatool/internal/device/plugins"
)

// compiling is what the plugin's Compile needs to know about the program being
// compiled, and what it finds out.
type compiling struct {
	client   *Client
	attempts [][]byte // what is added to the compile options, tried in this order
	Compiled
}

// Compile runs build, in which go-xla compiles one program. saveMemory makes the
// CPU plugin order its operations so that little is live at a time.
func (c *Client) Compile(saveMemory bool, build func() error) (Compiled, error) {
	p := c.plugin
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = compiling{client: c, attempts: p.attempts(saveMemory)}
	err := build()
	return p.now.Compiled, err
}

// option is an entry of CompileOptionsProto.env_option_overrides; value is an
// OptionOverrideProto.
func option(name string, value ...byte) []byte {
	return protoField(7, slices.Concat(protoField(1, []byte(name)), protoField(2, value)))
}

func protoField(number byte, text []byte) []byte {
	return append(binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(text))), text...)
}

var (
	// memoryOrder makes the CPU plugin schedule for memory (a string, field 1).
	memoryOrder = option("xla_cpu_scheduler_type", protoField(1, []byte("CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"))...)
	// noTriton leaves a GPU's products to cuBLAS (a bool, field 2: false). XLA's
	// own kernels cannot be tiled for every product, and then it gives up; seen
	// with a float32 training step and no autotuner.
	noTriton = option("xla_gpu_enable_triton_gemm", 2<<3, 0)
)

// attempts are the compile options to try for a program.
func (p *Plugin) attempts(saveMemory bool) [][]byte {
	switch {
	case p.Kind == plugins.CUDA:
		var folder []byte
		if p.cuda != "" {
			folder = option(cudaDataDir, protoField(1, []byte(p.cuda))...)
		}
		return [][]byte{folder, slices.Concat(folder, noTriton)}
	case p.Kind == plugins.CPU && saveMemory:
		return [][]byte{memoryOrder, nil} // an older plugin does not know it
	}
	return [][]byte{nil}
}

// evatoolCompile stands for PJRT_Client_Compile.
//
//export evatoolCompile
func evatoolCompile(slot C.int, args unsafe.Pointer) unsafe.Pointer {
	a := (*C.client_compile_args)(args)
	now := &loaded[slot].now
	now.Fused = bytes.Count(unsafe.Slice((*byte)(unsafe.Pointer(a.program.code)), a.program.code_size), []byte("__cudnn$fmha"))
	now.client.handle = a.client
	if theirs := *a.program; now.client.plugin.depthwise {
		code := callDepthwise(C.GoBytes(unsafe.Pointer(theirs.code), C.int(theirs.code_size)), now.client.threads)
		ours := C.CBytes(code)
		a.program.code, a.program.code_size = (*C.char)(ours), C.size_t(len(code))
		defer func() {
			C.free(ours)
			*a.program = theirs
		}()
	}
	plain, size := a.options, a.options_size
	defer func() { a.options, a.options_size = plain, size }()
	var e unsafe.Pointer
	for i, more := range now.attempts {
		if i > 0 {
			now.Refused = takeText(C.error_text(slot, e))
		}
		options := C.CBytes(slices.Concat(unsafe.Slice((*byte)(unsafe.Pointer(plain)), size), more))
		a.options, a.options_size = (*C.char)(options), size+C.size_t(len(more))
		e = compile(slot, now.client.cache, a)
		C.free(options)
		if e == nil {
			break
		}
	}
	return e
}

// compile takes the program from the cache, or has the plugin compile it.
func compile(slot C.int, c *cache, a *C.client_compile_args) unsafe.Pointer {
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
