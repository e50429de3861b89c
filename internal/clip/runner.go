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
	Batch int    // rows of a call at most
}

// Runner computes features with loaded weights. Its methods may be called
// from several goroutines.
type Runner struct {
	dev   *device.Device
	cfg   *arch.Config
	batch int
	cache int // bytes that a layer's widest activations may take; 0: any
	half  bool
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
	r := &Runner{dev: dev, cfg: set.Config, batch: (o.Batch + n - 1) / n * n, half: o.DType == "bf16" || o.DType == "fp16"}
	if dev.Info().Kind == device.KindCPU {
		r.cache = cacheBytes
	}
	r.image = r.program(set, arch.VisualTower, dt, "image tower", Image)
	r.text = r.program(set, arch.TextTower, dt, "text tower", Text)
	return r, nil
}

func (r *Runner) program(set *weights.Set, t arch.Tower, dt dtypes.DType, name string,
	f func(*arch.Config, Weights, *Node, Options) *Node) *program {
	names, values := set.Tower(t)
	p := &program{weights: values}
	options := []device.ProgramOption{device.In(device.SplitRows, device.Replicated)}
	if r.half {
		// The weights become float32 on most CPUs: one after the other.
		options = append(options, device.SaveMemory())
	}
	p.features = r.dev.Program(name, func(in []*Node) []*Node {
		return []*Node{f(r.cfg, weights.Bind(names, in[1:]), in[0], Options{DType: dt})}
	}, options...)
	p.blocks = r.dev.Program(name+" with blocks", func(in []*Node) []*Node {
		p.names = nil
		var out []*Node
		capture := func(name string, x *Node) { p.names, out = append(p.names, name), append(out, x) }
		y := f(r.cfg, weights.Bind(names, in[1:]), in[0], Options{DType: dt, Capture: capture})
		return append([]*Node{y}, out...)
	}, options...)
	return p
}

// Config is the model's architecture.
func (r *Runner) Config() *arch.Config { return r.cfg }

// Batch is the number of rows that a call takes at most.
func (r *Runner) Batch() int { return r.batch }

// Images gives the features [n,embed] of n images, flat [n,3,H,W],
// normalised pixels. Features are not L2-normalised.
func (r *Runner) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	row := 3 * r.cfg.Vision.ImageSize * r.cfg.Vision.ImageSize
	if err := r.checkRows("pixel", len(flat), n, row); err != nil {
		return nil, err
	}
	return r.inParts(r.part(r.imageBytes()), n, func(lo, hi, part int) ([]float32, error) {
		in, err := r.putImages(flat[lo*row:hi*row], hi-lo, part)
		if err != nil {
			return nil, err
		}
		defer in.Free()
		return r.features(ctx, r.image, in)
	})
}

// Texts gives the features [n,embed] of n texts, flat tokens [n,context]
// padded with zeros. Features are not L2-normalised.
func (r *Runner) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	c := r.cfg.Text.ContextLength
	if err := r.checkTexts(tokens, n); err != nil {
		return nil, err
	}
	length := r.textLength(tokens)
	return r.inParts(r.part(length*r.cfg.TextHidden()*4), n, func(lo, hi, part int) ([]float32, error) {
		in, err := r.putTexts(tokens[lo*c:hi*c], hi-lo, part, length)
		if err != nil {
			return nil, err
		}
		defer in.Free()
		return r.features(ctx, r.text, in)
	})
}

// cacheBytes is how much a layer's widest activations may take on a CPU.
// Above it they leave the last-level cache between the operations that write
// and read them: EVA02-CLIP-B-16 takes a fifth more time per image in parts
// of 32 (52 MB) than in parts of 4 (6 MB).
const cacheBytes = 10 << 20

// imageBytes is the size of one image's widest activations, in Float32.
func (r *Runner) imageBytes() int {
	if v := &r.cfg.Vision; r.cfg.IsResNet() { // the first stage's output
		return v.ImageSize / 4 * v.ImageSize / 4 * 4 * v.Width * 4
	}
	return r.cfg.Tokens() * r.cfg.VisionHidden() * 4
}

