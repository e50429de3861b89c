package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/evatool/evatool/convert"
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/tensorfile"
)

// randomSource is a model as a training begins with it.
type randomSource struct{ cfg *arch.Config }

func (s randomSource) Tensors() []tensorfile.Info {
	var infos []tensorfile.Info
	for _, p := range s.cfg.Params() {
		infos = append(infos, tensorfile.Info{Name: p.Name, DType: tensorfile.F32, Shape: p.Shape})
	}
	return infos
}

func (s randomSource) Open(name string) (io.ReadCloser, error) {
	for _, p := range s.cfg.Params() {
		if p.Name == name {
			values := convert.RandomTensor(s.cfg, p, 1)
			data := make([]byte, 4*len(values))
			for i, v := range values {
				binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
			}
			return io.NopCloser(bytes.NewReader(data)), nil
		}
	}
	return nil, fmt.Errorf("no tensor %s", name)
}

func (s randomSource) Extent(string) (*os.File, int64, bool) { return nil, 0, false }
func (s randomSource) Metadata() map[string]string           { return nil }
func (s randomSource) Close() error                          { return nil }
