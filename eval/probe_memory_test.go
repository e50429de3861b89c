package eval

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/logistic"
	"github.com/evatool/evatool/internal/runlog"
	"github.com/evatool/evatool/internal/tensorfile"
)

var (
	fullFlag    = flag.Bool("evatool.full", false, "measure a probe of 1.28 million features of 1,024 values")
	classesFlag = flag.Int("evatool.probe-classes", 100, "classes of that probe")
)

// The features of a set that is larger than keptBytes stay on the disk: memory is
// the labels, the regression and its L-BFGS pairs, whatever the images. Without
// -evatool.full a small set with a small bound.
func TestProbeMemory(t *testing.T) {
	files, dim, classes, most := 120, 256, 4, 2
	if *fullFlag {
		files, dim, classes, most = 1250, 1024, *classesFlag, 6
	}
	before, kept := runlog.PeakRSS(), keptBytes
	if !*fullFlag {
		keptBytes = 1 << 20
		defer func() { keptBytes = kept }()
	}
	// One file of features under many names: what is read is all of them.
	dir, key := t.TempDir(), "key"
	rng := rand.New(rand.NewPCG(1, 28))
	rows, labels := make([]float32, storedRows*dim), make([]int64, storedRows)
	for i := range labels {
		labels[i] = int64(i % classes)
		for k := range dim {
			rows[i*dim+k] = float32(rng.NormFloat64())
		}
		rows[i*dim+int(labels[i])%dim] += 8
		normalize(rows[i*dim : (i+1)*dim])
	}
	data, ints := tensorfile.EncodeFloat32s(rows), tensorfile.EncodeInt64s(labels)
	first := filepath.Join(dir, "0.safetensors")
	err := tensorfile.WriteFile(first, []tensorfile.Tensor{
		{Info: tensorfile.Info{Name: "features", DType: tensorfile.F32, Shape: []int64{storedRows, int64(dim)}}, Data: data},
		{Info: tensorfile.Info{Name: "labels", DType: tensorfile.I64, Shape: []int64{storedRows}}, Data: ints},
	}, map[string]string{"evatool.features": key, "evatool.digest": digest(slices.Concat(data, ints)), "evatool.skipped": "[]"})
	if err != nil {
		t.Fatal(err)
	}
	s := &featureSet{dim: dim}
	start := time.Now()
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("%d.safetensors", i))
		if i > 0 {
			if err := os.Link(first, path); err != nil {
				t.Skip("no hard links here:", err)
			}
		}
		if err := s.load(path, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.keep(); err != nil {
		t.Fatal(err)
	}
	if s.rows != nil {
		t.Fatal("the features are in memory")
	}
	basis, err := logistic.NewBasis(s)
	if err != nil {
		t.Fatal(err)
	}
	y := make([]int, s.Len())
	for i := range y {
		y[i] = s.labels[i]
	}
	m, err := logistic.Fit(t.Context(), all(s), y, classes, basis, logistic.Options{L2: 0.01, Most: most})
	if err != nil {
		t.Fatal(err)
	}
	size := int64(s.Len()) * int64(dim) * 4
	used := runlog.PeakRSS() - before
	t.Logf("%d × %d, %d classes: features %d MB, peak memory %d MB (%d MB before), %d steps in %.0f s", s.Len(), dim, classes, size>>20, runlog.PeakRSS()>>20, before>>20, m.Iterations, time.Since(start).Seconds())
	bound := int64(80 << 20)
	if *fullFlag { // labels and places of 24 bytes a row, L-BFGS pairs of 16 bytes a weight, portions
		weights := int64(classes * (dim + 1))
		bound = 64<<20 + 40*int64(s.Len()) + 16*weights*min(100, max(10, 20_000_000/weights)) + 128<<20
	}
	if used > bound {
		t.Errorf("%d MB of memory for %d MB of features, more than %d", used>>20, size>>20, bound>>20)
	}
}
