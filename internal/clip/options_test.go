package clip

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/devicetest"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/weights"
)

// tinyCase is a loaded model with its inputs on the Go backend.
type tinyCase struct {
	*testing.T
	d      *device.Device
	set    *weights.Set
	dir    string
	images []float32
	tokens []int32
}

func openTiny(t *testing.T, backend, name, dtype string) *tinyCase {
	t.Helper()
	d := devicetest.Open(t, device.Options{Backend: backend, CompileCache: "off"})
	t.Cleanup(func() { d.Close() })
	dir := models + name
	in := openFile(t, dir+"/forward.safetensors")
	return &tinyCase{t, d, loadModel(t, d, dir, dtype), dir, floats(t, in, "images"), readTokens(t, in, "tokens")}
}

// run runs f over the images, an int32 input and the visual weights.
func (c *tinyCase) run(idx []int32, k int, f func(w Weights, images, idx *Node) *Node) []float32 {
	c.Helper()
	names, values := c.set.Tower(arch.VisualTower)
	s := c.set.Config.Vision.ImageSize
	in := []*device.Array{
		must[*device.Array](c.T)(c.d.PutF32(device.Replicated, c.images, 3, 3, s, s)),
		must[*device.Array](c.T)(c.d.PutI32(device.Replicated, idx, 3, k)),
	}
	p := c.d.Program("test", func(n []*Node) []*Node {
		return []*Node{f(weights.Bind(names, n[2:]), n[0], n[1])}
	})
	out := must[[]*device.Array](c.T)(p.Call(context.Background(), append(in, values()...)...))
	return must[[]float32](c.T)(out[0].Float32s())
}

// Patches may come in any order, as long as position embedding and RoPE go
// with them; leaving one out changes the result.
func TestKeepPatches(t *testing.T) {
	for _, name := range []string{"eva02-b-tiny", "eva-switches-a-tiny", "openai-vit-tiny"} {
		c := openTiny(t, "go", name, "fp32")
		n := c.set.Config.Tokens() - 1
		var idx []int32
		for i := range 3 { // each image in another order
			order := make([]int32, n)
			for k := range order {
				order[k] = int32((k*5 + i) % n)
			}
			if n%5 == 0 {
				t.Fatal("not a permutation")
			}
			idx = append(idx, order...)
		}
		forward := func(w Weights, images, keep *Node) *Node {
			return Image(c.set.Config, w, images, Options{KeepPatches: keep})
		}
		all := c.run(idx, n, func(w Weights, images, _ *Node) *Node { return Image(c.set.Config, w, images, Options{}) })
		if e := diff(t, c.run(idx, n, forward), all); e > 1e-5 {
			t.Errorf("%s: another order changes the features by %.2g", name, e)
		}
		var fewer []int32
		for i := range 3 {
			fewer = append(fewer, idx[i*n:i*n+n-1]...)
		}
		if e := diff(t, c.run(fewer, n-1, forward), all); e < 1e-3 {
			t.Errorf("%s: one patch less changes the features by %.2g only", name, e)
		}
	}
}

// Capture changes work, not values or gradients.
func TestCaptureGradient(t *testing.T) {
	c := openTiny(t, "go", "eva02-b-tiny", "fp32")
	gradient := func(opt Options) []float32 {
		return c.run(make([]int32, 3), 1, func(w Weights, images, _ *Node) *Node {
			y := Image(c.set.Config, w, images, opt)
			loss := graph.ReduceAllSum(graph.Square(Normalize(y)))
			loss = graph.Add(loss, graph.ReduceAllSum(graph.Mul(y, graph.Sigmoid(y))))
			return graph.Gradient(loss, w["visual.blocks.0.attn.q_proj.weight"])[0]
		})
	}
	plain := gradient(Options{})
	if e := diff(t, gradient(Options{Capture: func(string, *Node) {}}), plain); e > 1e-5 {
		t.Errorf("computing all tokens of the last block changes the gradient by %.2g", e)
	}
	norm := 0.0
	for _, g := range plain {
		norm += float64(g) * float64(g)
	}
	if norm == 0 {
		t.Error("the gradient is zero")
	}
}

