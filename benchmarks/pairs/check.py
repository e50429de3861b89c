"""What evatool does with each of OpenCLIP's pretrained pairs, compared with open_clip_torch.

    go build -o evatool . && python benchmarks/pairs/check.py ./evatool > pairs.md

No weights are downloaded. Each architecture is built twice with random weights: at full size without
values, for what evatool recognises of the weights alone (in the order of a .bin and sorted as
safetensors are, under a name that says nothing, under the repository's, and with --config NAME), and
shrunk, as a repository with its open_clip_config.json, for the features of pictures and tokens.
A tower of timm's has two blocks, and EVA's keep their width (TOWERS has one line for each kind). A text
model of transformers has the sizes that its own config.json says, beside the weights.

A pair is wrong when evatool takes another activation or other pixels than the pair's and neither
fails nor warns, or when features differ by more than 1e-4 of the largest value. Any such pair makes
the exit status 1. Texts for another tokenizer than CLIP's are cut by the repository's tokenizer.json, here a small one of
the kind (testdata/tokenizerjson), or have to be refused.

Needs open_clip_torch 3.3, timm, transformers, safetensors; Pillow below 13 for EVA's promise of
Pillow 9.4's pixels (13 resizes tall pictures in another order).
"""
import collections
import copy
import gzip
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np
import open_clip
import timm
import torch
from open_clip.pretrained import _PRETRAINED
from open_clip.tokenizer import get_clean_fn
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import M2M100Config, RobertaConfig, XLMRobertaConfig

HERE = os.path.dirname(os.path.abspath(__file__))
EVATOOL = os.path.abspath(sys.argv[1])
WORK = tempfile.mkdtemp(prefix="pairs-")
BOUND = 1e-4
QUICK = re.compile("QuickGELU|activation")


def run(*args):
    p = subprocess.run([EVATOOL, *args], capture_output=True, text=True, timeout=900, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": WORK})
    if p.returncode not in (0, 1, 2, 3, 4) or "panic" in p.stderr or "goroutine" in p.stderr:
        sys.exit(f"evatool {' '.join(args)}: status {p.returncode}\n{p.stderr}")
    errors = [line for line in p.stderr.splitlines() if line.startswith("evatool:") or " ERROR" in line]
    return p.returncode, p.stdout, p.stderr, (errors or [p.stderr.strip()])[-1]


def roberta(kind, vocab, width, layers):
    return kind(vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=4 * width,
                max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)


def nllb(layers, hidden, vocab=256206, width=1024):
    return M2M100Config(vocab_size=vocab, d_model=width, encoder_layers=layers, encoder_attention_heads=width // 64, encoder_ffn_dim=hidden,
                        decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=8)


# The transformers text models that configurations name, at full size and shrunk.
TEXTS = {
    "roberta-base": (lambda: roberta(RobertaConfig, 50265, 768, 12), lambda: roberta(RobertaConfig, 3000, 64, 2)),
    "xlm-roberta-base": (lambda: roberta(XLMRobertaConfig, 250002, 768, 12), lambda: roberta(XLMRobertaConfig, 3000, 64, 2)),
    "xlm-roberta-large": (lambda: roberta(XLMRobertaConfig, 250002, 1024, 24), lambda: roberta(XLMRobertaConfig, 3000, 64, 2)),
    "facebook/nllb-200-distilled-600M": (lambda: nllb(12, 4096), lambda: nllb(2, 256, 3000, 64)),
    "facebook/nllb-200-distilled-1.3B": (lambda: nllb(24, 8192), lambda: nllb(2, 512, 3000, 64)),
}


def build(cfg, small):
    """open_clip's model of a configuration, which may name a text model of transformers."""
    cfg = copy.deepcopy(cfg)
    custom = cfg.pop("custom_text", False)
    cls = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    if "multimodal_cfg" in cfg:
        cls = open_clip.coca_model.CoCa
    name = cfg["text_cfg"].get("hf_model_name")
    if not name:
        return cls(**cfg)
    cfg["text_cfg"]["hf_model_pretrained"] = False
    auto = open_clip.hf_model.AutoConfig
    open_clip.hf_model.AutoConfig = type("AutoConfig", (), {"from_pretrained": staticmethod(lambda n: TEXTS[n][small]())})
    try:
        return open_clip.model.CustomTextCLIP(**cfg)
    finally:
        open_clip.hf_model.AutoConfig = auto


def full(cfg):
    """Names and shapes at full size, in the order of the state dict."""
    with torch.device("meta"):
        return {k: t.shape for k, t in build(cfg, False).state_dict().items()}


def hollow(path, shapes, order):
    """A sparse safetensors file with these names and shapes, without values."""
    header, at = {}, 0
    for k in sorted(shapes) if order == "sorted" else shapes:
        n = int(np.prod(shapes[k])) * 4
        header[k] = {"dtype": "F32", "shape": list(shapes[k]), "data_offsets": [at, at + n]}
        at += n
    b = json.dumps(header).encode()
    b += b" " * (-len(b) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(b)) + b)
        f.truncate(8 + len(b) + at)


