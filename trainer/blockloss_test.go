package trainer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/device"
)

// lossCase is a batch as programs get it: features of length one, rounded as
// half precision would, with rows that only pad it.
type lossCase struct {
	batch, padded, parts int
	tile                 tile
	scale                float32 // logit_scale
	step                 float32 // features are multiples of it; 0: any
}

func (c lossCase) String() string {
	return fmt.Sprintf("batch %d of %d, %d parts, tiles of %d × %d, logit_scale %v", c.batch, c.padded, c.parts, c.tile.rows, c.tile.columns, c.scale)
}

const lossWidth = 16

// lossResult is the loss, and the gradients of logit_scale, images and texts.
type lossResult [4][]float32

func (c lossCase) run(t *testing.T, dev *device.Device, graph func(x, y, logitScale *Node) []*Node) (out lossResult) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	common := make([]float64, lossWidth) // what all have: the logits are not symmetric about 0
	for i := range common {
		common[i] = r.NormFloat64()
	}
	var pair [2]*device.Array
	for k := range pair {
		v := make([]float32, c.padded*lossWidth)
		for i := range v {
			v[i] = float32(r.NormFloat64() + common[i%lossWidth])
		}
		a, err := dev.PutF32(device.SplitRows, v, c.padded, lossWidth)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Free()
		pair[k] = a
	}
	scale, err := dev.PutF32(device.Replicated, []float32{c.scale})
	if err != nil {
		t.Fatal(err)
	}
	p := dev.Program("loss", func(in []*Node) []*Node {
		x, y := L2Normalize(in[0], -1), L2Normalize(in[1], -1)
		if c.step > 0 {
			x, y = MulScalar(Round(DivScalar(x, c.step)), c.step), MulScalar(Round(DivScalar(y, c.step)), c.step)
		}
		out := graph(x, y, in[2])
		for i := 2; i < 4; i++ { // a result has no padding
			out[i] = Slice(out[i], AxisRange(0, c.batch))
		}
		return out
	}, device.In(device.SplitRows, device.SplitRows, device.Replicated), device.Out(device.Replicated))
	results, err := p.Call(t.Context(), pair[0], pair[1], scale)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range results {
		if out[i], err = a.Float32s(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// matrix is the slow twin: contrastive and its derivative.
func (c lossCase) matrix(x, y, logitScale *Node) []*Node {
	real := AxisRange(0, c.batch)
	loss := contrastive(Slice(x, real), Slice(y, real), logitScale)
	return append([]*Node{loss}, Gradient(loss, logitScale, x, y)...)
}

// blocks is blockLoss, the batch in parts.
func (c lossCase) blocks(devices int) func(x, y, logitScale *Node) []*Node {
	return func(x, y, logitScale *Node) []*Node {
		b := blockLoss{batch: c.batch, devices: devices, tile: c.tile}
		cut := func(x *Node) (parts []*Node) {
			n := c.padded / c.parts
			for i := range c.parts {
				parts = append(parts, Slice(x, AxisRange(i*n, (i+1)*n)))
			}
			return parts
		}
		own := ownRows{img: cut(x), txt: cut(y)}
		own.imgSums, own.txtSums = b.rowSums(own.img, y, logitScale), b.rowSums(own.txt, x, logitScale)
		all := allRows{x, y, Concatenate(own.imgSums, 0), Concatenate(own.txtSums, 0)}
		g := b.gradients(own, all, logitScale, c.batch)
		return []*Node{g.loss, g.logitScale, Concatenate(g.img, 0), Concatenate(g.txt, 0)}
	}
}

// near compares results, gradients by their norms. A logit of 100 is rounded by
// 4e-6, and so is its exponential, so the tolerance grows with the scale.
func (c lossCase) near(t *testing.T, got lossResult, what string, want lossResult, logitScale float64) {
	t.Helper()
	scale := math.Exp(float64(c.scale))
	for i, name := range []string{"loss", "gradient of logit_scale", "gradient of images", "gradient of texts"} {
		tol, size := 1e-6*max(1, scale/30), l2(want[i])+1e-6
		if i < 2 { // sums of terms of about the scale
			size = max(size, scale/4)
		}
		if i == 1 {
			tol *= logitScale
		}
		if d := l2diff(got[i], want[i]); !(d <= tol*size) {
			t.Errorf("%s, against %s: off by %.2g of %.3g", name, what, d/size, size)
		}
	}
}

// check compares blocks with the matrix and with float64.
func (c lossCase) check(t *testing.T, dev *device.Device, blocks func(x, y, logitScale *Node) []*Node) {
	t.Helper()
	got := c.run(t, dev, blocks)
	// The matrix's own gradient of logit_scale sums B² terms at once: blocks are
	// more accurate.
	c.near(t, got, "one matrix", c.run(t, dev, c.matrix), 3)
	features := c.run(t, dev, func(x, y, s *Node) []*Node { return []*Node{s, s, x, y} })
	c.near(t, got, "float64", c.exact(features[2], features[3]), 1)
}

// exact is the loss in float64, of the features that run gives the programs.
func (c lossCase) exact(x, y []float32) (rounded lossResult) {
	var out [4][]float64
	n, w := c.batch, lossWidth
	scale := math.Exp(float64(c.scale))
	s := make([]float64, n*n)
	row, col := make([]float64, n), make([]float64, n)
	for i := range n {
		for j := range n {
			d := 0.0
			for k := range w {
				d += float64(x[i*w+k]) * float64(y[j*w+k])
			}
			s[i*n+j] = scale * d
			row[i] += math.Exp(scale * (d - 1))
			col[j] += math.Exp(scale * (d - 1))
		}
	}
	out[0], out[1] = []float64{0}, []float64{0}
	out[2], out[3] = make([]float64, n*w), make([]float64, n*w)
	for i := range n {
		out[0][0] += (math.Log(row[i]) + math.Log(col[i]) + 2*scale - 2*s[i*n+i]) / 2 / float64(n)
		for j := range n {
			wij := math.Exp(s[i*n+j]-scale) * (1/row[i] + 1/col[j])
			if i == j {
				wij -= 2
			}
			wij /= 2 * float64(n)
			out[1][0] += wij * s[i*n+j]
			for k := range w {
				out[2][i*w+k] += scale * wij * float64(y[j*w+k])
				out[3][j*w+k] += scale * wij * float64(x[i*w+k])
			}
		}
	}
	for i, list := range out {
		for _, v := range list {
			rounded[i] = append(rounded[i], float32(v))
		}
	}
	return rounded
}

// TestBlockLoss: whatever the blocks, the parts and the padding, the loss in
// blocks and its gradients are those of the whole matrix.
func TestBlockLoss(t *testing.T) {
	const bf16 = 1.0 / 256
	cases := map[string][]lossCase{
		"go": {
			{24, 24, 1, tile{5, 24}, 2.6593, 0}, {24, 24, 1, tile{24, 30}, 2.6593, 0}, {24, 24, 3, tile{1, 4}, 0, 0}, {21, 21, 1, tile{4, 5}, 4.6, 0},
			{22, 24, 1, tile{5, 9}, 4.6, bf16}, {17, 24, 3, tile{6, 17}, 4.6, bf16}, {1, 1, 1, tile{4, 4}, 4.6, 0}, {2, 2, 2, tile{1, 1}, -3, 0},
		},
		"xla":  {{24, 24, 3, tile{7, 5}, 4.6, 0}, {21, 21, 1, tile{4, 7}, 2.6593, bf16}, {21, 21, 1, tile{21, 6}, 2.6593, 0}},
		"xla4": {{22, 24, 1, tile{4, 9}, 4.6, 0}, {24, 24, 2, tile{2, 6}, 2.6593, bf16}, {21, 24, 2, tile{2, 6}, 2.6593, 0}},
	}
	for i, w := range where {
		for k, c := range cases[w.name] {
			if i > 0 && k > 0 && !*fullFlag {
				continue // compiling takes seconds
			}
			t.Run(w.name+"/"+c.String(), func(t *testing.T) {
				dev := onDevice(t, i)
				c.check(t, dev, c.blocks(dev.N()))
			})
		}
	}
}

// TestBlockLossProcesses: two processes with half of the rows each compute the two
// halves of the gradients, and their losses add up.
func TestBlockLossProcesses(t *testing.T) {
	dev := onDevice(t, 0)
	c := lossCase{24, 24, 2, tile{5, 7}, 3, 0}
	two := func(x, y, logitScale *Node) []*Node {
		b := blockLoss{batch: c.batch, devices: 1, tile: c.tile}
		var ranks [2]ownRows
		var img, txt []*Node // sums, as gathered
		for i := range ranks {
			half := AxisRange(12*i, 12*(i+1))
			own := ownRows{img: []*Node{Slice(x, half)}, txt: []*Node{Slice(y, half)}}
			own.imgSums, own.txtSums = b.rowSums(own.img, y, logitScale), b.rowSums(own.txt, x, logitScale)
			img, txt = append(img, own.imgSums...), append(txt, own.txtSums...)
			ranks[i] = own
		}
		all := allRows{x, y, Concatenate(img, 0), Concatenate(txt, 0)}
		p, q := b.gradients(ranks[0], all, logitScale, 12), b.gradients(ranks[1], all, logitScale, 12)
		return []*Node{Add(p.loss, q.loss), Add(p.logitScale, q.logitScale),
			Concatenate(append(p.img, q.img...), 0), Concatenate(append(p.txt, q.txt...), 0)}
	}
	c.check(t, dev, two)
}

// BenchmarkLoss is loss and gradients of features, as one matrix and in tiles
// (with XLA_FLAGS=--xla_backend_optimization_level=3: the tests have 0).
func BenchmarkLoss(b *testing.B) {
	dev, err := device.Open(b.Context(), where[1].options)
	if err != nil {
		b.Skip(err)
	}
	defer dev.Close()
	for _, batch := range []int{2048, 4096, 8192, 16384} {
		for _, width := range []int{32, 512} {
			for _, t := range []tile{{}, {256, 1024}, {512, 512}, {512, 1024}, {1024, 1024}, {2048, 2048}, {170, batch}} {
				b.Run(fmt.Sprintf("%d×%d/%v", batch, width, t), func(b *testing.B) {
					c := lossCase{batch: batch, padded: batch, parts: 1, tile: t, scale: 4.6}
					graph := c.blocks(1)
					if t.rows == 0 {
						graph = c.matrix
					}
					c.bench(b, dev, width, graph)
				})
			}
		}
	}
}

func (c lossCase) bench(b *testing.B, dev *device.Device, width int, graph func(x, y, logitScale *Node) []*Node) {
	call, use := c.ready(b, dev, width, graph)
	b.ResetTimer()
	for b.Loop() {
		call()
	}
	b.ReportMetric(float64(use.Temporary)/1e6, "MB-temp")
}

// BenchmarkLossForms runs both forms in turns, and reports the ratio of the tiles'
// time to the matrix's, by the clock and of the processor (with XLA_FLAGS as above).
func BenchmarkLossForms(b *testing.B) {
	dev, err := device.Open(b.Context(), where[1].options)
	if err != nil {
		b.Skip(err)
	}
	defer dev.Close()
	for _, batch := range []int{1024, 2048, 4096, 8192} {
		for _, width := range []int{64, 512} {
			b.Run(fmt.Sprintf("%d×%d", batch, width), func(b *testing.B) {
				c := lossCase{batch: batch, padded: batch, parts: 1, tile: lossTile(device.KindCPU, batch), scale: 4.6}
				matrix, _ := c.ready(b, dev, width, c.matrix)
				tiles, _ := c.ready(b, dev, width, c.blocks(1))
				var wall, spent []float64
				for b.Loop() {
					one, two := spend(b, matrix), spend(b, tiles)
					wall, spent = append(wall, two[0]/one[0]), append(spent, two[1]/one[1])
				}
				b.ReportMetric(median(wall), "tiles/matrix")
				b.ReportMetric(median(spent), "tiles/matrix-processor")
			})
		}
	}
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

// spend returns how long call takes in seconds, by the clock and of all processors.
func spend(b *testing.B, call func()) [2]float64 {
	now := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	start, before := time.Now(), now()
	call()
	return [2]float64{time.Since(start).Seconds(), now() - before}
}

// ready compiles a form of the loss, and runs it once.
func (c lossCase) ready(b *testing.B, dev *device.Device, width int, graph func(x, y, logitScale *Node) []*Node) (call func(), use device.MemoryUse) {
	r := rand.New(rand.NewPCG(1, 2))
	v := make([]float32, c.batch*width)
	for i := range v {
		v[i] = float32(r.NormFloat64() / math.Sqrt(float64(width)))
	}
	x, err := dev.PutF32(device.Replicated, v, c.batch, width)
	if err != nil {
		b.Fatal(err)
	}
	scale, err := dev.PutF32(device.Replicated, []float32{c.scale})
	if err != nil {
		b.Fatal(err)
	}
	p := dev.Program("loss", func(in []*Node) []*Node { return graph(in[0], in[1], in[2]) }, device.SaveMemory())
	call = func() {
		out, err := p.Call(b.Context(), x, x, scale)
		if err == nil {
			_, err = out[0].Float32s()
		}
		if err != nil {
			b.Fatal(err)
		}
		free(out)
	}
	call()
	if use, err = p.Memory(x, x, scale); err != nil {
		b.Fatal(err)
	}
	return call, use
}