// DropPath sees both branches of every block; dropping them all leaves the
// class token's embedding alone.
func TestDropPath(t *testing.T) {
	c := openTiny(t, "go", "eva01-tiny", "fp32")
	var layers []int
	drop := func(x *Node, tower arch.Tower, layer, branch int) *Node {
		if tower != arch.VisualTower {
			t.Errorf("tower %v", tower)
		}
		layers = append(layers, layer)
		return graph.ZerosLike(x)
	}
	out := c.run(make([]int32, 3), 1, func(w Weights, images, _ *Node) *Node {
		return Image(c.set.Config, w, images, Options{DropPath: drop})
	})
	if !slices.Equal(layers, []int{0, 0, 1, 1, 2, 2}) {
		t.Error(layers)
	}
	e := c.set.Config.EmbedDim
	if d := diff(t, out[:e], out[e:2*e]); d != 0 {
		t.Errorf("two images differ by %.2g without any block", d)
	}
}

// A batch of short texts is computed at a shorter length: same features.
func TestTextCut(t *testing.T) {
	for _, name := range []string{"eva02-b-tiny", "eva-switches-a-tiny"} {
		c := openTiny(t, "go", name, "fp32")
		r := must[*Runner](t)(NewRunner(c.d, c.set, RunnerOptions{Images: 2, Texts: 2}))
		n, e := c.set.Config.Text.ContextLength, c.set.Config.EmbedDim
		empty := c.tokens[3*n : 4*n]
		wantLength := 16
		if !c.set.Config.Text.AttnMask {
			wantLength = n // every token sees every other
		}
		if l := r.textLength(empty); l != wantLength {
			t.Errorf("%s: length %d, want %d", name, l, wantLength)
		}
		for _, n := range []int{16, 17} { // ends in the last place that a length has, and after it
			row := make([]int32, n)
			row[n-1] = 9
			row = append(row, make([]int32, c.set.Config.Text.ContextLength-n)...)
			if l := r.textLength(row); c.set.Config.Text.AttnMask && l != map[int]int{16: 16, 17: 32}[n] {
				t.Errorf("%s: a text of %d tokens is cut at %d", name, n, l)
			}
		}
		got := must[[]float32](t)(r.Texts(context.Background(), empty, 1))
		want := floats(t, openFile(t, c.dir+"/forward.safetensors"), "expected.text_features")[3*e : 4*e]
		if d := diff(t, got, want); d > tolerance {
			t.Errorf("%s: features differ by %.2g", name, d)
		}
	}
}

// Half precision is close, and it is half precision.
func TestHalfPrecision(t *testing.T) {
	for _, tt := range []struct {
		name  string
		dtype dtypes.DType
		most  float64
	}{{"eva02-b-tiny", dtypes.BFloat16, 0.1}, {"eva02-b-tiny", dtypes.Float16, 0.02}, {"openai-rn-tiny", dtypes.BFloat16, 0.1}} {
		c := openTiny(t, "xla", tt.name, "fp32")
		got := c.run(make([]int32, 3), 1, func(w Weights, images, _ *Node) *Node {
			return Image(c.set.Config, w, images, Options{DType: tt.dtype})
		})
		want := floats(t, openFile(t, c.dir+"/forward.safetensors"), "expected.image_features")
		if d := diff(t, got, want); d > tt.most || d < 1e-4 {
			t.Errorf("%s, %s: features differ by %.2g", tt.name, tt.dtype, d)
		}
	}
}

