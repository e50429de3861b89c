package eval

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/logistic"
	"github.com/evatool/evatool/internal/runlog"
)

var (
	fullFlag    = flag.Bool("evatool.full", false, "measure a probe of 1.28 million features of 1,024 values")
	classesFlag = flag.Int("evatool.probe-classes", 100, "classes of that probe")
	filesFlag   = flag.Int("evatool.probe-files", 1250, "files of 1,024 features of that probe")
	stepsFlag   = flag.Int("evatool.probe-steps", 6, "steps of that probe; the memory of its pairs is full after 320 MB of them")
)

// The features of a set that is larger than keptBytes stay on the disk: memory is
// the labels, the regression and its L-BFGS pairs, whatever the images. Without
// -evatool.full a small set with a small bound.
func TestProbeMemory(t *testing.T) {
	files, dim, classes, most := 120, 256, 4, 2
	if *fullFlag {
		files, dim, classes, most = *filesFlag, 1024, *classesFlag, *stepsFlag
	}
	before, kept := runlog.PeakRSS(), keptBytes
	keptBytes = 1 << 20 // however few files there are
	defer func() { keptBytes = kept }()
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
	first := filepath.Join(dir, "0.safetensors")
	err := stored{rows: rows, labels: labels, keys: make([]string, storedRows)}.write(first, key, storedPlace{0, 1}, dim)
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
	if *fullFlag {
		bound = probeBytes(int64(s.Len()), int64(dim), int64(classes), int64(m.Iterations)) + 64<<20
	}
	if used > bound {
		t.Errorf("%d MB of memory for %d MB of features, more than %d", used>>20, size>>20, bound>>20)
	}
	t.Logf("bound %d MB; of 1,281,167 × 1,024 and 1,000 classes to the end %d MB", bound>>20, probeBytes(1_281_167, 1024, 1000, math.MaxInt64)>>20)
}

// probeBytes is what a fit of n rows needs besides them: labels, places and
// classes; in weights the point, gradients, curvatures, direction and copies, twelve
// at once, the L-BFGS pairs of the steps so far, as many as make 320 MB (10 to 100),
// the 64 MB of partial gradients, or two; and the basis.
func probeBytes(n, dim, classes, steps int64) int64 {
	weights := 8 * classes * (dim + 1)
	pairs := min(steps, 100, max(10, 160_000_000/weights))
	return 24*n + (12+2*pairs)*weights + max(64<<20, 2*weights) + 8*(4096*dim*2+6*dim*dim)
}
