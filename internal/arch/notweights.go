package arch

import "strings"

// notWeights are tensors in state dicts that no model needs, by their last
// words, and why. Those of top stand in the top level or a vision tower only.
var notWeights = []struct {
	words  string
	top    bool
	reason string
}{
	{"rope.freqs_cos", false, ropeTable},
	{"rope.freqs_sin", false, ropeTable},
	{"input_resolution", true, notWeight},
	{"context_length", true, notWeight},
	{"vocab_size", true, notWeight},
	{"position_ids", false, "0, 1, 2, …, not a weight"},
	{"embed_positions.weights", false, "M2M100's sinusoidal positions, recomputed from the configuration"},
	{"attn_mask", false, "causal mask, recomputed"},
	{"num_batches_tracked", false, "a counter of the training, not a weight"},
	{"n_averaged", true, "a counter of the training, not a weight"},
	{"mask_token", true, pretraining},
	{"lm_head.weight", true, pretraining},
	{"lm_head.bias", true, pretraining},
}

const (
	ropeTable   = "RoPE table, recomputed from the configuration"
	notWeight   = "a fact of the configuration, not a weight"
	pretraining = "pretraining head, not part of a CLIP model"
)

// NotWeight says why a tensor of that name in a state dict is no parameter of
// any model; not ok when it may be one. What programs put before all names has
// been taken off.
func NotWeight(name string) (reason string, ok bool) {
	for _, d := range notWeights {
		rest, ok := strings.CutSuffix(name, d.words)
		if ok && (rest == "" || rest == "visual." || !d.top && strings.HasSuffix(rest, ".")) {
			return d.reason, true
		}
	}
	return "", false
}