// Half precision has forms of its own for norms, positions and rotations:
// their gradients are those of float32, too.
func TestHalfGradient(t *testing.T) {
	names := []string{"visual.cls_token", "visual.pos_embed", "visual.patch_embed.proj.weight",
		"visual.blocks.0.attn.k_proj.weight", "visual.blocks.0.attn.q_bias", "visual.blocks.0.norm1.weight", "visual.blocks.0.mlp.ffn_ln.bias",
		"visual.blocks.0.mlp.ffn_ln.weight", "visual.blocks.0.mlp.w2.bias", "visual.blocks.0.mlp.w3.weight"}
	for _, tt := range []struct {
		name   string
		choose bool
	}{{"eva02-b-tiny", false}, {"eva02-l336-tiny", true}} { // hidden widths of 128 and 170
		c := openTiny(t, "xla", tt.name, "fp32")
		n := c.set.Config.Tokens() - 1
		keep := make([]int32, 3*(n-2))
		for i := range keep {
			keep[i] = int32(i % (n - 2) * 5 % n)
		}
		gradients := func(dtype dtypes.DType) []float32 {
			return c.run(keep, n-2, func(w Weights, images, keep *Node) *Node {
				opt := Options{DType: dtype}
				if tt.choose {
					opt.KeepPatches = keep
				}
				y := Normalize(Image(c.set.Config, w, images, opt))
				loss := graph.ReduceAllSum(graph.Mul(y, graph.Sin(graph.MulScalar(graph.IotaFull(y.Graph(), y.Shape()), 3))))
				var of, flat []*Node
				for _, name := range names {
					of = append(of, w[name])
				}
				for _, g := range graph.Gradient(loss, of...) {
					flat = append(flat, graph.L2Normalize(graph.Reshape(g, -1), 0))
				}
				return graph.Concatenate(flat, 0)
			})
		}
		want, got := gradients(dtypes.Float32), gradients(dtypes.BFloat16)
		at := 0
		for _, name := range names {
			size := 1
			for _, p := range c.set.Config.Params() {
				if p.Name == name {
					for _, d := range p.Shape {
						size *= int(d)
					}
				}
			}
			dot := 0.0
			for i := at; i < at+size; i++ {
				dot += float64(want[i]) * float64(got[i])
			}
			if at += size; !(dot > 0.99) {
				t.Errorf("%s: the gradient of %s has cosine %.4f with float32's", tt.name, name, dot)
			}
		}
	}
}

// Weights stored in half precision are used as they are stored, in whatever
// dtype the device computes.
func TestHalfRunner(t *testing.T) {
	c := openTiny(t, "xla", "eva02-b-tiny", "bf16")
	r := must[*Runner](t)(NewRunner(c.d, c.set, RunnerOptions{Images: 5, Texts: 5, DType: "bf16"}))
	in := openFile(t, c.dir+"/forward.safetensors")
	txt := must[[]float32](t)(r.Texts(context.Background(), c.tokens, 5))
	if d := diff(t, txt, floats(t, in, "expected.text_features")); d > 0.1 || d < 1e-4 {
		t.Errorf("text features differ by %.2g", d)
	}
}

// A batch that does not fit the cache is computed in parts: same features.
func TestParts(t *testing.T) {
	c := openTiny(t, "xla", "eva02-b-tiny", "fp32")
	r := must[*Runner](t)(NewRunner(c.d, c.set, RunnerOptions{Images: 3, Texts: 4}))
	row := r.imageBytes()
	if r.cache != cacheBytes {
		t.Errorf("%d bytes on a CPU, not %d", r.cache, cacheBytes)
	}
	for name, want := range map[string]int{"EVA02-CLIP-B-16": 197 * 2048 * 4, "RN50": 56 * 56 * 256 * 4} {
		cfg, _ := arch.Named(name)
		if got := (&Runner{cfg: cfg}).imageBytes(); got != want {
			t.Errorf("%s: an image's widest activations take %d bytes, not %d", name, got, want)
		}
	}
	r.cache = 13 * row
	for batch, part := range map[int]int{1: 1, 8: 8, 13: 13, 14: 7, 32: 11, 64: 13, 40: 10, 27: 9, 61: 13} {
		if got := r.part(batch, row); got != part {
			t.Errorf("batch %d in parts of %d, want %d", batch, got, part)
		}
	}
	r.cache = cacheBytes
	if got := r.part(32, 197*2048*4); got != 4 { // EVA02-CLIP-B-16; seven would compute 35 rows
		t.Errorf("batch 32 in parts of %d, want 4", got)
	}
	r.cache = row // less than a text needs
	if r.part(3, row) != 1 || r.part(3, 2*row) != 1 {
		t.Error("one row does not fit and is not alone")
	}
	in := openFile(t, c.dir+"/forward.safetensors")
	ctx := context.Background()
	runs := func(want int64, f func()) {
		t.Helper()
		before := c.d.Traffic().Runs
		f()
		if n := c.d.Traffic().Runs - before; n != want {
			t.Errorf("%d parts, not %d", n, want)
		}
	}
	r.cache = 2 * row // parts of two, the second padded; what is behind the images stays
	held := slices.Concat(c.images, []float32{7}, c.images)
	var got []float32
	runs(2, func() { got = must[[]float32](t)(r.Images(ctx, held[:len(c.images)], 3)) })
	if held[len(c.images)] != 7 {
		t.Error("the caller's memory was written")
	}
	if d := diff(t, got, floats(t, in, "expected.image_features")); d > tolerance {
		t.Errorf("image features differ by %.2g", d)
	}
	r.text.batch = 5
	length := r.textLength(c.tokens)
	r.cache = 2 * length * c.set.Config.TextHidden() * 4
	runs(3, func() { got = must[[]float32](t)(r.Texts(ctx, c.tokens, 5)) })
	if d := diff(t, got, floats(t, in, "expected.text_features")); d > tolerance {
		t.Errorf("text features differ by %.2g", d)
	}
}