def pixels_of(tag):
    return merge_preprocess_dict(PreprocessCfg(), {k: v for k, v in tag.items() if k in ("mean", "std", "interpolation", "resize_mode")})


def same_pixels(got, want):
    return got and np.allclose(got["mean"], want["mean"], atol=1e-6) and np.allclose(got["std"], want["std"], atol=1e-6) \
        and got["interpolation"] == want["interpolation"] and got["resize_mode"] == want["resize_mode"] and "resize" not in got


def alone(shapes, order, name, tag, config=None):
    """The verdict on weights alone: right, warned, refused or WRONG."""
    path = os.path.join(WORK, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    hollow(path, shapes, order)
    try:
        out = os.path.join(WORK, "out.safetensors")
        args = ["convert", path, "-o", out, "--dry-run", "--json"] + (["--config", config] if config else [])
        rc, text, _, err = run(*args)
        if rc:
            return "refused", err
        report = json.loads(text)
        if config is None:
            rc, text, _, err = run("inspect", path, "--hash=false", "--json")
            seen = json.loads(text)
            arch, pixels, warnings = seen["config"], seen.get("preprocess"), seen["warnings"]
        else:
            arch, pixels, warnings = report["config"], None, report["warnings"]
    finally:
        os.remove(path)
    warned = " ".join(warnings or [])
    if arch == "custom" or not arch:
        return ("warned", warned) if warned else ("WRONG", f"not recognised, and nothing says so: {report.get('recognised')}")
    rc, text, _, err = run("models", arch, "--json")
    entry = json.loads(text)
    quick = entry["config"].get("quick_gelu", False)
    if config is not None:
        pixels = entry["preprocess"]
    want = pixels_of(tag)
    wrong = []
    if quick != bool(tag.get("quick_gelu")) and not QUICK.search(warned):
        wrong.append(f"quick_gelu {quick}")
    if config is None:
        if not same_pixels(pixels, want) and "preprocess" not in warned.lower():
            wrong.append(f"pixels {pixels}")
    elif not same_pixels(pixels, want) and "preprocess" not in warned.lower():
        wrong.append(f"pixels {pixels}, and nothing says so")
    if wrong:
        return "WRONG", ", ".join(wrong)
    return ("warned" if warned else "right"), warned


def shrunk(cfg):
    """A small model of the same kind; EVA's towers keep their width."""
    cfg = copy.deepcopy(cfg)
    cfg["embed_dim"] = 32
    v, t = cfg["vision_cfg"], cfg["text_cfg"]
    if "timm_model_name" not in v:
        if isinstance(v["layers"], list):
            v.update(layers=[1, 1, 2, 1], width=16, image_size=64)
        else:
            v.update(layers=2, width=2 * v.get("head_width", 64), image_size=4 * v["patch_size"])
    if "hf_model_name" not in t:
        t.update(width=64, heads=1, layers=2)
    if "multimodal_cfg" in cfg:
        cfg["multimodal_cfg"].update(width=64, heads=1, layers=1)
    if t.get("vocab_size", 49408) > 49408:
        t["vocab_size"] = 50000
    return cfg


def small_eva(v):
    """Two blocks; the width stays. What timm.create_model takes, the same in evatool's words, embed_dim."""
    return dict(depth=2), dict(layers=2), 32


def small_siglip(v):
    w = 2 * v["head_width"]
    return dict(depth=2, embed_dim=w, num_heads=2), dict(layers=2, width=w), w


def small_convnext(v):
    return dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128)), dict(layers=[1, 1, 2, 1], width=16), 32


