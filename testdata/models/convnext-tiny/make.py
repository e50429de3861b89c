"""convnext-tiny, vitamin-tiny, fastvit-tiny, …: OpenCLIP's models with shrunk towers of timm and random
values, computed by open_clip_torch 3.3 and timm.

    python make.py [NAME…]

config.json says the same as the arguments here in evatool's own words.
"""
import json
import os
import sys

import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vitamin import VitCfg, VitConvCfg, _create_vitamin

HERE = os.path.dirname(os.path.abspath(__file__))
create = timm.create_model


def build(cfg, tower, seed):
    """OpenCLIP's model of cfg, whose timm tower is tower(**kwargs)."""
    timm.create_model = lambda name, **kw: tower(**{k: v for k, v in kw.items() if v is not None})
    torch.manual_seed(seed)
    try:
        cls = open_clip.coca_model.CoCa if "multimodal_cfg" in cfg else open_clip.model.CustomTextCLIP
        model = cls(**cfg).eval()
    finally:
        timm.create_model = create
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.add_(0.05 * torch.randn_like(p))
            if "gamma" in n:
                p.copy_(torch.randn_like(p))
            elif p.ndim > 1:
                p.mul_(2)
        for n, b in model.named_buffers():
            if n.endswith("running_var"):
                b.uniform_(0.5, 1.5)
            elif n.endswith("running_mean"):
                b.normal_(0, 0.2)
        for n, p in model.named_parameters():
            if n == "visual.trunk.head.fc.weight":
                p.mul_(0.1 if p.shape[1] < 128 else 0.01)
        model.logit_scale.fill_(3)
    return model


def inputs(size, t, seed):
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 3, size, size, generator=g)
    tokens = torch.zeros(5, t["context_length"], dtype=torch.long)
    for i in range(5):
        n = 2 + 3 * i
        tokens[i, :n] = torch.randint(1, t["vocab_size"] - 1, (n,), generator=g)
        tokens[i, n - 1] = t["vocab_size"] - 1
    return images, tokens


def write(name, vision, timm_cfg, tower, seed, text=None, embed=24, quiet=()):
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        return
    own = tower is None  # OpenCLIP's own tower: its words are evatool's
    text = {"context_length": 20, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2, **(text or {})}
    size = vision["image_size"]
    words = vision if own else {"image_size": size, "timm_model_name": name, **timm_cfg}
    model = build({"embed_dim": embed, "vision_cfg": words, "text_cfg": text, **(timm_cfg if own else {})}, tower, seed)
    with torch.no_grad():
        for k, p in model.named_parameters():
            if k.startswith(tuple(quiet)):  # of so little variance that the epsilon of the norm behind shows
                p.mul_(0.0003)
    images, tokens = inputs(size, text, seed)
    with torch.no_grad():
        out = {
            "images": images, "tokens": tokens,
            "expected.image_features": model.encode_image(images, normalize=False), "expected.text_features": model.encode_text(tokens, normalize=False),
            "expected.logit_scale_exp": model.logit_scale.exp(),
        }
        for side in ("image", "text"):
            out[f"expected.{side}_features_norm"] = F.normalize(out[f"expected.{side}_features"], dim=-1)
        out["expected.logits_per_image"] = out["expected.logit_scale_exp"] * out["expected.image_features_norm"] @ out["expected.text_features_norm"].T
    dir = os.path.join(HERE, "..", name)
    os.makedirs(dir, exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dir, "forward.safetensors"))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, os.path.join(dir, "model.safetensors"))
    with open(os.path.join(dir, "config.json"), "w") as f:
        json.dump({"embed_dim": embed, "vision_cfg": vision, "text_cfg": text}, f, indent=1)
        f.write("\n")
    print(name, float(out["expected.image_features"].abs().max()), float(out["expected.image_features"].std(0).mean()))


def vitamin(**kw):
    cfg = VitCfg(embed_dim=(8, 16, 32), depths=(2, 4, 1), stem_width=8, conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6), head_type="1d")
    from timm.models.vitamin import GeGluMlp
    kw.pop("pretrained", None)
    return _create_vitamin("vitamin_small_224", img_size=64, embed_dim=32, depth=2, num_heads=2, mlp_layer=GeGluMlp, mlp_ratio=2.,
                           class_token=False, global_pool="avg", embed_cfg=cfg, **{**extra, **kw})


