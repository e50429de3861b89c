//go:build cgo

package pjrt

/*
#include <stdlib.h>
#include "depthwise.h"
*/
import "C"

import (
	"fmt"
	"regexp"
	"runtime"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
)

// XLA's CPU compiler computes a convolution that keeps the channels apart one
// channel at a time, 15 to 20 times slower than PyTorch. Programs call ours instead
// (depthwise.c), by XLA's interface for such calls.

// ffiMinor is the version of the plugins whose registration of calls is known
// (ffi.h): between versions its layout has changed without a mark.
const ffiMinor = 115

// Depthwise says whether b computes float32 convolutions with as many groups as
// channels by our own kernel.
func Depthwise(b compute.Backend) bool {
	x, ok := b.(*xla.Backend)
	if !ok || x.NumDevices() != 1 { // XLA would not know how to cut the call for several
		return false
	}
	loadedMu.Lock()
	defer loadedMu.Unlock()
	for _, p := range loaded {
		if p != nil && p.name == x.PluginName() {
			return p.depthwise
		}
	}
	return false
}

// grouped is a convolution of images [B,H,W,C] with [kh,kw,1,C] as go-xla writes it.
var grouped = regexp.MustCompile(`"stablehlo\.convolution"(\(%\w+, %\w+\)) \{
 *batch_group_count = 1 : i64,
 *dimension_numbers = #stablehlo\.conv<\[b, 0, 1, f\]x\[0, 1, i, o\]->\[b, 0, 1, f\]>,
 *feature_group_count = (\d+) : i64,
 *lhs_dilation = array<i64: 1, 1>,
 *padding = dense<\[\[(\d+), \d+\], \[(\d+), \d+\]\]> : tensor<2x2xi64>,
 *precision_config = [^\n]*,
 *rhs_dilation = array<i64: 1, 1>,
 *window_reversal = array<i1: false, false>,
 *window_strides = array<i64: (\d+), (\d+)>
 *\} : (\(tensor<\d+x\d+x\d+x(\d+)xf32>, tensor<\d+x\d+x1x(\d+)xf32>\) -> tensor<\d+x\d+x\d+x\d+xf32>)`)

// callDepthwise puts calls into a program in the place of such convolutions.
func callDepthwise(program []byte, threads int) []byte {
	return grouped.ReplaceAllFunc(program, func(found []byte) []byte {
		m := grouped.FindSubmatch(found)
		if string(m[2]) != string(m[8]) || string(m[2]) != string(m[9]) {
			return found
		}
		const order = "dense<[3, 2, 1, 0]> : tensor<4xindex>"
		return fmt.Appendf(nil, `"stablehlo.custom_call"%s { api_version = 4 : i32, backend_config = {geometry = array<i64: %s, %s, %s, %s, %d>}, `+
			`call_target_name = "evatool_depthwise", operand_layouts = [%s, %s], result_layouts = [%s] } : %s`,
			m[1], m[3], m[4], m[5], m[6], threads, order, order, order, m[7])
	})
}

// geometry is that of a depthwise convolution.
type geometry struct{ batch, height, width, channels, kh, kw, outHeight, outWidth, top, left, sy, sx int }

// runDepthwise computes one here, for tests, with the vectors of simd.
func runDepthwise(g geometry, x, w, y []float32, simd int) {
	n := func(n int) C.int64_t { return C.int64_t(n) }
	c := (*C.depthwise_geometry)(C.malloc(C.sizeof_depthwise_geometry))
	defer C.free(unsafe.Pointer(c))
	var pinner runtime.Pinner
	defer pinner.Unpin()
	at := func(s []float32) *C.float {
		pinner.Pin(&s[0])
		return (*C.float)(unsafe.Pointer(&s[0]))
	}
	*c = C.depthwise_geometry{at(x), at(w), at(y), n(g.batch), n(g.height), n(g.width), n(g.channels), n(g.kh), n(g.kw),
		n(g.outHeight), n(g.outWidth), n(g.top), n(g.left), n(g.sy), n(g.sx)}
	C.depthwise(c, C.int(simd))
}

// simdOfDepthwise is the highest kind that this processor has.
func simdOfDepthwise() int { return int(C.depthwise_simd()) }