def small_fastvit(v):
    n = len(v["layers"])
    return dict(layers=(1,) * n, embed_dims=tuple(8 << i for i in range(n))), dict(layers=[1] * n, width=8), 32


# The timm towers that evatool supports, by their kind: how to shrink them.
TOWERS = {"eva": small_eva, "siglip": small_siglip, "convnext": small_convnext, "fastvit": small_fastvit,
          "vitamin": small_eva, "pe": small_eva, "mobileclip": small_eva}


def small_timm(cfg, name, seed):
    """A shrunk pair with a timm tower, and its configuration in evatool's terms; None if evatool has no such tower."""
    rc, text, _, err = run("models", name)
    if rc:
        return None, None
    own = json.loads(text)
    v = own["vision_cfg"]
    kwargs, words, embed = TOWERS["eva" if "eva_model_name" in v else v["tower"]](v)
    copied = shrunk(cfg)
    copied["embed_dim"] = embed
    t = copied["text_cfg"]
    if t.get("proj_type") == "none":
        t.update(width=embed, heads=2)
    create = timm.create_model
    timm.create_model = lambda n, **kw: create(n, **kwargs, **kw)
    try:
        torch.manual_seed(seed)
        model = build(copied, True).eval()
    finally:
        timm.create_model = create
    own["embed_dim"] = embed
    v.update(words)
    own["text_cfg"].update({k: t[k] for k in ("width", "heads", "layers", "vocab_size") if k in t})
    if "hf_model_name" in t:
        c = model.text.config
        own["text_cfg"].update(width=c.hidden_size, heads=c.num_attention_heads, layers=c.num_hidden_layers, vocab_size=c.vocab_size)
    return model, own


def tokenizer(t, dir):
    """Puts a small tokenizer of the kind that a text_cfg names into dir; what it makes of a text, None for CLIP's."""
    name, kwargs = t.get("hf_tokenizer_name", ""), t.get("tokenizer_kwargs", {})
    packed = lambda file: gzip.open(os.path.join(HERE, "../../testdata/tokenizerjson", file + ".json.gz")).read().decode()
    if name == "bert-base-uncased":
        data, pad = json.dumps(json.loads(packed("wordpiece"))["tokenizers"][0]["json"]), "[PAD]"
    elif "SigLIP2" in name:
        data, pad = packed("bpe"), "<pad>"
    elif "SigLIP" in name or name == "facebook/xlm-v-base":
        data, pad = packed("unigram"), "</s>"
    elif "hf_model_name" in t:
        kind = "roberta" if name == "roberta-base" else "xlm-roberta" if "roberta" in name else "nllb"
        files = json.loads(packed("hf"))["tokenizers"][kind]
        for file in ("tokenizer", "tokenizer_config"):
            json.dump(files[file], open(os.path.join(dir, file + ".json"), "w"))
        return open_clip.tokenizer.HFTokenizer(dir, context_length=t.get("context_length", 77))
    else:
        return None
    judge = Tokenizer.from_str(data)
    if name == "facebook/xlm-v-base":
        judge.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    open(os.path.join(dir, "tokenizer.json"), "w").write(judge.to_str())
    json.dump({"pad_token": pad}, open(os.path.join(dir, "tokenizer_config.json"), "w"))
    context = t.get("context_length", 77)
    judge.enable_truncation(context)
    judge.enable_padding(pad_id=judge.token_to_id(pad), pad_token=pad, length=context)
    clean = get_clean_fn(kwargs.get("clean", "whitespace"))

    def cut(text):
        ids = torch.tensor([judge.encode(clean(text)).ids])
        return torch.where(ids == judge.token_to_id("[SEP]"), 0, ids) if kwargs.get("strip_sep_token") else ids
    return cut


def spread(model):
    """Random values that reveal a wrong norm, activation or layer scale."""
    with torch.no_grad():
        for k, p in model.named_parameters():
            p.add_((0.5 if k.endswith("gamma") else 0.02) * torch.randn_like(p))
        for k, b in model.named_buffers():
            if k.endswith("running_var"):
                b.uniform_(0.5, 1.5)
            elif k.endswith("running_mean"):
                b.normal_(0, 0.1)


