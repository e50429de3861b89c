package clip

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// robertaText is transformers' RobertaModel under OpenCLIP's projection: norms
// come after each half of a block.
func (t *tower) robertaText(tokens *Node) *Node {
	c := &t.cfg.Text
	if c.NormKwargs != nil {
		t.eps = c.NormKwargs.Eps
	}
	const p = "text.transformer.embeddings."
	seen, positions := t.seen(tokens)
	embed := func(name string, rows *Node) *Node {
		return to(graph.Gather(t.weight(p+name+".weight"), graph.InsertAxes(rows, -1)), t.dtype)
	}
	first := graph.SliceAxis(t.cast(p+"token_type_embeddings.weight"), 0, graph.AxisRange(0, 1)) // all tokens are of type 0
	x := addVector(embed("word_embeddings", tokens), graph.Squeeze(first, 0))
	x = graph.Add(x, embed("position_embeddings", positions))
	x = t.layerNorm(x, p+"LayerNorm", t.eps)
	x = t.blocks(x, t.firstToken(), func(x *Node, layer int, pick func(*Node) *Node) *Node {
		l := fmt.Sprintf("text.transformer.encoder.layer.%d.", layer)
		q := x
		if pick != nil {
			q = pick(x)
		}
		y := t.dense(t.hfAttention(q, x, l+"attention.self.", [3]string{"query", "key", "value"}, seen), l+"attention.output.dense")
		x = t.layerNorm(t.residual(q, y, layer), l+"attention.output.LayerNorm", t.eps)
		y = t.dense(gelu(t.dense(x, l+"intermediate.dense")), l+"output.dense")
		x = t.layerNorm(t.residual(x, y, layer), l+"output.LayerNorm", t.eps)
		t.capture(l[:len(l)-1], x)
		return x
	})
	x = t.pool(x, seen)
	if t.cfg.TextPools() {
		x = graph.Tanh(t.dense(x, "text.transformer.pooler.dense"))
	}
	return t.projectText(x)
}

// m2m100Text is the encoder of transformers' M2M100Model under OpenCLIP's
// projection.
func (t *tower) m2m100Text(tokens *Node) *Node {
	c := &t.cfg.Text
	const p = "text.transformer."
	seen, positions := t.seen(tokens)
	x := to(graph.Gather(t.weight(p+"embed_tokens.weight"), graph.InsertAxes(tokens, -1)), t.dtype)
	if c.ScaleEmbedding {
		x = graph.MulScalar(x, math.Sqrt(float64(c.Width)))
	}
	table := graph.Const(tokens.Graph(), sinusoids(c.PadToken, tokens.Shape().Dim(1), c.Width))
	x = graph.Add(x, to(graph.Gather(table, graph.InsertAxes(positions, -1)), t.dtype))
	x = t.blocks(x, t.firstToken(), func(x *Node, layer int, pick func(*Node) *Node) *Node {
		l := fmt.Sprintf("%slayers.%d.", p, layer)
		h := t.layerNorm(x, l+"self_attn_layer_norm", t.eps)
		q := h
		if pick != nil {
			q, x = pick(h), pick(x)
		}
		x = t.residual(x, t.dense(t.hfAttention(q, h, l+"self_attn.", [3]string{"q_proj", "k_proj", "v_proj"}, seen), l+"self_attn.out_proj"), layer)
		h = relu(t.dense(t.layerNorm(x, l+"final_layer_norm", t.eps), l+"fc1"))
		x = t.residual(x, t.dense(h, l+"fc2"), layer)
		t.capture(l[:len(l)-1], x)
		return x
	})
	return t.projectText(t.pool(t.layerNorm(x, p+"layer_norm", t.eps), seen))
}

// seen says which tokens [B,N] are not padding (bool), and gives their positions,
// int32: those of the padding are its token's, the others are counted from there.
func (t *tower) seen(tokens *Node) (seen, positions *Node) {
	g, n := tokens.Graph(), tokens.Shape().Dim(1)
	pad := graph.Scalar(g, dtypes.Int32, t.cfg.Text.PadToken)
	seen = graph.NotEqual(tokens, pad)
	// A sum from the left, as a product with a triangle of ones.
	ones := to(seen, dtypes.Float32)
	triangle := to(graph.LowerTriangular(g, n), dtypes.Float32)
	count := dot(ones, triangle).General([]int{1}, nil, []int{1}, nil)
	return seen, graph.Add(to(graph.Mul(count, ones), dtypes.Int32), pad)
}

// hfAttention is attention with weights of its own for query, key and value; q are
// the queries' tokens, x all tokens, of which seen ones are looked at.
func (t *tower) hfAttention(q, x *Node, p string, names [3]string, seen *Node) *Node {
	var qkv [3]*Node
	for i, from := range []*Node{q, x, x} {
		qkv[i] = toHeads(t.dense(from, p+names[i]), t.cfg.Text.Heads)
	}
	return attend(qkv[0], qkv[1], qkv[2], false, graph.InsertAxes(seen, 1, 1))
}

// firstToken picks what the pooler needs of the last block; nil: all.
func (t *tower) firstToken() func(*Node) *Node {
	if t.cfg.Text.Pooler == "mean_pooler" {
		return nil
	}
	return firstRow
}

// pool is OpenCLIP's pooler: the mean of the seen tokens of x [B,N,W], in Float32,
// or the first token, which is all there is.
func (t *tower) pool(x, seen *Node) *Node {
	if t.cfg.Text.Pooler != "mean_pooler" {
		return graph.Squeeze(firstRow(x), 1)
	}
	f := dtypes.Float32
	ones := to(seen, f)
	only := graph.Mul(to(x, f), graph.BroadcastToShape(graph.InsertAxes(ones, -1), shapes.Make(f, x.Shape().Dimensions...)))
	return to(graph.Div(graph.ReduceSum(only, 1), graph.ReduceAndKeep(ones, graph.ReduceSum, -1)), x.DType())
}

// projectText is OpenCLIP's projection of the pooled x [B,W].
func (t *tower) projectText(x *Node) *Node {
	switch t.cfg.Text.Proj {
	case "linear":
		return product(x, t.cast("text.proj.weight"))
	case "mlp":
		return product(gelu(product(x, t.cast("text.proj.0.weight"))), t.cast("text.proj.2.weight"))
	}
	return x
}

// sinusoids are M2M100's positions [pad+1+n, width]: sines, then cosines, and
// nothing for the padding. In Float32 from the first step on, as the original: the
// angles go up to pad+n, where its rounding shows.
func sinusoids(pad, n, width int) [][]float32 {
	half := width / 2
	step := float32(-math.Log(10000) / float64(half-1))
	table := make([][]float32, pad+1+n)
	for i := range table {
		row := make([]float32, width)
		for k := range half {
			if i == pad {
				break
			}
			angle := float64(float32(i) * float32(math.Exp(float64(float32(k)*step))))
			row[k], row[half+k] = float32(math.Sin(angle)), float32(math.Cos(angle))
		}
		table[i] = row
	}
	return table
}
