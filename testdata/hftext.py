"""Tiny models whose text tower is transformers', by open_clip_torch 3.3.0, transformers 5.24.0 and timm 1.0.31:
python testdata/hftext.py"""
import json
import os
import tempfile

import open_clip
import timm
import torch
from safetensors.torch import save_file
from transformers import M2M100Config, RobertaConfig, XLMRobertaConfig

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
CONTEXT = 24


def roberta(kind, types, eps, heads):
    return kind(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=48,
                max_position_embeddings=30, type_vocab_size=types, layer_norm_eps=eps, pad_token_id=1)


def nllb(scale, width):
    return M2M100Config(vocab_size=96, d_model=width, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
                        decoder_attention_heads=2, decoder_ffn_dim=8, max_position_embeddings=8, scale_embedding=scale, pad_token_id=1)


CASES = {
    # name: the text model, embed_dim, pooler, projection, SigLIP's image tower, QuickGELU
    "roberta-tiny": (roberta(RobertaConfig, 1, 1e-5, 2), 16, "mean_pooler", "mlp", False, True),
    "xlm-roberta-cls-tiny": (roberta(XLMRobertaConfig, 2, 1e-3, 4), 16, "cls_pooler", "linear", False, False),
    "nllb-tiny": (nllb(True, 32), 16, "cls_pooler", "linear", False, False),
    "nllb-siglip-tiny": (nllb(False, 32), 32, "mean_pooler", None, True, False),
}
for seed, (name, (text, embed, pooler, proj, siglip, quick)) in enumerate(CASES.items()):
    torch.manual_seed(seed)
    create = timm.create_model
    timm.create_model = lambda n, **kw: create(n, depth=1, embed_dim=embed, num_heads=2, patch_size=8, img_size=16, **kw)
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    if siglip:
        vision = {"image_size": 16, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
    with tempfile.TemporaryDirectory() as tmp:
        text.save_pretrained(tmp)
        model = open_clip.model.CustomTextCLIP(embed, vision, {
            "context_length": CONTEXT, "hf_model_name": tmp, "hf_model_pretrained": False, "hf_pooler_type": pooler, "hf_proj_type": proj,
        }, quick_gelu=quick, **({"init_logit_bias": -10} if siglip else {})).eval()
    timm.create_model = create
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    t = {"context_length": CONTEXT, "vocab_size": text.vocab_size, "width": text.hidden_size, "heads": text.num_attention_heads,
         "layers": text.num_hidden_layers, "attn_mask": False, "pad_token_id": 1, "hf_pooler_type": pooler, "hf_proj_type": proj}
    if text.model_type == "m2m_100":
        t.update(tower="m2m100", mlp_ratio=text.encoder_ffn_dim / text.d_model, scale_embedding=text.scale_embedding)
    else:
        t.update(tower="roberta", mlp_ratio=text.intermediate_size / text.hidden_size, max_position_embeddings=text.max_position_embeddings,
                 type_vocab_size=text.type_vocab_size, norm_kwargs={"eps": text.layer_norm_eps})
    tower = {**vision, "mlp_ratio": 4}
    if siglip:
        tower = {"tower": "siglip", "image_size": 16, "layers": 1, "width": embed, "head_width": embed // 2, "patch_size": 8, "mlp_ratio": 4}
    config = {"embed_dim": embed, "vision_cfg": tower, "text_cfg": t, **({"quick_gelu": True} if quick else {}), **({"init_logit_bias": -10} if siglip else {})}
    dir = os.path.join(HERE, name)
    os.makedirs(dir, exist_ok=True)
    json.dump(config, open(os.path.join(dir, "config.json"), "w"), indent=1)
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, os.path.join(dir, "model.safetensors"))
    images, tokens = torch.randn(3, 3, 16, 16), torch.randint(2, 96, (5, CONTEXT))
    for row, (at, to) in enumerate([(CONTEXT, CONTEXT), (3, CONTEXT), (9, CONTEXT), (16, CONTEXT), (4, 7)]):  # the last has padding inside
        tokens[row, at:to] = 1
    with torch.no_grad():
        image, text_, scale = model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp()
        image_norm, text_norm = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text_))
        bias = model.logit_bias if siglip else torch.zeros(1)
        out = {"images": images, "tokens": tokens, "expected.image_features": image, "expected.text_features": text_,
               "expected.image_features_norm": image_norm, "expected.text_features_norm": text_norm,
               "expected.logits_per_image": scale * image_norm @ text_norm.T + bias, "expected.logit_scale_exp": scale.reshape(1)}
        if siglip:
            out["expected.logit_bias"] = bias.detach().reshape(1)
        save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dir, "forward.safetensors"))
