// Package weights brings a model's tensors from a file to the device.
package weights

import (
	"context"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Set is a model's tensors on the device, in the order of the
// configuration's Params.
type Set struct {
	Config *arch.Config
	names  []string
	values []*device.Array
}

// Names are the tensors' names in the eva layout.
func (s *Set) Names() []string { return s.names }

// Values are the tensors, in the order of Names.
func (s *Set) Values() []*device.Array { return s.values }

// Free releases the device memory.
func (s *Set) Free() {
	for _, a := range s.values {
		a.Free()
	}
}

// Bind maps names to nodes of the same order.
func Bind(names []string, nodes []*graph.Node) map[string]*graph.Node {
	m := make(map[string]*graph.Node, len(names))
	for i, n := range names {
		m[n] = nodes[i]
	}
	return m
}

// Load streams the tensors of src, which is in the eva layout, to the device.
func Load(ctx context.Context, dev *device.Device, cfg *arch.Config, src tensorfile.Source, dtype string) (*Set, error) {
	return nil, fault.Envf("not built yet")
}
