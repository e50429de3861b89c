package arch

import "strings"

// notWeights lists tensors in state dicts that no model needs, by the last words of
// their names, and why. Those with top are at the top level or in a vision tower only.
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

// NotWeight says why a tensor of that name in a state dict is not a parameter of any
// model; ok is false if it may be one. name must not have a prefix that a program puts
// before all names.
func NotWeight(name string) (reason string, ok bool) {
	for _, d := range notWeights {
		rest, ok := strings.CutSuffix(name, d.words)
		if ok && (rest == "" || rest == "visual." || !d.top && strings.HasSuffix(rest, ".")) {
			return d.reason, true
		}
	}
	return "", false
}
