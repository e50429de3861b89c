"""The training steps of gpu.json in PyTorch, on the same machine, for the ratio.

    python3 gpu_torch.py gpu.json torch.json [--seconds 150]

A plain EVA-02-CLIP in torch (rotary embedding, SwiGLU with sub-norm, SDPA, bf16
autocast, torch.compile, fused AdamW), the batch and the patch dropout of each
row of gpu.json; eager too, and open_clip's own model when it is installed.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

MODELS = {  # vision: size, patch, width, layers, head width, hidden; text: width, heads, layers; embedding
    "EVA02-CLIP-B-16": (224, 16, 768, 12, 64, 2048, 512, 8, 12, 512),
    "EVA02-CLIP-L-14": (224, 14, 1024, 24, 64, 2730, 768, 12, 12, 768),
    "tiny": (32, 8, 64, 1, 32, 170, 64, 2, 1, 32),
}
CONTEXT = {"tiny": 16}
OPEN_CLIP = {"EVA02-CLIP-B-16": "EVA02-B-16", "EVA02-CLIP-L-14": "EVA02-L-14"}


def rotate(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class EvaBlock(nn.Module):
    def __init__(self, width, head, hidden):
        super().__init__()
        self.head = head
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.inner, self.proj = nn.LayerNorm(width, 1e-6), nn.Linear(width, width)
        self.w1, self.w2, self.w3 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn = nn.LayerNorm(hidden, 1e-6)

    def forward(self, x, cos, sin):
        b, n, c = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(b, n, -1, self.head).transpose(1, 2) for f in (self.q, self.k, self.v))
        q = torch.cat((q[:, :, :1], rotate(q[:, :, 1:], cos, sin)), 2).to(v.dtype)
        k = torch.cat((k[:, :, :1], rotate(k[:, :, 1:], cos, sin)), 2).to(v.dtype)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.proj(self.inner(a))
        h = self.norm2(x)
        return x + self.w3(self.ffn(F.silu(self.w1(h)) * self.w2(h)))


class TextBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, c)
        x = x + self.out(a)
        return x + self.proj(F.gelu(self.fc(self.ln2(x))))


class Clip(nn.Module):
    def __init__(self, name, drop, ckpt):
        super().__init__()
        size, patch, width, layers, head, hidden, tw, th, tl, embed = MODELS[name]
        self.drop, self.ckpt = drop, ckpt
        self.patch = nn.Conv2d(3, width, patch, patch)
        grid = size // patch
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, grid * grid + 1, width) * 0.02)
        self.blocks = nn.ModuleList(EvaBlock(width, head, hidden) for _ in range(layers))
        self.norm, self.headl = nn.LayerNorm(width, 1e-6), nn.Linear(width, embed)
        f = 10000 ** -(torch.arange(0, head // 2, 2).float() / (head // 2))
        t = torch.arange(grid).float() / grid * 16
        rows, cols = torch.meshgrid(t, t, indexing="ij")
        angle = torch.cat((rows.reshape(-1, 1) * f, cols.reshape(-1, 1) * f), 1)
        self.register_buffer("cos", angle.cos()), self.register_buffer("sin", angle.sin())
        self.context = CONTEXT.get(name, 77)
        self.token, self.tpos = nn.Embedding(49408, tw), nn.Parameter(torch.randn(self.context, tw) * 0.01)
        self.tblocks = nn.ModuleList(TextBlock(tw, th) for _ in range(tl))
        self.tnorm, self.tproj = nn.LayerNorm(tw), nn.Parameter(torch.randn(tw, embed) * tw ** -0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))

    def run(self, block, *args):
        return checkpoint(block, *args, use_reentrant=False) if self.ckpt else block(*args)

    def forward(self, images, tokens):
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), 1) + self.pos
        cos, sin = self.cos, self.sin
        if self.drop:
            n = x.shape[1] - 1
            keep = torch.rand(x.shape[0], n, device=x.device).topk(int(n * (1 - self.drop)), 1).indices
            x = torch.cat((x[:, :1], x[:, 1:].gather(1, keep[..., None].expand(-1, -1, x.shape[2]))), 1)
            cos, sin = cos[keep].unsqueeze(1), sin[keep].unsqueeze(1)
        for b in self.blocks:
            x = self.run(b, x, cos, sin)
        i = F.normalize(self.headl(self.norm(x)[:, 0]).float(), dim=-1)
        y = self.token(tokens) + self.tpos
        for b in self.tblocks:
            y = self.run(b, y)
        y = self.tnorm(y)[torch.arange(len(y), device=y.device), tokens.argmax(-1)]
        t = F.normalize((y @ self.tproj).float(), dim=-1)
        logits = self.logit_scale.exp() * i @ t.T
        label = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2


class OpenClip(nn.Module):
    def __init__(self, name, drop, ckpt):
        super().__init__()
        import open_clip
        self.m = open_clip.create_model(OPEN_CLIP[name])
        self.context = 77
        if drop and hasattr(self.m.visual, "trunk"):
            try:
                from timm.layers import PatchDropoutWithIndices
                self.m.visual.trunk.patch_drop = PatchDropoutWithIndices(drop)
            except ImportError:  # timm before 1.0.20
                from timm.layers import PatchDropout
                self.m.visual.trunk.patch_drop = PatchDropout(drop, return_indices=True)
        if ckpt:
            self.m.set_grad_checkpointing(True)

    def forward(self, images, tokens):
        i, t, scale = self.m(images, tokens)[:3]
        logits = scale * i.float() @ t.float().T
        label = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2


def measure(make, row, compiled, device, steps=8):
    torch.manual_seed(1)
    name, batch = row["model"], row["batch"]
    m = make(name, row["patch_dropout"], row["grad_checkpointing"]).to(device)
    context = m.context
    opt = torch.optim.AdamW(m.parameters(), 1e-4, fused=device == "cuda")
    if compiled:
        m = torch.compile(m)
    size = MODELS[name][0]
    images = torch.randn(batch, 3, size, size, device=device)
    tokens = torch.randint(1, 49000, (batch, context), device=device)
    times = []
    for i in range(steps + 3):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=row["precision"] == "bf16"):
            loss = m(images, tokens)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 5.0)
        opt.step()
        loss.item()
        if i >= 3:
            times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"samples_per_second": batch / statistics.median(times), "peak_bytes": peak, "loss": loss.item()}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("ours"), p.add_argument("out"), p.add_argument("--seconds", type=float, default=200)
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    end = time.time() + a.seconds
    ways = [("torch.compile", Clip, True), ("eager", Clip, False)]
    try:
        import open_clip  # noqa: F401
        ways.insert(0, ("open_clip", OpenClip, False))  # first: the one to compare with
    except Exception as e:  # not there, or not with this torch
        print(f"no open_clip: {e}", flush=True)
    rows = []
    for row in json.load(open(a.ours))["train"] or []:
        if row["model"] not in MODELS:
            continue
        for way, make, compiled in ways:
            if way == "open_clip" and row["model"] not in OPEN_CLIP or time.time() > end:
                continue
            key = {k: row[k] for k in ("model", "precision", "patch_dropout", "grad_checkpointing", "batch")}
            try:
                r = measure(make, row, compiled, device)
                r["ratio"] = row["samples_per_second"] / r["samples_per_second"]
                print(f"{way:14} {key}  {r['samples_per_second']:.1f} samples/s; evatool {row['samples_per_second']:.1f}, {r['ratio']:.2f}x", flush=True)
            except Exception as e:  # out of memory, no compiler
                r = {"error": str(e).split("\n")[0][:200]}
                print(f"{way:14} {key}  {r['error']}", flush=True)
            if device == "cuda":
                torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
            rows.append({"way": way, **key, **r})
            with open(a.out, "w") as f:  # after every row: the next one may not come back
                json.dump({"torch": torch.__version__, "device": device, "rows": rows}, f, indent=1)


main()