// A runner that fits its calls pads to the next power of two of each device's
// rows, never beyond a part: same features.
func TestFit(t *testing.T) {
	c := openTiny(t, "xla", "eva02-b-tiny", "fp32")
	r := must[*Runner](t)(NewRunner(c.d, c.set, RunnerOptions{Images: 6, Texts: 64, Fit: true}))
	in := openFile(t, c.dir+"/forward.safetensors")
	up := func(f func()) int64 {
		before := c.d.Traffic().ToDevice
		f()
		return c.d.Traffic().ToDevice - before
	}
	row := len(c.images) / 3
	for n, padded := range map[int]int{1: 1, 2: 2, 3: 4} {
		var got []float32
		bytes := up(func() { got = must[[]float32](t)(r.Images(context.Background(), c.images[:n*row], n)) })
		if want := int64(4 * padded * row); bytes != want {
			t.Errorf("%d images: %d bytes go up, not %d", n, bytes, want)
		}
		if d := diff(t, got, floats(t, in, "expected.image_features")[:len(got)]); d > tolerance {
			t.Errorf("%d image features differ by %.2g", n, d)
		}
	}
	length := r.textLength(c.tokens)
	var got []float32
	if bytes := up(func() { got = must[[]float32](t)(r.Texts(context.Background(), c.tokens, 5)) }); bytes != int64(4*8*length) {
		t.Errorf("5 texts of %d tokens: %d bytes go up", length, bytes)
	}
	if d := diff(t, got, floats(t, in, "expected.text_features")); d > tolerance {
		t.Errorf("text features differ by %.2g", d)
	}
	for n, want := range map[int]int{1: 1, 5: 8, 8: 8, 9: 16} {
		if got := r.fitted(n); got != want {
			t.Errorf("%d rows fit %d, not %d", n, got, want)
		}
	}
}

// Borrowed weights are read where they lie at each call, and stay alive.
func TestBorrowed(t *testing.T) {
	c := openTiny(t, "go", "openai-rn-tiny", "fp32") // with buffers
	now := slices.Clone(c.set.Values())
	lent := weights.Borrow(c.set.Config, func() []*device.Array { return now })
	r := must[*Runner](t)(NewRunner(c.d, lent, RunnerOptions{Images: 3, Texts: 5}))
	in := openFile(t, c.dir+"/forward.safetensors")
	ctx := context.Background()
	want := floats(t, in, "expected.image_features")
	if d := diff(t, must[[]float32](t)(r.Images(ctx, c.images, 3)), want); d > tolerance {
		t.Errorf("image features differ by %.2g", d)
	}
	before := now
	now = slices.Clone(now)
	for i, name := range lent.Names() { // a step: everything is replaced
		flat := must[[]float32](t)(before[i].Float32s())
		for k := range flat {
			if strings.HasPrefix(name, "visual.attnpool.c_proj") {
				flat[k] *= -1
			}
		}
		now[i] = must[*device.Array](t)(c.d.PutF32(device.Replicated, flat, before[i].Dims()...))
	}
	for i := range want {
		want[i] *= -1
	}
	if d := diff(t, must[[]float32](t)(r.Images(ctx, c.images, 3)), want); d > tolerance {
		t.Errorf("features of the replaced weights differ by %.2g", d)
	}
	if d := diff(t, must[[]float32](t)(r.Texts(ctx, c.tokens, 5)), floats(t, in, "expected.text_features")); d > tolerance {
		t.Errorf("text features differ by %.2g", d)
	}
	lent.Free()
	if _, err := now[0].Float32s(); err != nil {
		t.Errorf("freed with the borrower: %v", err)
	}
}

