//go:build cgo

package pjrt

import (
	"reflect"
	"unsafe"

	"github.com/evatool/evatool/internal/device/pin"
	"github.com/gomlx/go-xla/stablehlo"
	"github.com/gomlx/gomlx/core/graph"
)

// pinned says whether go-xla and GoMLX are the versions known here.
var pinned = pin.Linked(pin.GoXLA, pin.GoMLX, pin.Compute)

// field returns an unexported field of *struct v, addressable.
func field(v reflect.Value, name string) reflect.Value {
	f := v.Elem().FieldByName(name)
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
}

// Alias makes input in of an XLA graph under construction share its memory with
// output out. go-xla donates buffers but does not say which output may have
// them, and without that XLA reuses none: this reaches into the StableHLO
// function for the attribute that does. With versions that pin does not name it
// does nothing.
func Alias(g *graph.Graph, in, out int) {
	if !pinned {
		return
	}
	builder := field(reflect.ValueOf(g), "builder").Elem() // compute.Builder → *xla.Builder
	main := field(field(builder, "mainFn"), "fn").Interface().(*stablehlo.Function)
	input := main.Inputs[in]
	if input.Attributes == nil {
		input.Attributes = map[string]any{}
	}
	input.Attributes["tf.aliasing_output"] = int32(out)
}
