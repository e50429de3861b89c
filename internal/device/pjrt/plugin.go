// Package pjrt opens XLA plugins (PJRT) with go-xla and gives them what go-xla
// does not: compiled programs come from a cache on disk, executions do not wait
// to finish, outputs take over the memory of donated inputs, and NVIDIA's
// libraries are found wherever they are.
//
// A plugin hands out a table of C functions. go-xla gets a copy of it in which
// three are ours (table.c): Compile, and on a GPU Execute and Event_Await. The
// CPU plugin's large blocks of memory are kept from one execution to the next
// (blocks.h), and its programs call our depthwise convolution (depthwise.h).
package pjrt

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "depthwise.h"
#include "table.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
	"github.com/gomlx/go-xla/pjrt"
)

// Plugin is a loaded plugin. One file is loaded once in a process, and cannot
// be unloaded.
type Plugin struct {
	Kind    string // plugins.CPU or plugins.CUDA
	Version string // of its interface
	Keeps   bool   // large blocks of memory are kept from one execution to the next (blocks.h)
	Waits   bool   // an execution is over when its call returns

	path      string
	depthwise bool   // programs can call our convolution
	slot      int    // of its table
	name      string // under which go-xla knows it
	libraries string // what identifies the versions of NVIDIA's libraries
	cuda      string // the CUDA folder for XLA, "" when the user names one or there is none
	err       error

	mu  sync.Mutex // held while compiling: now is about the program that is compiled
	now compiling
}

var (
	loaded   [C.SLOTS]*Plugin // by slot
	loadedMu sync.Mutex
)

// plainMemory leaves the memory of plugins that are loaded later to malloc.
var plainMemory atomic.Bool

// PlainMemory makes plugins that are loaded later allocate as they do by
// themselves.
func PlainMemory() { plainMemory.Store(true) }

// takeText frees a C string.
func takeText(s *C.char) string {
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}

// Load loads a plugin file. kind may be empty: then the plugin is asked.
func Load(path, kind string) (_ *Plugin, err error) {
	loadedMu.Lock()
	defer loadedMu.Unlock()
	for _, p := range loaded {
		if p != nil && p.path == path {
			return p, p.err
		}
	}
	if err := fault.RegularFile(path, "a PJRT plugin (.so)"); err != nil {
		return nil, fault.Envf("backend xla:%w", err)
	}
	var libraries, cuda string
	if kind == plugins.CUDA {
		if !plugins.HasNVIDIA() {
			return nil, fault.Envf("%s: no NVIDIA GPU on this machine; use backend auto", path)
		}
		if libraries, cuda, err = prepareCUDA(path); err != nil {
			return nil, err
		}
	}
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	var cerr *C.char
	slot := C.load_plugin(cpath, &cerr)
	if slot < 0 {
		return nil, fault.Envf("%s: cannot load the plugin: %s", path, strings.TrimPrefix(takeText(cerr), path+": "))
	}
	p := &Plugin{path: path, slot: int(slot), Kind: kind, libraries: libraries, cuda: cuda}
	loaded[slot] = p
	defer func() { p.err = err }()
	var major, minor C.int
	C.plugin_version(slot, &major, &minor)
	p.Version = fmt.Sprintf("PJRT %d.%d", major, minor)
	if p.Kind == "" {
		name := C.probe_platform(slot, &cerr)
		if name == nil {
			return nil, Explain(fault.Envf("%s: %s", path, takeText(cerr)))
		}
		switch platform := takeText(name); platform {
		case "cpu":
			p.Kind = plugins.CPU
		case "cuda", "gpu":
			p.Kind = plugins.CUDA
		default:
			return nil, fault.Envf("%s: is a plugin for %q; give one for cpu or cuda", path, platform)
		}
	}
	p.depthwise = p.Kind == plugins.CPU && major == 0 && minor == ffiMinor && C.register_depthwise(slot) != 0
	p.Keeps = p.Kind == plugins.CPU && !plainMemory.Load() && C.keep_memory(slot) != 0
	// Where memory is kept, executions are waited for: the next one would take
	// its own before this one has freed.
	p.Waits = p.Keeps || !pinned
	if !p.Waits {
		C.run_ahead(slot)
	}
	// go-xla guesses the kind from the name, and searches for what is not a path.
	p.name = fmt.Sprintf("/evatool/%s-%d", strings.TrimPrefix(p.Kind, "xla-"), slot)
	if err := pjrt.RegisterPreloadedPlugin(p.name, uintptr(C.plugin_table(slot))); err != nil {
		return nil, fault.Envf("%s: %w", path, err)
	}
	return p, nil
}

// preload loads a library that a plugin will look for by its name.
func preload(path string) bool {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	return C.preload(cpath) != 0
}
