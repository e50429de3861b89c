package checkpoint

import (
	"slices"
	"strings"
)

// timmCLIPs are OpenCLIP's EVA models, whose tower "visual.trunk" has timm's names.
// fc2 means w3 in a SwiGLU block and fc2 in a plain one, and the biases of query
// and value have other names when the projections are fused, so each combination
// has its table.
var timmCLIPs = []*family{
	timmCLIP(true, true), timmCLIP(true, false), timmCLIP(false, true), timmCLIP(false, false),
}

// timmTowers are the same towers without "visual.trunk."; the plain fused one has
// exactly the names of EVA's own tower.
var timmTowers = []*family{
	timmTower(true, true), timmTower(true, false), timmTower(false, true),
}

func timmCLIP(swiglu, split bool) *family {
	rules, marks := timmRules("visual.trunk.", swiglu, split)
	rules = slices.Concat(rules, scalars, []rule{{eva: "text.*", src: []string{"text.*"}}})
	return &family{name: "timm-eva-clip", has: append(marks, "text.token_embedding.weight"), rules: rules}
}

// timmOther is a CLIP model whose vision tower has timm's names, which EVA's layout
// has without "trunk.". mark is a name that only this kind of tower has. more are
// rules that come first.
func timmOther(name, mark string, more ...rule) *family {
	return &family{name: name, has: []string{"visual.trunk." + mark, "text.token_embedding.weight"}, rules: slices.Concat(scalars, more, []rule{
		{eva: "visual.head.proj.*", src: []string{"visual.head.proj.*"}},
		{eva: "visual.head.mlp.*", src: []string{"visual.head.mlp.*"}},
		{eva: "visual.*", src: []string{"visual.trunk.*"}},
		{eva: "text.*", src: []string{"text.*"}},
	})}
}

// timmFlat is timmOther for OpenCLIP's CLIP class, whose text tower has no prefix.
func timmFlat(name, mark string) *family {
	f := timmOther(name, mark)
	f.has = append([]string{"visual.trunk." + mark}, flatCLIP.has...)
	f.rules = slices.Concat(slices.DeleteFunc(f.rules, func(r rule) bool { return r.eva == "text.*" }),
		slices.DeleteFunc(slices.Clone(flatCLIP.rules), func(r rule) bool { return !strings.HasPrefix(r.eva, "text.") }))
	return f
}

func timmTower(swiglu, split bool) *family {
	rules, marks := timmRules("", swiglu, split)
	return &family{name: "timm-eva-tower", has: append(marks, "cls_token"), rules: rules}
}

func timmRules(prefix string, swiglu, split bool) (rules []rule, marks []string) {
	add := func(eva, timm string) {
		rules = append(rules, rule{eva: "visual." + eva, src: []string{prefix + timm}})
	}
	for _, s := range []string{"cls_token", "pos_embed", "patch_embed.proj.*", "norm.*", "fc_norm.*", "head.*",
		"blocks.#.norm1.*", "blocks.#.norm2.*", "blocks.#.gamma_1", "blocks.#.gamma_2", "blocks.#.attn.proj.*"} {
		add(s, s)
	}
	add("blocks.#.attn.inner_attn_ln.*", "blocks.#.attn.norm.*")
	add("blocks.#.mlp.ffn_ln.*", "blocks.#.mlp.norm.*")
	if split {
		for _, p := range []string{"q", "k", "v"} {
			add("blocks.#.attn."+p+"_proj.weight", "blocks.#.attn."+p+"_proj.weight")
		}
		add("blocks.#.attn.q_bias", "blocks.#.attn.q_proj.bias")
		add("blocks.#.attn.v_bias", "blocks.#.attn.v_proj.bias")
		marks = append(marks, prefix+"blocks.0.attn.q_proj.bias")
	} else {
		for _, s := range []string{"qkv.weight", "q_bias", "v_bias"} {
			add("blocks.#.attn."+s, "blocks.#.attn."+s)
		}
		marks = append(marks, prefix+"blocks.0.attn.qkv.weight")
	}
	if swiglu {
		add("blocks.#.mlp.w1.*", "blocks.#.mlp.fc1_g.*")
		add("blocks.#.mlp.w2.*", "blocks.#.mlp.fc1_x.*")
		add("blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*")
		marks = append(marks, prefix+"blocks.0.mlp.fc1_g.weight")
	} else {
		add("blocks.#.mlp.fc1.*", "blocks.#.mlp.fc1.*")
		add("blocks.#.mlp.fc2.*", "blocks.#.mlp.fc2.*")
		marks = append(marks, prefix+"blocks.0.mlp.fc1.weight")
	}
	return rules, marks
}
