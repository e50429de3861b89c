"""Tiny SigLIP models by open_clip_torch 3.3.0 and timm 1.0.31: python testdata/siglip.py"""
import json
import os

import open_clip
import timm
import torch
from safetensors.torch import save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
CASES = {
    # name: timm's name, width, text width, text_cfg
    "siglip-tiny": ("vit_base_patch16_siglip_224", 32, 32, {"proj_bias": True}),
    "siglip-i18n-tiny": ("vit_so400m_patch16_siglip_256", 32, 32, {"proj_type": "none"}),
    "siglip2-tiny": ("vit_giantopt_patch16_siglip_256", 48, 32, {"proj_bias": True, "act_kwargs": {"approximate": "tanh"}}),
}
for seed, (name, (kind, width, text, extra)) in enumerate(CASES.items()):
    torch.manual_seed(seed)
    create = timm.create_model
    timm.create_model = lambda n, **kw: create(n, depth=2, embed_dim=width, num_heads=2, patch_size=8, img_size=32, **kw)
    cfg = {"embed_dim": width, "init_logit_bias": -10,
           "vision_cfg": {"image_size": 32, "timm_model_name": kind, "timm_pool": "map", "timm_proj": "none"},
           "text_cfg": {"context_length": 16, "vocab_size": 64, "width": text, "heads": 2, "layers": 2, "no_causal_mask": True,
                        "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, **extra}}
    model = open_clip.model.CustomTextCLIP(**json.loads(json.dumps(cfg))).eval()
    timm.create_model = create
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    dir = os.path.join(HERE, name)
    os.makedirs(dir, exist_ok=True)
    tower = {"tower": "siglip", "image_size": 32, "layers": 2, "width": width, "head_width": width // 2, "patch_size": 8,
             "mlp_ratio": model.visual.trunk.blocks[0].mlp.fc1.out_features / width}
    if isinstance(model.visual.trunk.blocks[0].mlp.act, timm.layers.GELUTanh):
        tower["act"] = "gelu_tanh"
    json.dump({**cfg, "vision_cfg": tower}, open(os.path.join(dir, "config.json"), "w"), indent=1)
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, os.path.join(dir, "model.safetensors"))
    images, tokens = torch.randn(3, 3, 32, 32), torch.randint(0, 64, (5, 16))
    with torch.no_grad():
        image, text, scale, bias = model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp(), model.logit_bias
        image_norm, text_norm = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
        out = {"images": images, "tokens": tokens, "expected.image_features": image, "expected.text_features": text,
               "expected.image_features_norm": image_norm, "expected.text_features_norm": text_norm,
               "expected.logits_per_image": scale * image_norm @ text_norm.T + bias,
               "expected.logit_scale_exp": scale.reshape(1), "expected.logit_bias": bias.detach().reshape(1)}
        save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dir, "forward.safetensors"))
