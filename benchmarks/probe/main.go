// Probe compares the time of a linear probe with scikit-learn's.
//
//	go run ./benchmarks/probe --python /path/of/python
//
// The Python needs numpy and scikit-learn; without --python only evatool is
// measured. Both sides fit the same synthetic features with the same penalty, in
// turns, until the loss is within --within of the lowest known.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/internal/logistic"
)

type bench struct {
	rows, dim, classes int
	l2, within         float64
	rounds             int
	python, script     string
	types, tolerances  string
}

func main() {
	var b bench
	flag.IntVar(&b.rows, "rows", 50_000, "images to learn from")
	flag.IntVar(&b.dim, "dim", 512, "values of a feature")
	flag.IntVar(&b.classes, "classes", 100, "classes")
	flag.Float64Var(&b.l2, "l2", 3.16, "the penalty, 1/C of scikit-learn")
	flag.Float64Var(&b.within, "within", 1e-6, "how far above its minimum the loss may end, relative to it")
	flag.IntVar(&b.rounds, "rounds", 3, "runs of each side")
	flag.StringVar(&b.python, "python", "", "a Python with numpy and scikit-learn")
	flag.StringVar(&b.script, "peer", "benchmarks/probe/peer.py", "the peer's script")
	flag.StringVar(&b.types, "types", "float64,float32", "the types of the features for the peer, which computes in them")
	flag.StringVar(&b.tolerances, "tolerances", "1e-4,1e-5,3e-6,1e-6,3e-7,1e-7,1e-8", "for the peer, which takes the first that is good enough")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// table is logistic.Rows in memory.
type table struct {
	v   []float32
	dim int
}

func (t table) Len() int { return len(t.v) / t.dim }
func (t table) Dim() int { return t.dim }
func (t table) Read(dst []float32, lo, hi int) error {
	copy(dst, t.v[lo*t.dim:hi*t.dim])
	return nil
}

// features are like CLIP's: of length 1, with a large common part, overlapping classes
// and a decaying spectrum, rotated so that no axis is special.
func (b *bench) features(rows int, rng *rand.Rand, world [][]float64) (table, []int) {
	t, y := table{make([]float32, rows*b.dim), b.dim}, make([]int, rows)
	x := make([]float64, b.dim)
	for i := range y {
		y[i] = rng.IntN(b.classes)
		sum := 0.0
		for j := range x {
			x[j] = world[b.classes][j] + world[y[i]][j] + spectrum(j)*1.2*rng.NormFloat64()
			sum += x[j] * x[j]
		}
		for j := range x {
			x[j] /= math.Sqrt(sum)
		}
		turn(x)
		for j, v := range x {
			t.v[i*b.dim+j] = float32(v)
		}
	}
	return t, y
}

func spectrum(j int) float64 { return 1 / math.Sqrt(1+float64(j)/8) }

// turn is a fixed rotation: planes of all pairs at power-of-two distances.
func turn(x []float64) {
	for step := 1; step < len(x); step *= 2 {
		for i := 0; i+step < len(x); i++ {
			if i&step == 0 {
				s, c := math.Sincos(1 + 0.7*float64(i%13))
				x[i], x[i+step] = c*x[i]-s*x[i+step], s*x[i]+c*x[i+step]
			}
		}
	}
}

// world are the classes' centres, and the common part last.
func (b *bench) world(rng *rand.Rand) [][]float64 {
	w := make([][]float64, b.classes+1)
	for k := range w {
		w[k] = make([]float64, b.dim)
		for j := range w[k] {
			w[k][j] = rng.NormFloat64() * 0.35 * spectrum(j)
			if k == b.classes {
				w[k][j] = 0.8 * rng.NormFloat64()
			}
		}
	}
	return w
}

// outcome is one fit of one side.
type outcome struct {
	Seconds, CPU, Loss float64
	Steps              int
	Predicted          []int     // of the test rows
	Margin             []float64 // between their first and second logit
}

func (b *bench) run(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(1, 19))
	world := b.world(rng)
	x, y := b.features(b.rows, rng, world)
	test, truth := b.features(b.rows/10, rng, world)

	var names []string
	var sides []func() (outcome, error)
	fit := func(tolerance float64) func() (outcome, error) {
		return func() (outcome, error) { return b.fit(ctx, x, y, test, tolerance) }
	}
	names, sides = append(names, "evatool", "evatool, to convergence"), append(sides, fit(b.within/10), fit(0))
	if b.python != "" {
		dir, err := os.MkdirTemp("", "probe")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := write(dir, map[string]any{"x.f32": x.v, "y.i64": y, "test.f32": test.v}); err != nil {
			return err
		}
		best, err := fit(0)()
		if err != nil {
			return err
		}
		for _, kind := range strings.Split(b.types, ",") {
			p, err := b.peer(dir, kind, best.Loss)
			if err != nil {
				return err
			}
			defer p.stop()
			names, sides = append(names, "scikit-learn "+kind+" "+p.settings), append(sides, p.fit)
		}
	}
	seconds, cpu := make([][]float64, len(sides)), make([][]float64, len(sides))
	last := make([]outcome, len(sides))
	for range b.rounds {
		for i, f := range sides {
			o, err := f()
			if err != nil {
				return err
			}
			seconds[i], cpu[i], last[i] = append(seconds[i], o.Seconds), append(cpu[i], o.CPU), o
		}
	}
	fmt.Printf("%d × %d, %d classes, l2 %g, %d threads, medians of %d\n\n", b.rows, b.dim, b.classes, b.l2, runtime.GOMAXPROCS(0), b.rounds)
	fmt.Println("| side | seconds | processor seconds | steps | loss | above the lowest | right of the test rows | other answers than the first's, no tie | time / the first's, a round's median (95 %) |\n|---|---|---|---|---|---|---|---|---|")
	low := math.Inf(1)
	for _, o := range last {
		low = min(low, o.Loss)
	}
	for i, o := range last {
		right, other := 0, 0
		for k, c := range o.Predicted {
			if c == truth[k] {
				right++
			}
			if c != last[0].Predicted[k] && min(o.Margin[k], last[0].Margin[k]) > 0.01 {
				other++
			}
		}
		fmt.Printf("| %s | %.2f | %.2f | %d | %.10f | %.1e | %.2f %% | %d | %v |\n", names[i], paired.Median(seconds[i]), paired.Median(cpu[i]), o.Steps, o.Loss, o.Loss/low-1,
			100*float64(right)/float64(len(truth)), other, paired.Over(seconds[i], seconds[0]))
	}
	return nil
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return math.NaN()
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// fit is evatool's side: from features to predictions.
func (b *bench) fit(ctx context.Context, x table, y []int, test table, tolerance float64) (o outcome, err error) {
	start, used := time.Now(), cpuSeconds()
	basis, err := logistic.NewBasis(x)
	if err != nil {
		return o, err
	}
	m, err := logistic.Fit(ctx, x, y, b.classes, basis, logistic.Options{L2: b.l2, Tolerance: tolerance})
	if err != nil {
		return o, err
	}
	o.Seconds, o.CPU, o.Loss, o.Steps = time.Since(start).Seconds(), cpuSeconds()-used, m.Loss, m.Iterations
	err = m.Logits(ctx, test, func(_ int, logits []float64) {
		sorted := slices.Sorted(slices.Values(logits))
		o.Predicted = append(o.Predicted, slices.Index(logits, slices.Max(logits)))
		o.Margin = append(o.Margin, sorted[len(sorted)-1]-sorted[len(sorted)-2])
	})
	return o, err
}

func write(dir string, files map[string]any) error {
	for name, v := range files {
		if ints, ok := v.([]int); ok {
			wide := make([]int64, len(ints))
			for i, n := range ints {
				wide[i] = int64(n)
			}
			v = wide
		}
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		w := bufio.NewWriter(f)
		if err := errors.Join(binary.Write(w, binary.LittleEndian, v), w.Flush(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// peer is a running Python: a line in is a fit, a line of JSON comes out.
type peer struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *bufio.Reader
	settings string
}

// peer starts a peer, which finds the loosest tolerance that is good enough.
func (b *bench) peer(dir, kind string, best float64) (*peer, error) {
	g := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	cmd := exec.Command(b.python, filepath.FromSlash(b.script), dir, strconv.Itoa(b.dim), g(b.l2), kind, g(best*(1+b.within)), strconv.Itoa(runtime.GOMAXPROCS(0)), b.tolerances)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &peer{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 1<<20)}
	line, err := p.out.ReadString('\n')
	p.settings = strings.TrimSpace(line)
	return p, err
}

func (p *peer) fit() (o outcome, err error) {
	if _, err := fmt.Fprintln(p.in); err != nil {
		return o, err
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal(line, &o)
}

func (p *peer) stop() {
	p.in.Close()
	p.cmd.Wait()
}