// In half precision a hidden width that is no multiple of 64 is lengthened by
// zeros, which change nothing: not the norm behind it either.
func TestWide(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", CompileCache: "off"})
	defer d.Close()
	const rows, in = 3, 8
	rng := rand.New(rand.NewPCG(1, 2))
	for width, wide := range map[int]int{170: 192, 128: 128, 96: 128} {
		values := make([]float32, (rows+width)*in+2*width)
		for i := range values {
			values[i] = float32(rng.NormFloat64()) + 0.5
		}
		for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float32} {
			p := d.Program("test", func(n []*Node) []*Node {
				take := func(from, rows, cols int) *Node {
					return graph.Reshape(graph.Slice(n[0], graph.AxisRange(from, from+rows*cols)), rows, cols)
				}
				x := to(take(0, rows, in), dtype)
				v := take((rows+width)*in, 2, width)
				row := func(i int) *Node { return graph.Squeeze(graph.Slice(v, graph.AxisElem(i)), 0) }
				tw := &tower{dtype: dtype, w: Weights{"a.weight": take(rows*in, width, in), "a.bias": row(0)}}
				got, want := tw.denseWide(x, "a"), tw.dense(x, "a")
				out := []*Node{got, want, layerNorm(got, row(0), row(1), 1e-6), layerNorm(want, row(0), row(1), 1e-6)}
				for i := range out {
					out[i] = to(out[i], dtypes.Float32)
				}
				return out
			})
			put := must[*device.Array](t)(d.PutF32(device.Replicated, values, len(values)))
			out := must[[]*device.Array](t)(p.Call(context.Background(), put))
			long := wide
			if dtype == dtypes.Float32 {
				long = width
			}
			if n := out[0].Dims()[1]; n != long {
				t.Fatalf("%s: a width of %d became %d, not %d", dtype, width, n, long)
			}
			for i, what := range []string{"product", "norm"} {
				got, want := must[[]float32](t)(out[2*i].Float32s()), must[[]float32](t)(out[2*i+1].Float32s())
				for r := range rows {
					if e := diff(t, got[r*long:r*long+width], want[r*width:(r+1)*width]); e > 0.02 {
						t.Errorf("%s, width %d: the %s differs by %.2g", dtype, width, what, e)
					}
					if e := diff(t, got[r*long+width:(r+1)*long], make([]float32, long-width)); e > 0 {
						t.Errorf("%s, width %d: behind the %s there is %.2g", dtype, width, what, e)
					}
				}
			}
		}
	}
}

func TestRunnerRefuses(t *testing.T) {
	c := openTiny(t, "go", "eva02-b-tiny", "fp32")
	r := must[*Runner](t)(NewRunner(c.d, c.set, RunnerOptions{Images: 2, Texts: 2}))
	ctx := context.Background()
	if _, err := r.Images(ctx, c.images, 3); err == nil {
		t.Error("more rows than the batch")
	}
	if _, err := r.Images(ctx, c.images[1:], 2); err == nil {
		t.Error("values missing")
	}
	bad := slices.Clone(c.tokens[:c.set.Config.Text.ContextLength])
	bad[1] = int32(c.set.Config.Text.VocabSize)
	if _, err := r.Texts(ctx, bad, 1); err == nil {
		t.Error("token outside the vocabulary")
	}
	if _, err := NewRunner(c.d, c.set, RunnerOptions{}); err == nil {
		t.Error("no batch")
	}
}

