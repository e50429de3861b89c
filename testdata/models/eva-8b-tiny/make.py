"""eva-8b-tiny and eva-18b-tiny: shrunk EVA-CLIP-8B and 18B with random values, computed by the original code.

    python make.py EVA/EVA-CLIP-18B/shinji        # of github.com/baaivision/EVA

The original needs xformers; its attention is torch's scaled_dot_product_attention here.
"""
import json
import os
import sys
import types

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, sys.argv[1])
ops = types.ModuleType("xformers.ops")
ops.memory_efficient_attention = lambda q, k, v, p=0.0, scale=None, attn_bias=None: F.scaled_dot_product_attention(
    q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale).transpose(1, 2)
sys.modules["xformers"], sys.modules["xformers.ops"] = types.ModuleType("xformers"), ops
sys.modules["xformers"].ops = ops
package = types.ModuleType("eva_clip")  # without its __init__, which needs deepspeed and more
package.__path__ = [os.path.join(sys.argv[1], "eva_clip")]
sys.modules["eva_clip"] = package
from eva_clip.model import CustomCLIP  # noqa: E402


def build(cfg, seed):
    torch.manual_seed(seed)
    cfg = dict(cfg)
    model = CustomCLIP(**cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def inputs(cfg, seed):
    g = torch.Generator().manual_seed(seed)
    size, t = cfg["vision_cfg"]["image_size"], cfg["text_cfg"]
    images = torch.randn(3, 3, size, size, generator=g)
    tokens = torch.zeros(5, t["context_length"], dtype=torch.long)
    for i in range(5):
        n = 2 + 3 * i
        tokens[i, :n] = torch.randint(1, t["vocab_size"] - 1, (n,), generator=g)
        tokens[i, n - 1] = t["vocab_size"] - 1
    return images, tokens


def write(name, cfg, seed):
    dir = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", name)
    os.makedirs(dir, exist_ok=True)
    model = build(cfg, seed)
    images, tokens = inputs(cfg, seed)
    with torch.no_grad():
        out = {
            "images": images, "tokens": tokens,
            "expected.image_features": model.encode_image(images), "expected.text_features": model.encode_text(tokens),
            "expected.logit_scale_exp": model.logit_scale.exp(),
        }
        for side in ("image", "text"):
            out[f"expected.{side}_features_norm"] = F.normalize(out[f"expected.{side}_features"], dim=-1)
        out["expected.logits_per_image"] = out["expected.logit_scale_exp"] * out["expected.image_features_norm"] @ out["expected.text_features_norm"].T
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dir, "forward.safetensors"))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, os.path.join(dir, "model.safetensors"))
    with open(os.path.join(dir, "config.json"), "w") as f:
        json.dump(cfg, f, indent=1)
        f.write("\n")


def tiny(postnorm):
    return {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 28, "layers": 2, "width": 32, "head_width": 16, "mlp_ratio": 5, "patch_size": 7,
            "eva_model_name": "eva-clip-18b-14-x" if postnorm else "eva-clip-8b-14-x", "drop_path_rate": 0,
            "qkv_bias": False, "xattn": True, "postnorm": postnorm, "fusedLN": False, "use_rms_norm": True,
        },
        "text_cfg": {"context_length": 20, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2, "xattn": False, "fusedLN": False},
    }


if __name__ == "__main__":
    write("eva-8b-tiny", tiny(False), 1)
    write("eva-18b-tiny", tiny(True), 2)
