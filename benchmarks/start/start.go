// Package start gives benchmarks a model without a file.
package start

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Model is a source of weights (weights.Load) as a training begins with them:
// random float32, always the same.
type Model struct{ Config *arch.Config }

func (s Model) Tensors() []tensorfile.Info {
	var infos []tensorfile.Info
	for _, p := range s.Config.Params() {
		infos = append(infos, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return infos
}

func (s Model) Open(name string) (io.ReadCloser, error) {
	for _, p := range s.Config.Params() {
		if p.Name == name {
			values := checkpoint.RandomTensor(s.Config, p, 1)
			data := make([]byte, 4*len(values))
			for i, v := range values {
				binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
			}
			return io.NopCloser(bytes.NewReader(data)), nil
		}
	}
	return nil, fmt.Errorf("no tensor %s", name)
}

func (s Model) Extent(string) (*os.File, int64, bool) { return nil, 0, false }
func (s Model) Metadata() map[string]string           { return nil }
func (s Model) Close() error                          { return nil }