// A weight that is not there is an error of the call, by name.
func TestMissingWeight(t *testing.T) {
	c := openTiny(t, "go", "eva02-b-tiny", "fp32")
	p := c.d.Program("test", func(n []*Node) []*Node { return []*Node{Image(c.set.Config, Weights{}, n[0], Options{})} })
	s := c.set.Config.Vision.ImageSize
	in := must[*device.Array](t)(c.d.PutF32(device.Replicated, c.images, 3, 3, s, s))
	if _, err := p.Call(context.Background(), in); err == nil {
		t.Error("no error")
	}
}

// Dot products of many small values of one sign lose their tail in a half
// precision accumulator.
func TestAccumulator(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", CompileCache: "off"})
	defer d.Close()
	const n = 1 << 14
	ones := make([]float32, n)
	for i := range ones {
		ones[i] = 1
	}
	for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float16} {
		p := d.Program("test", func(in []*Node) []*Node {
			a := to(in[0], dtype)
			return []*Node{to(product(a, a), dtypes.Float32)}
		})
		in := must[*device.Array](t)(d.PutF32(device.Replicated, ones, 1, n))
		out := must[[]*device.Array](t)(p.Call(context.Background(), in))
		if v := must[[]float32](t)(out[0].Float32s())[0]; math.Abs(float64(v)-n) > n/256 {
			t.Errorf("%s: %d ones add up to %v", dtype, n, v)
		}
	}
}

// The gradient of what all rows share is a sum over them, in Float32.
func TestHalfSums(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", CompileCache: "off"})
	defer d.Close()
	const rows, width = 1 << 14, 4
	values := make([]float32, rows*width)
	for i := range values {
		values[i] = 1 + float32(i%7)/128
	}
	for name, f := range map[string]func(tw *tower, x, v *Node) *Node{
		"addVector":   func(_ *tower, x, v *Node) *Node { return addVector(x, v) },
		"scaleVector": func(_ *tower, x, v *Node) *Node { return scaleVector(graph.OnesLike(x), v) },
		"assemble": func(tw *tower, x, v *Node) *Node {
			x = graph.Reshape(x, -1, 1, width)
			return firstRow(tw.assemble(x, v, graph.Zeros(v.Graph(), shapeF32(2, width))))
		},
		"addPositions": func(_ *tower, x, v *Node) *Node {
			return addPositions(graph.Reshape(x, -1, 1, width), graph.Reshape(to(v, x.DType()), 1, 1, width), nil)
		},
		"classFirst": func(tw *tower, x, v *Node) *Node {
			tw.w = Weights{"visual.cls_token": v}
			return firstRow(tw.classFirst(graph.Reshape(x, -1, 1, width)))
		},
	} {
		p := d.Program("test", func(in []*Node) []*Node {
			x := to(in[0], dtypes.BFloat16)
			y := f(&tower{dtype: x.DType()}, x, in[1])
			sum := func(x *Node) *Node { return graph.ReduceAllSum(to(x, dtypes.Float32)) }
			loss := sum(graph.Mul(graph.Reshape(y, x.Shape().Dimensions...), x))
			return []*Node{graph.ReduceAllSum(graph.Gradient(loss, in[1])[0]), sum(x)}
		})
		x := must[*device.Array](t)(d.PutF32(device.Replicated, values, rows, width))
		v := must[*device.Array](t)(d.PutF32(device.Replicated, make([]float32, width), width))
		out := must[[]*device.Array](t)(p.Call(context.Background(), x, v))
		got, want := must[[]float32](t)(out[0].Float32s())[0], must[[]float32](t)(out[1].Float32s())[0]
		if math.Abs(float64(got/want)-1) > 1.0/256 {
			t.Errorf("%s: the gradient adds up to %v, not %v", name, got, want)
		}
	}
}

// A ResNet's block in bfloat16, as the compiler fuses it: two activations of biased
// values, then a pool.
func TestHalfRelu(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", CompileCache: "off"})
	defer d.Close()
	const width = 128
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, 8*16*16*width+width)
	for i := range values {
		values[i] = float32(rng.NormFloat64()) / 8
	}
	var results [2][]float32
	for i, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		p := d.Program("test", func(in []*Node) []*Node {
			y := to(graph.Reshape(graph.Slice(in[0], graph.AxisRange(width)), 8, 16, 16, width), dtype)
			for range 2 {
				y = relu(addVector(y, graph.Slice(in[0], graph.AxisRange(0, width))))
			}
			return []*Node{to(averagePool(y, 2), dtypes.Float32)}
		})
		in := must[*device.Array](t)(d.PutF32(device.Replicated, values, len(values)))
		out := must[[]*device.Array](t)(p.Call(context.Background(), in))
		results[i] = must[[]float32](t)(out[0].Float32s())
	}
	if e := diff(t, results[1], results[0]); !(e < 0.02) {
		t.Errorf("the pools differ by %.2g", e)
	}
}

