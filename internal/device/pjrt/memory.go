package pjrt

/*
#include "blocks.h"
#include "table.h"
*/
import "C"

import (
	"reflect"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/pjrt"
)

// Memory is what the plugin says about the memory of the first device, in
// bytes; ok is false when it does not say (CPU) or nothing was compiled yet.
func (c *Client) Memory() (inUse, peak, limit int64, ok bool) {
	c.plugin.mu.Lock()
	defer c.plugin.mu.Unlock()
	if c.handle == nil {
		return 0, 0, 0, false
	}
	var a, b, l C.int64_t
	ok = C.memory_stats(C.int(c.plugin.slot), c.handle, &a, &b, &l) != 0
	return int64(a), int64(b), int64(l), ok
}

// Close frees the client and every array on it.
func (c *Client) Close() {
	c.plugin.mu.Lock()
	c.handle = nil
	c.plugin.mu.Unlock()
	c.Backend.Finalize()
	dropBlocks()
}

// dropBlocks gives back what blocks.h keeps.
func dropBlocks() { C.drop_blocks() }

// MemoryOf is what the compiler says about a compiled program. go-xla knows it
// but does not expose it: this reaches into its executable. With versions that
// pin does not name it is zero.
func MemoryOf(e compute.Executable) MemoryUse {
	if !pinned {
		return MemoryUse{}
	}
	s := field(reflect.ValueOf(e), "exec").Interface().(*pjrt.LoadedExecutable).OnDeviceMemoryUsageStats
	return MemoryUse{int64(s.GeneratedCode), int64(s.Inputs), int64(s.Outputs), int64(s.Aliases), int64(s.Temporary)}
}

// blockBytes are the bytes of the CPU plugin's large blocks that are in use
// and that are kept, and the number of blocks that were ever mapped.
func blockBytes() (used, kept, mapped int) {
	var u, k, m C.size_t
	C.block_bytes(&u, &k, &m)
	return int(u), int(k), int(m)
}

// takeBlock and giveBlock allocate as the plugin does.
func takeBlock(n int) unsafe.Pointer {
	var p unsafe.Pointer
	if C.block_take(&p, C.size_t(n)) != 0 {
		return nil
	}
	return p
}

func giveBlock(p unsafe.Pointer) { C.block_give(p) }