// part is the number of rows that are computed at once, when each takes the
// given bytes. All parts have the same size, so that one program does.
func (r *Runner) part(bytes int) int {
	if r.cache == 0 {
		return r.batch
	}
	n := r.dev.N()
	each := r.batch / n
	parts := (each*bytes + r.cache - 1) / r.cache
	return (each + parts - 1) / parts * n
}

// inParts computes n rows, part rows at a time; the last part is padded.
func (r *Runner) inParts(part, n int, rows func(lo, hi, part int) ([]float32, error)) ([]float32, error) {
	out := make([]float32, 0, n*r.cfg.EmbedDim)
	for lo := 0; lo < n; lo += part {
		hi := min(lo+part, n)
		y, err := rows(lo, hi, part)
		if err != nil {
			return nil, err
		}
		out = append(out, y[:(hi-lo)*r.cfg.EmbedDim]...)
	}
	return out, nil
}

// Block is the output of a part of the model.
type Block struct {
	Name  string  // eva layout, such as visual.blocks.0
	Shape []int64 // [n,…]
	Data  []float32
}

// ImageBlocks is Images with the output of every block.
func (r *Runner) ImageBlocks(ctx context.Context, flat []float32, n int) (features []float32, blocks []Block, err error) {
	if err := r.checkRows("pixel", len(flat), n, 3*r.cfg.Vision.ImageSize*r.cfg.Vision.ImageSize); err != nil {
		return nil, nil, err
	}
	in, err := r.putImages(flat, n, r.batch)
	if err != nil {
		return nil, nil, err
	}
	defer in.Free()
	return r.captured(ctx, r.image, in, n)
}

// TextBlocks is Texts with the output of every block.
func (r *Runner) TextBlocks(ctx context.Context, tokens []int32, n int) (features []float32, blocks []Block, err error) {
	if err := r.checkTexts(tokens, n); err != nil {
		return nil, nil, err
	}
	in, err := r.putTexts(tokens, n, r.batch, r.cfg.Text.ContextLength)
	if err != nil {
		return nil, nil, err
	}
	defer in.Free()
	return r.captured(ctx, r.text, in, n)
}

func (r *Runner) features(ctx context.Context, p *program, in *device.Array) ([]float32, error) {
	out, err := p.features.Call(ctx, append([]*device.Array{in}, p.weights...)...)
	if err != nil {
		return nil, err
	}
	defer out[0].Free()
	return out[0].Float32s()
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

// putImages uploads n images, padded to rows.
func (r *Runner) putImages(flat []float32, n, rows int) (*device.Array, error) {
	s := r.cfg.Vision.ImageSize
	if n < rows {
		flat = append(slices.Clone(flat), make([]float32, (rows-n)*3*s*s)...)
	}
	return r.dev.PutF32(device.SplitRows, flat, rows, 3, s, s)
}

// putTexts uploads the first length tokens of n texts, padded to rows.
func (r *Runner) putTexts(tokens []int32, n, rows, length int) (*device.Array, error) {
	c := r.cfg.Text.ContextLength
	flat := make([]int32, rows*length)
	for i := range n {
		copy(flat[i*length:(i+1)*length], tokens[i*c:])
	}
	return r.dev.PutI32(device.SplitRows, flat, rows, length)
}

// checkTexts refuses a wrong number of tokens and tokens outside the vocabulary.
func (r *Runner) checkTexts(tokens []int32, n int) error {
	c := r.cfg.Text.ContextLength
	if err := r.checkRows("token", len(tokens), n, c); err != nil {
		return err
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= r.cfg.Text.VocabSize {
			return fault.Inputf("text %d: token %d is not in the model's vocabulary of %d", i/c, t, r.cfg.Text.VocabSize)
		}
	}
	return nil
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