def repository(cfg, name, tag, seed):
    """Features of a shrunk repository: the largest differences, or why it is refused."""
    dir = os.path.join(WORK, "repository")
    shutil.rmtree(dir, ignore_errors=True)
    os.makedirs(dir)
    want, extra = pixels_of(tag), []
    out = os.path.join(WORK, "features.safetensors")
    t = cfg["text_cfg"]
    written = copy.deepcopy(cfg)
    if tag.get("quick_gelu"):
        written["quick_gelu"] = True
    model = own = None
    if "timm_model_name" in cfg["vision_cfg"]:
        model, own = small_timm(cfg, name, seed)
    if "timm_model_name" in cfg["vision_cfg"] and not own:
        # Refused by its configuration: the weights need no values.
        hollow(os.path.join(dir, "open_clip_model.safetensors"), full(cfg), "order")
        config = {"model_cfg": written, "preprocess_cfg": want}
        json.dump(config, open(os.path.join(dir, "open_clip_config.json"), "w"))
        rc, _, _, err = run("convert", dir, "-o", out, "--dry-run")
        return ("refused", err) if rc == 3 else ("WRONG", f"status {rc}, taken: {err}")
    if own:
        size, t = own["vision_cfg"]["image_size"], {**t, **own["text_cfg"]}
        json.dump({**own, "preprocess_cfg": {k: v for k, v in want.items() if k not in ("size", "mode")}},
                  open(os.path.join(WORK, "own.json"), "w"))
        extra = ["--config", os.path.join(WORK, "own.json")]
        # The whole repository's configuration is read at full size, without values.
        hollow(os.path.join(dir, "open_clip_model.safetensors"), full(cfg), "order")
        json.dump({"model_cfg": written, "preprocess_cfg": want}, open(os.path.join(dir, "open_clip_config.json"), "w"))
        rc, text, _, err = run("convert", dir, "-o", out, "--dry-run", "--json")
        if rc or json.loads(text)["config"] in ("", "custom"):
            return "WRONG", f"its open_clip_config.json: {err or text[:200]}"
        os.remove(os.path.join(dir, "open_clip_config.json"))
    else:
        written = shrunk(written)
        torch.manual_seed(seed)
        try:
            model = build(written, True).eval()
        except Exception as e:  # the judge, not evatool
            sys.exit(f"{name}: open_clip cannot build it: {e}")
        size = written["vision_cfg"]["image_size"]
        json.dump({"model_cfg": written, "preprocess_cfg": {k: v for k, v in want.items() if k not in ("size", "mode")}},
                  open(os.path.join(dir, "open_clip_config.json"), "w"))
        if "hf_model_name" in t:
            model.text.config.save_pretrained(dir)
    spread(model)
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, os.path.join(dir, "open_clip_model.safetensors"))
    rng = random.Random(seed)
    pictures = []
    for i, (w, h) in enumerate([(97, 64), (64, 81), (50, 50)]):
        im = Image.frombytes("RGB", (w // 8 + 1, h // 8 + 1), rng.randbytes((w // 8 + 1) * (h // 8 + 1) * 3)).resize((w, h), Image.BICUBIC)
        pictures.append(os.path.join(WORK, f"{i}.png"))
        im.save(pictures[-1])
    transform = image_transform_v2(PreprocessCfg(**{**want, "size": size}), is_train=False)
    context, vocab = t.get("context_length", 77), t.get("vocab_size", 49408)
    pad = 0
    if "hf_model_name" in t:
        vocab, pad = model.text.config.vocab_size, model.text.config.pad_token_id
    torch.manual_seed(seed + 1)
    tokens = torch.randint(5, min(vocab, 49406), (4, context))
    for i, at in enumerate([1, 9, context // 2, context - 1]):
        tokens[i, at:] = pad
        tokens[i, at] = t.get("eos_id", 2) if t.get("pool_type") == "eos" else min(vocab, 49408) - 1
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(Image.open(p)) for p in pictures]), normalize=True)
        try:
            texts = model.encode_text(tokens, normalize=True)
        except Exception as e:
            sys.exit(f"{name}: open_clip cannot encode: {e}")
    model_path = dir if not own else os.path.join(dir, "open_clip_model.safetensors")
    common = ["--model", model_path, "--backend", "go", *extra]
    rc, _, stderr, err = run("embed", *common, *[a for p in pictures for a in ("--images", p)], "-o", out)
    if rc:
        return ("refused", err) if rc == 3 else ("WRONG", f"status {rc}: {err}")
    got = load_file(out)["image_features"]
    diffs = [float((got - images).abs().max() / images.abs().max())]
    save_file({"tokens": tokens}, os.path.join(WORK, "tokens.safetensors"))
    rc, _, _, err = run("embed", *common, "--tensors", os.path.join(WORK, "tokens.safetensors"), "-o", out)
    if rc:
        return "WRONG", err
    diffs.append(float((load_file(out)["text_features"] - texts).abs().max() / texts.abs().max()))
    if max(diffs) > BOUND:
        return "WRONG", f"features differ by {diffs[0]:.1e} and {diffs[1]:.1e}"
    open(os.path.join(WORK, "texts.txt"), "w").write("A photo of a cat, or &quot;a dog&quot;?\n")
    cut = tokenizer(t, dir)
    rc, _, _, err = run("embed", *common, "--texts", os.path.join(WORK, "texts.txt"), "-o", out)
    if cut is None and ("hf_tokenizer_name" in t or vocab != 49408):
        if rc != 3:
            return "WRONG", "texts are cut by CLIP's BPE"
        return "no texts", f"{diffs[0]:.0e}, {diffs[1]:.0e}; {err}"
    if rc:
        return "WRONG", err
    with torch.no_grad():
        cut = cut or open_clip.SimpleTokenizer(context_length=context)
        want_text = model.encode_text(cut("A photo of a cat, or &quot;a dog&quot;?"), normalize=True)
    d = float((load_file(out)["text_features"] - want_text).abs().max() / want_text.abs().max())
    if d > BOUND:
        return "WRONG", f"a text differs by {d:.1e}"
    return "works", f"{diffs[0]:.0e}, {max(diffs[1], d):.0e}"


def main():
    rows, shapes_of, known = [], {}, {}
    only = os.environ.get("ONLY")
    for seed, (name, tags) in enumerate(_PRETRAINED.items()):
        if only and not re.search(only, name):
            continue
        cfg = open_clip.get_model_config(name)
        for tag, c in tags.items():
            c = {**c, "quick_gelu": c.get("quick_gelu") or cfg.get("quick_gelu")}  # what open_clip computes, or should
            if name not in shapes_of:
                shapes_of[name] = full(cfg)
            shapes = shapes_of[name]
            key = (name, bool(c.get("quick_gelu")), json.dumps(pixels_of(c)))
            if key not in known:
                known[key] = (repository(cfg, name, c, seed),
                              *(alone(shapes, o, "weights/weights.safetensors", c) for o in ("order", "sorted")),
                              alone(shapes, "order", "weights/weights.safetensors", c, name))
            repo = c.get("hf_hub", "").strip("/").split("/")
            by_name = alone(shapes, "sorted", (repo[1] if len(repo) > 1 else "x") + "/open_clip_model.safetensors", c)
            rows.append((name, tag, *known[key], by_name))
            print(name, tag, *[r[0] for r in rows[-1][2:]], file=sys.stderr, flush=True)
    names = ["repository", "weights alone", "the same, sorted", "with --config NAME", "under the repository's name"]
    print("| pair | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for name, tag, *cells in rows:
        shown = [f"{cells[0][0]} ({cells[0][1].split(';')[0]})" if cells[0][0] in ("works", "no texts") else cells[0][0]] + [c[0] for c in cells[1:]]
        print(f"| {name}/{tag} | " + " | ".join(shown) + " |")
    print()
    for i, n in enumerate(names):
        count = collections.Counter(r[2 + i][0] for r in rows)
        print(f"- {n}: " + ", ".join(f"{v} {k}" for k, v in count.most_common()))
    wrong = [(r[0], r[1], n, c[1]) for r in rows for n, c in zip(names, r[2:]) if c[0] == "WRONG"]
    for w in wrong:
        print("WRONG", *w, file=sys.stderr)
    shutil.rmtree(WORK)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
