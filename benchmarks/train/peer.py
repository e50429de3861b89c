"""The training step of main.go in plain PyTorch, eager or compiled.

    python peer.py eager|compile WIDTH DEPTH HEADS DROPOUT BATCH STEPS

Prints {"seconds": [...], "peak_rss": bytes} as JSON. The same model and step:
EVA-02 blocks (RoPE, sub-LN, SwiGLU), CLIP's text tower, the symmetric
contrastive loss, clipping by the global norm, AdamW, all in fp32.
"""
import json, math, resource, sys, time
import torch, torch.nn as nn, torch.nn.functional as F

mode, width, depth, heads, drop, batch, steps = sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]), *map(int, sys.argv[6:8])
SIZE, PATCH, EMBED, CTX, TW, TH, TD = 64, 8, 64, 16, 64, 2, 2
GRID, HEAD = SIZE // PATCH, width // heads


def rope_tables():
    f = 10000 ** -(torch.arange(0, HEAD // 2, 2).float() / (HEAD // 2))
    t = torch.arange(GRID).float() / GRID * 16
    f = torch.outer(t, f).repeat_interleave(2, -1)
    f = torch.cat([f[:, None].expand(GRID, GRID, -1), f[None].expand(GRID, GRID, -1)], -1).reshape(GRID * GRID, HEAD)
    return f.cos(), f.sin()


def rotate(x):
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([-b, a], -1).flatten(-2)


class Attention(nn.Module):
    def __init__(s):
        super().__init__()
        s.q, s.k, s.v = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, width)
        s.ln, s.proj = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width)

    def forward(s, x, cos, sin):
        b, n, _ = x.shape
        q, k, v = (l(x).view(b, n, heads, HEAD).transpose(1, 2) for l in (s.q, s.k, s.v))
        q, k = (torch.cat([t[:, :, :1], t[:, :, 1:] * cos + rotate(t[:, :, 1:]) * sin], 2) for t in (q, k))
        return s.proj(s.ln(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)))


class SwiGLU(nn.Module):
    def __init__(s, hidden):
        super().__init__()
        s.w1, s.w2, s.w3, s.ln = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(hidden, eps=1e-6)

    def forward(s, x):
        return s.w3(s.ln(F.silu(s.w1(x)) * s.w2(x)))


class Block(nn.Module):
    def __init__(s):
        super().__init__()
        s.n1, s.n2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        s.attn, s.mlp = Attention(), SwiGLU(int(width * 2.6875))

    def forward(s, x, cos, sin):
        x = x + s.attn(s.n1(x), cos, sin)
        return x + s.mlp(s.n2(x))


class TextBlock(nn.Module):
    def __init__(s):
        super().__init__()
        s.n1, s.n2, s.qkv, s.out = nn.LayerNorm(TW), nn.LayerNorm(TW), nn.Linear(TW, 3 * TW), nn.Linear(TW, TW)
        s.mlp = nn.Sequential(nn.Linear(TW, 4 * TW), nn.GELU(), nn.Linear(4 * TW, TW))

    def forward(s, x):
        b, n, _ = x.shape
        q, k, v = s.qkv(s.n1(x)).view(b, n, 3, TH, TW // TH).permute(2, 0, 3, 1, 4)
        x = x + s.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, TW))
        return x + s.mlp(s.n2(x))


class CLIP(nn.Module):
    def __init__(s):
        super().__init__()
        s.patch = nn.Conv2d(3, width, PATCH, PATCH)
        s.cls, s.pos = nn.Parameter(torch.randn(1, 1, width) * .02), nn.Parameter(torch.randn(1, GRID * GRID + 1, width) * .02)
        s.blocks, s.norm, s.head = nn.ModuleList(Block() for _ in range(depth)), nn.LayerNorm(width, eps=1e-6), nn.Linear(width, EMBED)
        s.token, s.tpos = nn.Embedding(49408, TW), nn.Parameter(torch.randn(CTX, TW) * .01)
        s.tblocks, s.tnorm = nn.ModuleList(TextBlock() for _ in range(TD)), nn.LayerNorm(TW)
        s.tproj, s.scale = nn.Parameter(torch.randn(TW, EMBED) * TW ** -.5), nn.Parameter(torch.tensor(math.log(1 / .07)))
        c, d = rope_tables()
        s.register_buffer("cos", c), s.register_buffer("sin", d)

    def forward(s, images, tokens):
        x = s.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([s.cls.expand(len(x), -1, -1), x], 1) + s.pos
        cos, sin = s.cos, s.sin
        if drop > 0:
            keep = torch.randn(len(x), GRID * GRID).topk(int(GRID * GRID * (1 - drop)), -1).indices
            x = torch.cat([x[:, :1], x[:, 1:].gather(1, keep[..., None].expand(-1, -1, width))], 1)
            cos, sin = cos[keep][:, None], sin[keep][:, None]
        for b in s.blocks:
            x = b(x, cos, sin)
        img = F.normalize(s.head(s.norm(x[:, 0])), dim=-1)
        t = s.token(tokens) + s.tpos
        for b in s.tblocks:
            t = b(t)
        txt = F.normalize(s.tnorm(t)[torch.arange(len(t)), tokens.argmax(-1)] @ s.tproj, dim=-1)
        logits = s.scale.exp() * img @ txt.T
        label = torch.arange(len(logits))
        return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2


torch.manual_seed(0)
torch.set_num_threads(2)
model = CLIP()
opt = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(.9, .98), eps=1e-6, weight_decay=.05)
run = torch.compile(model) if mode == "compile" else model
images = torch.randint(0, 256, (batch, SIZE, SIZE, 3), dtype=torch.uint8)
tokens = torch.randint(1, 49407, (batch, CTX))
tokens[:, 7], tokens[:, 8:] = 49407, 0
mean, std = torch.tensor([.48145466, .4578275, .40821073]), torch.tensor([.26862954, .26130258, .27577711])
seconds = []
for i in range(steps + 3):
    t = time.perf_counter()
    x = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    loss = run(x, tokens)
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    with torch.no_grad():
        model.scale.clamp_(0, math.log(100))
    loss.item()
    if i >= 3:
        seconds.append(time.perf_counter() - t)
print(json.dumps({"seconds": seconds, "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
