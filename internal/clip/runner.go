package clip

import (
	"context"
	"math/bits"
	"slices"

	"github.com/gomlx/compute/dtypes"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/weights"
)

// RunnerOptions configure a Runner.
type RunnerOptions struct {
	DType         string // fp32 (default), bf16 or fp16: the compute dtype, where the device is faster with it (weights.ComputeDType)
	Images, Texts int    // most rows of a call of each tower
	// Fit pads a call to the next power of two of its rows, not to the full
	// number: for calls of any size. Each size is compiled at its first use.
	Fit bool
}

// Runner computes features with the weights of a set. Its methods may be
// called from several goroutines.
type Runner struct {
	dev   *device.Device
	cfg   *arch.Config
	cache int // bytes that a layer's widest activations may take; 0: any
	half  bool
	fit   bool
	image *program
	text  *program
}

// program is one tower with its weights, and the same with captured blocks.
type program struct {
	batch    int // rows of a call at most
	weights  func() []*device.Array
	features *device.Program
	blocks   *device.Program
	captured []string // names of the captured values, once blocks is compiled
}

// NewRunner prepares the two towers; each is compiled at its first use. A set
// that is borrowed is read anew at every call.
func NewRunner(dev *device.Device, set *weights.Set, o RunnerOptions) (*Runner, error) {
	dt, err := weights.ComputeDType(dev, o.DType)
	if err != nil {
		return nil, err
	}
	if o.Images < 1 || o.Texts < 1 {
		return nil, fault.Usagef("%d images and %d texts per call: want 1 or more of each", o.Images, o.Texts)
	}
	r := &Runner{dev: dev, cfg: set.Config, fit: o.Fit, half: o.DType == "bf16" || o.DType == "fp16"}
	if dev.Info().Kind == device.KindCPU {
		r.cache = cacheBytes
	}
	r.image = r.program(set, arch.VisualTower, o.Images, dt, "image tower", Image)
	r.text = r.program(set, arch.TextTower, o.Texts, dt, "text tower", Text)
	return r, nil
}

func (r *Runner) program(set *weights.Set, of arch.Tower, rows int, dt dtypes.DType, name string,
	f func(*arch.Config, Weights, *Node, Options) *Node) *program {
	names, values := set.Tower(of)
	n := r.dev.N() // every device takes the same number of rows
	p := &program{batch: (rows + n - 1) / n * n, weights: values}
	options := []device.ProgramOption{device.In(device.SplitRows, device.Replicated)}
	if r.half {
		// The weights become float32 on most CPUs: one after the other.
		options = append(options, device.SaveMemory())
	}
	p.features = r.dev.Program(name, func(in []*Node) []*Node {
		return []*Node{f(r.cfg, weights.Bind(names, in[1:]), in[0], Options{DType: dt})}
	}, options...)
	p.blocks = r.dev.Program(name+" with blocks", func(in []*Node) []*Node {
		p.captured = nil
		var out []*Node
		capture := func(name string, x *Node) { p.captured, out = append(p.captured, name), append(out, x) }
		y := f(r.cfg, weights.Bind(names, in[1:]), in[0], Options{DType: dt, Capture: capture})
		return append([]*Node{y}, out...)
	}, options...)
	return p
}

// Config is the model's architecture.
func (r *Runner) Config() *arch.Config { return r.cfg }