// Two devices share a batch; the features are the same.
func TestTwoDevices(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", DeviceCount: 2, CompileCache: "off"})
	defer d.Close()
	dir := models + "openai-vit-tiny"
	in := openFile(t, dir+"/forward.safetensors")
	r := must[*Runner](t)(NewRunner(d, loadModel(t, d, dir, "fp32"), RunnerOptions{Images: 3, Texts: 4}))
	if r.image.batch != 4 {
		t.Errorf("batch %d, want 4", r.image.batch)
	}
	// In parts of one row for each device.
	r.cache = r.imageBytes()
	if n := r.part(r.image.batch, r.imageBytes()); n != 2 {
		t.Errorf("parts of %d rows, not 2", n)
	}
	img := must[[]float32](t)(r.Images(context.Background(), floats(t, in, "images"), 3))
	if e := diff(t, img, floats(t, in, "expected.image_features")); e > tolerance {
		t.Errorf("image features differ by %.2g", e)
	}
	r.cache = 3 * r.imageBytes() / 2
	if n := r.part(r.image.batch, r.imageBytes()); n != 2 {
		t.Errorf("parts of %d rows, not 2", n)
	}
	r.cache = 2 * r.imageBytes() // of each device
	if n := r.part(r.image.batch, r.imageBytes()); n != 4 {
		t.Errorf("parts of %d rows, not 4", n)
	}
	if a, b := r.fitted(1), r.fitted(5); a != 2 || b != 8 {
		t.Errorf("1 and 5 rows fit %d and %d on two devices, not 2 and 8", a, b)
	}
	txt := must[[]float32](t)(r.Texts(context.Background(), readTokens(t, in, "tokens")[:4*77], 4))
	if e := diff(t, txt, floats(t, in, "expected.text_features")[:4*32]); e > tolerance {
		t.Errorf("text features differ by %.2g", e)
	}
}

// BatchNorm of a map far from zero: its scale and shift cancel, and are not rounded.
func TestHalfBatchNorm(t *testing.T) {
	d := devicetest.Open(t, device.Options{Backend: "xla", CompileCache: "off"})
	defer d.Close()
	const width, mean = 64, 16
	rng := rand.New(rand.NewPCG(3, 4))
	values := make([]float32, 100*width)
	for i := range values {
		values[i] = tensorfile.BF16toF32(tensorfile.F32toBF16(mean + float32(rng.NormFloat64())))
	}
	p := d.Program("test", func(in []*Node) []*Node {
		x := to(graph.Reshape(in[0], 1, 10, 10, width), dtypes.BFloat16)
		fill := func(v float64) *Node { return graph.BroadcastToDims(graph.Const(x.Graph(), float32(v)), width) }
		tw := &tower{dtype: dtypes.BFloat16, w: map[string]*Node{
			"n.weight": fill(1.01), "n.bias": fill(0.1), "n.running_mean": fill(mean), "n.running_var": fill(1.03),
		}}
		return []*Node{to(tw.batchNorm(x, "n"), dtypes.Float32)}
	})
	in := must[*device.Array](t)(d.PutF32(device.Replicated, values, len(values)))
	out := must[[]*device.Array](t)(p.Call(context.Background(), in))
	worst := 0.0
	for i, y := range must[[]float32](t)(out[0].Float32s()) {
		want := (float64(values[i])-mean)*1.01/math.Sqrt(1.03+1e-5) + 0.1
		worst = max(worst, math.Abs(float64(y)-want)/(1+math.Abs(want)))
	}
	if worst > 1.0/256 {
		t.Errorf("%.2g off, more than one rounding", worst)
	}
}