def conv_stem(**kw):
    from timm.models.vision_transformer_hybrid import ConvStem, _create_vision_transformer_hybrid
    backbone = ConvStem(channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=torch.nn.GELU)
    kw.pop("pretrained", None)
    return _create_vision_transformer_hybrid("vit_base_mci_224", backbone=backbone, embed_args=dict(proj=False), img_size=32,
                                             embed_dim=32, depth=2, num_heads=2, no_embed_class=True, **kw)


extra = {}


def timm_tower(name, **own):
    return lambda **kw: create(name, **{**own, **kw})


LINEAR = {"timm_pool": "", "timm_proj": "linear"}
if __name__ == "__main__":
    conv = {"image_size": 70, "tower": "convnext", "layers": [1, 1, 2, 1], "width": 8, "proj": "linear"}
    dims = {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)}
    write("convnext-tiny", conv, LINEAR, timm_tower("convnext_base", **dims), 1)
    write("convnext-mlp-tiny", {**conv, "image_size": 64, "proj": "mlp", "norm_eps": 1e-5}, {"timm_pool": "", "timm_proj": "mlp"},
          timm_tower("convnext_xxlarge", norm_eps=1e-5, **dims), 2)
    vit = {"image_size": 64, "tower": "vitamin", "layers": 2, "width": 32, "head_width": 16, "mlp_ratio": 2, "stem_width": 8, "proj": "linear"}
    write("vitamin-tiny", vit, LINEAR, vitamin, 3)
    extra = {"pos_embed": "none"}
    write("vitamin-xl-tiny", {**vit, "no_pos_embed": True}, LINEAR, vitamin, 4)
    vit = {"layers": 2, "width": 32, "head_width": 16}
    pe = {"image_size": 32, "tower": "pe", **vit, "patch_size": 8}
    small = {"patch_size": 8, "img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    write("pe-tiny", pe, {"timm_pool": "map", "timm_proj": None}, timm_tower("vit_pe_core_tiny_patch16_384", **small, ref_feat_shape=(4, 4)), 7)
    write("pe-g-tiny", {**pe, "mlp_ratio": 3, "no_class_token": True}, {"timm_pool": "map", "timm_proj": None},
          timm_tower("vit_pe_core_gigantic_patch14_448", **small, ref_feat_shape=(4, 4), mlp_ratio=3), 8)
    write("mobileclip-b-tiny", {"image_size": 32, "tower": "mobileclip", **vit, "stem_width": 8}, {"timm_pool": "token", "timm_proj": None}, conv_stem, 9)
    write("mobileclip-l-tiny", {"image_size": 32, "tower": "mobileclip", **vit, "patch_size": 8}, {"timm_pool": "token", "timm_proj": None},
          timm_tower("vit_large_patch14_clip_224", **small), 10)
    coca = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16, "attentional_pool": True, "attn_pooler_heads": 4,
            "attn_pooler_queries": 5, "output_tokens": True}
    decoder = {"multimodal_cfg": {"context_length": 20, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}}
    write("coca-tiny", coca, decoder, None, 11, {"embed_cls": True, "output_tokens": True})
    clipa = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    write("clipa-tiny", clipa, {}, None, 12, {"pool_type": "last", "no_causal_mask": True})
    fast = {"tower": "fastvit", "head_width": 32}
    head, text = {"timm_pool": "avg", "timm_proj": None}, {"no_causal_mask": True}
    write("fastvit-tiny", {"image_size": 64, **fast, "layers": [1, 1, 2, 1], "width": 8, "mlp_ratio": 3}, head,
          timm_tower("fastvit_mci0", layers=(1, 1, 2, 1), embed_dims=(8, 16, 32, 64)), 5, text)
    write("fastvit-s3-tiny", {"image_size": 100, **fast, "layers": [1, 1, 1, 1, 1], "width": 4, "mlp_ratio": 4}, head,
          timm_tower("fastvit_mci3", layers=(1, 1, 1, 1, 1), embed_dims=(4, 8, 16, 32, 64)), 6, text,
          quiet=["visual.trunk.stages.4." + p for p in ("downsample.proj.1.conv_kxk.0.bn.", "downsample.proj.1.identity.", "pos_emb.pos_enc.bias")])