// Images gives the features [n,embed] of n images, flat [n,3,H,W],
// normalised pixels. Features are not L2-normalised.
func (r *Runner) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	row := 3 * r.cfg.Vision.ImageSize * r.cfg.Vision.ImageSize
	if err := checkRows("pixel", len(flat), n, row, r.image.batch); err != nil {
		return nil, err
	}
	return r.inParts(r.part(r.image.batch, r.imageBytes()), n, func(lo, hi, part int) ([]float32, error) {
		in, err := r.putImages(flat[lo*row:hi*row], hi-lo, part)
		if err != nil {
			return nil, err
		}
		defer in.Free()
		return r.image.call(ctx, in)
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
	return r.inParts(r.part(r.text.batch, length*r.cfg.TextHidden()*4), n, func(lo, hi, part int) ([]float32, error) {
		in, err := r.putTexts(tokens[lo*c:hi*c], hi-lo, part, length)
		if err != nil {
			return nil, err
		}
		defer in.Free()
		return r.text.call(ctx, in)
	})
}

// cacheBytes is how much a layer's widest activations may take on a CPU.
// Above it they leave the last-level cache between the operations that write
// and read them: EVA02-CLIP-B-16 takes a fifth more time per image in parts
// of 32 (52 MB) than in parts of 4 (6 MB).
const cacheBytes = 10 << 20

// imageBytes is the size of one image's widest activations, in Float32.
func (r *Runner) imageBytes() int {
	return r.cfg.WidestActivations() * 4
}

// part is the number of rows of a batch that are computed at once, when each
// takes the given bytes. All parts have the same size, so that one program does:
// the largest that fits or, where that saves a twentieth of the rows (the last
// part is padded), a smaller one, down to half of it and two.
func (r *Runner) part(batch, bytes int) int {
	if r.cache == 0 {
		return batch
	}
	n := r.dev.N()
	each := batch / n
	parts := (each*bytes + r.cache - 1) / r.cache
	most := (each + parts - 1) / parts
	best := most
	padded := func(rows int) int { return (each + rows - 1) / rows * rows }
	for rows := most - 1; rows >= max(2, (most+1)/2); rows-- {
		if 20*padded(rows) <= 19*padded(best) {
			best = rows
		}
	}
	return best * n
}

// inParts computes n rows, part rows at a time; the last part is padded.
func (r *Runner) inParts(part, n int, rows func(lo, hi, part int) ([]float32, error)) ([]float32, error) {
	out := make([]float32, 0, n*r.cfg.EmbedDim)
	for lo := 0; lo < n; lo += part {
		hi := min(lo+part, n)
		padded := part
		if r.fit {
			padded = min(part, r.fitted(hi-lo))
		}
		y, err := rows(lo, hi, padded)
		if err != nil {
			return nil, err
		}
		out = append(out, y[:(hi-lo)*r.cfg.EmbedDim]...)
	}
	return out, nil
}

// fitted is the smallest number of rows for n: a power of two for each device.
func (r *Runner) fitted(n int) int {
	each := (n + r.dev.N() - 1) / r.dev.N()
	return r.dev.N() << bits.Len(uint(each-1))
}

// Block is the output of a part of the model.
type Block struct {
	Name  string  // eva layout, such as visual.blocks.0
	Shape []int64 // [n,…]
	Data  []float32
}

// ImageBlocks is Images with the output of every block.
func (r *Runner) ImageBlocks(ctx context.Context, flat []float32, n int) (features []float32, blocks []Block, err error) {
	if err := checkRows("pixel", len(flat), n, 3*r.cfg.Vision.ImageSize*r.cfg.Vision.ImageSize, r.image.batch); err != nil {
		return nil, nil, err
	}
	in, err := r.putImages(flat, n, r.image.batch)
	if err != nil {
		return nil, nil, err
	}
	defer in.Free()
	return r.image.callBlocks(ctx, in, n)
}

// TextBlocks is Texts with the output of every block.
func (r *Runner) TextBlocks(ctx context.Context, tokens []int32, n int) (features []float32, blocks []Block, err error) {
	if err := r.checkTexts(tokens, n); err != nil {
		return nil, nil, err
	}
	in, err := r.putTexts(tokens, n, r.text.batch, r.cfg.Text.ContextLength)
	if err != nil {
		return nil, nil, err
	}
	defer in.Free()
	return r.text.callBlocks(ctx, in, n)
}

// call gives the features of the rows in, padding too.
func (p *program) call(ctx context.Context, in *device.Array) ([]float32, error) {
	out, err := p.features.Call(ctx, append([]*device.Array{in}, p.weights()...)...)
	if err != nil {
		return nil, err
	}
	defer out[0].Free()
	return out[0].Float32s()
}

// callBlocks gives the features and every block's output of the first n rows.
func (p *program) callBlocks(ctx context.Context, in *device.Array, n int) (features []float32, blocks []Block, err error) {
	out, err := p.blocks.Call(ctx, append([]*device.Array{in}, p.weights()...)...)
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
		b.Name = p.captured[i-1]
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
	if err := checkRows("token", len(tokens), n, c, r.text.batch); err != nil {
		return err
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= r.cfg.Text.VocabSize {
			return fault.Inputf("text %d: token %d is not in the model's vocabulary of %d", i/c, t, r.cfg.Text.VocabSize)
		}
	}
	return nil
}

func checkRows(what string, have, n, row, batch int) error {
	if n < 1 || n > batch || have != n*row {
		return fault.Inputf("%d %s values for %d rows of %d; a call takes 1 to %d rows", have, what, n, row, batch)
	}
	return nil
}

// textLengths are the lengths at which the text tower is compiled.
var textLengths = []int{16, 32, 64}

// textLength is how much of the texts the model must see: with causal
// attention, or where padding is not seen, nothing after the end of a text
// reaches its feature.
func (r *Runner) textLength(tokens []int32) int {
	c := r.cfg.Text.ContextLength
	if !r.cfg.Text.AttnMask && !r.cfg.IgnoresPadding() || len(tokens)%c != 0 {
		return c
	}
	longest := 0
	for row := range slices.Chunk(tokens, c) {
		longest = max(longest, r.cfg.EndOfText(row)+1)
	}
	for _, l := range textLengths {
		if longest <= l && l < c {
			return l
		}
	}
	return c
}
