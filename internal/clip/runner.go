package clip

import (
	"context"
	"slices"

	"github.com/gomlx/compute/dtypes"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
)

// RunnerOptions configure a Runner.
type RunnerOptions struct {
	DType string // fp32 (default), bf16 or fp16: the compute dtype, where the device gains by it (weights.ComputeDType)
	Batch int    // rows of a call at most; every call is padded to it
}

// Runner computes features with loaded weights. Its methods may be called
// from several goroutines.
type Runner struct {
	dev   *device.Device
	cfg   *arch.Config
	batch int
	image *program
	text  *program
}

// program is one tower with its weights, and the same with captured blocks.
type program struct {
	weights  []*device.Array
	features *device.Program
	blocks   *device.Program
	names    []string // of the captured values, once blocks is compiled
}

// NewRunner prepares the two towers; each is compiled at its first use.
func NewRunner(dev *device.Device, set *weights.Set, o RunnerOptions) (*Runner, error) {
	dt, err := weights.ComputeDType(dev, o.DType)
	if err != nil {
		return nil, err
	}
	if o.Batch < 1 {
		return nil, fault.Usagef("batch %d: want 1 or more", o.Batch)
	}
	// Every device takes the same number of rows.
	n := dev.N()
	r := &Runner{dev: dev, cfg: set.Config, batch: (o.Batch + n - 1) / n * n}
	r.image = r.program(set, arch.VisualTower, dt, "image tower", Image)
	r.text = r.program(set, arch.TextTower, dt, "text tower", Text)
	return r, nil
}

func (r *Runner) program(set *weights.Set, t arch.Tower, dt dtypes.DType, name string,
	f func(*arch.Config, Weights, *Node, Options) *Node) *program {
	names, values := set.Tower(t)
	p := &program{weights: values}
	sharding := device.In(device.SplitRows, device.Replicated)
	p.features = r.dev.Program(name, func(in []*Node) []*Node {
		return []*Node{f(r.cfg, weights.Bind(names, in[1:]), in[0], Options{DType: dt})}
	}, sharding)
	p.blocks = r.dev.Program(name+" with blocks", func(in []*Node) []*Node {
		p.names = nil
		var out []*Node
		capture := func(name string, x *Node) { p.names, out = append(p.names, name), append(out, x) }
		y := f(r.cfg, weights.Bind(names, in[1:]), in[0], Options{DType: dt, Capture: capture})
		return append([]*Node{y}, out...)
	}, sharding)
	return p
}

// Config is the model's architecture.
func (r *Runner) Config() *arch.Config { return r.cfg }

// Batch is the number of rows that every call computes.
func (r *Runner) Batch() int { return r.batch }

// Images gives the features [n,embed] of n images, flat [n,3,H,W],
// normalised pixels. Features are not L2-normalised.
func (r *Runner) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	in, err := r.putImages(flat, n)
	if err != nil {
		return nil, err
	}
	defer in.Free()
	return r.features(ctx, r.image, in, n)
}

// Texts gives the features [n,embed] of n texts, flat tokens [n,context]
// padded with zeros. Features are not L2-normalised.
func (r *Runner) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	in, err := r.putTexts(tokens, n, r.textLength(tokens))
	if err != nil {
		return nil, err
	}
	defer in.Free()
	return r.features(ctx, r.text, in, n)
}

// Block is the output of a part of the model.
type Block struct {
	Name  string  // eva layout, such as visual.blocks.0
	Shape []int64 // [n,…]
	Data  []float32
}

// ImageBlocks is Images with the output of every block.
func (r *Runner) ImageBlocks(ctx context.Context, flat []float32, n int) (features []float32, blocks []Block, err error) {
	in, err := r.putImages(flat, n)
	if err != nil {
		return nil, nil, err
	}
	defer in.Free()
	return r.captured(ctx, r.image, in, n)
}

// TextBlocks is Texts with the output of every block.
func (r *Runner) TextBlocks(ctx context.Context, tokens []int32, n int) (features []float32, blocks []Block, err error) {
	in, err := r.putTexts(tokens, n, r.cfg.Text.ContextLength)
	if err != nil {
		return nil, nil, err
	}
	defer in.Free()
	return r.captured(ctx, r.text, in, n)
}

func (r *Runner) features(ctx context.Context, p *program, in *device.Array, n int) ([]float32, error) {
	out, err := p.features.Call(ctx, append([]*device.Array{in}, p.weights...)...)
	if err != nil {
		return nil, err
	}
	defer out[0].Free()
	y, err := out[0].Float32s()
	if err != nil {
		return nil, err
	}
	return y[:n*r.cfg.EmbedDim], nil
}

func (r *Runner) captured(ctx context.Context, p *program, in *device.Array, n int) (features []float32, blocks []Block, err error) {
	out, err := p.blocks.Call(ctx, append([]*device.Array{in}, p.weights...)...)
	if err != nil {
		return nil, nil, err
	}
	for i, a := range out {
		b := Block{Shape: []int64{int64(n)}}
		size := n
		for _, d := range a.Dims()[1:] {
			b.Shape = append(b.Shape, int64(d))
			size *= d
		}
		if b.Data, err = a.Float32s(); err != nil {
			return nil, nil, err
		}
		a.Free()
		b.Data = b.Data[:size]
		if i == 0 {
			features = b.Data
			continue
		}
		b.Name = p.names[i-1]
		blocks = append(blocks, b)
	}
	return features, blocks, nil
}

// putImages uploads n images, padded to the batch.
func (r *Runner) putImages(flat []float32, n int) (*device.Array, error) {
	s := r.cfg.Vision.ImageSize
	if err := r.checkRows("pixel", len(flat), n, 3*s*s); err != nil {
		return nil, err
	}
	if n < r.batch {
		flat = append(slices.Clone(flat), make([]float32, (r.batch-n)*3*s*s)...)
	}
	return r.dev.PutF32(device.SplitRows, flat, r.batch, 3, s, s)
}

// putTexts uploads the first length tokens of n texts, padded to the batch.
func (r *Runner) putTexts(tokens []int32, n, length int) (*device.Array, error) {
	c := r.cfg.Text.ContextLength
	if err := r.checkRows("token", len(tokens), n, c); err != nil {
		return nil, err
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= r.cfg.Text.VocabSize {
			return nil, fault.Inputf("text %d: token %d is not in the model's vocabulary of %d", i/c, t, r.cfg.Text.VocabSize)
		}
	}
	flat := make([]int32, r.batch*length)
	for i := range n {
		copy(flat[i*length:(i+1)*length], tokens[i*c:])
	}
	return r.dev.PutI32(device.SplitRows, flat, r.batch, length)
}

func (r *Runner) checkRows(what string, have, n, row int) error {
	if n < 1 || n > r.batch || have != n*row {
		return fault.Inputf("%d %s values for %d rows of %d; a call takes 1 to %d rows", have, what, n, row, r.batch)
	}
	return nil
}

// textLengths are the lengths at which the text tower is compiled.
var textLengths = []int{16, 32, 64}

// textLength is how much of the texts the model must see: with causal
// attention nothing after the end of a text reaches its feature.
func (r *Runner) textLength(tokens []int32) int {
	c := r.cfg.Text.ContextLength
	if !r.cfg.Text.AttnMask || len(tokens)%c != 0 {
		return c
	}
	longest := 0
	for row := range slices.Chunk(tokens, c) {
		longest = max(longest, slices.Index(row, slices.Max(row))+1)
	}
	for _, l := range textLengths {
		if longest <= l && l < c {
			return l
		}
	}
	return c
}
