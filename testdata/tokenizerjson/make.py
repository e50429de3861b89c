"""Small tokenizer.json files of each kind, and the ids that the tokenizers library gives.

    python testdata/tokenizerjson/make.py FOLDER_OF_TEXT...

Vocabularies are trained on the words of the folders' text files: Unigram by sentencepiece (with its
precompiled normalization) and by tokenizers, BPE with byte fallback as Gemma's, and BPE without.
cases.json.gz has 8,000 strings, half of them hostile, each with the ids by every tokenizer of the
text as it is; of the last thousand also the text as open_clip's clean='canonicalize' leaves it.
Made with tokenizers 0.23.3, sentencepiece 0.2.3, open_clip_torch 3.3.0, ftfy 6.3.1.
"""
import base64
import glob
import gzip
import json
import os
import random
import sys
import tempfile

import sentencepiece as spm
from open_clip.tokenizer import get_clean_fn
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
rng = random.Random(7)
paths = [p for d in sys.argv[1:] for p in glob.glob(os.path.join(d, "**", "*"), recursive=True)
         if os.path.isfile(p) and p.endswith((".json", ".txt", ".md", ".csv")) and os.path.getsize(p) < 2_000_000]
lines = []
for p in sorted(paths):
    try:
        lines += [l.strip()[:400] for l in open(p, encoding="utf-8") if l.strip()]
    except UnicodeDecodeError:
        pass
rng.shuffle(lines)
lines = lines[:20000]

def post(t, after, before=()):
    names = {a: t["vocab_id"](a) for a in (*after, *before)}
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": b, "type_id": 0}} for b in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
            + [{"SpecialToken": {"id": a, "type_id": 0}} for a in after],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in names.items()}}

def added(id, content, **kw):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **kw}

def write(name, o):
    o = {"version": "1.0", "truncation": None, "padding": None, **o}
    s = json.dumps(o, ensure_ascii=False)
    Tokenizer.from_str(s)
    with gzip.GzipFile(os.path.join(HERE, name + ".json.gz"), "wb", mtime=0) as f:
        f.write(s.encode())
    return Tokenizer.from_str(s)

made = {}
# sentencepiece's Unigram, as SigLIP's and T5's vocabularies are.
with tempfile.TemporaryDirectory() as tmp:
    open(tmp + "/t.txt", "w").write("\n".join(lines))
    spm.SentencePieceTrainer.train(input=tmp + "/t.txt", model_prefix=tmp + "/m", vocab_size=2500, model_type="unigram",
                                   pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name="nmt_nfkc", minloglevel=2, character_coverage=0.98)
    m = pb.ModelProto.FromString(open(tmp + "/m.model", "rb").read())
vocab = [[p.piece, p.score] for p in m.pieces]
index = {p: i for i, (p, _) in enumerate(vocab)}
charsmap = base64.b64encode(m.normalizer_spec.precompiled_charsmap).decode()
for name, metaspace in (("unigram", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}),
                        ("unigram-first", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False})):
    made[name] = write(name, {
        "added_tokens": [added(0, "<pad>"), added(1, "</s>"), added(2, "<unk>"), added(2500, "<extra_0>", lstrip=True, rstrip=True)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap},
            {"type": "Strip", "strip_left": False, "strip_right": True}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]} if name == "unigram" else metaspace,
        "post_processor": post({"vocab_id": index.get}, ["</s>"]), "decoder": None,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False}})

# tokenizers' Unigram with byte fallback and lower case.
t = Tokenizer(models.Unigram())
t.normalizer = normalizers.Lowercase()
t.pre_tokenizer = pre_tokenizers.Metaspace()
t.train_from_iterator([l for l in lines if l.isascii()], trainers.UnigramTrainer(vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], unk_token="<unk>", show_progress=False))
o = json.loads(t.to_str())
o["model"]["byte_fallback"] = True
o["added_tokens"] = [a for a in o["added_tokens"] if not a["content"].startswith("<0x")]
o["post_processor"] = post({"vocab_id": t.token_to_id}, ["</s>"], ["<s>"])
made["unigram-bytes"] = write("unigram-bytes", o)

# BPE as Gemma's: spaces visible, pieces of whole texts, bytes for the rest.
def bpe(name, lowercase, byte_fallback, legacy):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    n = [normalizers.Lowercase()] if lowercase else []
    t.normalizer = normalizers.Sequence(n + [normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    t.train_from_iterator([l.replace(" ", " ▁").split(" ")[i] for l in lines[:4000] for i in range(l.count(" ") + 1)],
                          trainers.BpeTrainer(vocab_size=2200, special_tokens=special, limit_alphabet=180, show_progress=False))
    o = json.loads(t.to_str())
    o["added_tokens"] = [a for a in o["added_tokens"] if not a["content"].startswith("<0x")]
    size = len(o["model"]["vocab"])
    o["added_tokens"] += [added(size, "\n\n", special=False), added(size + 1, "▁▁", special=False),
                          added(size + 2, "Hello World", special=False, normalized=True, single_word=True)]
    o["post_processor"] = post({"vocab_id": t.token_to_id}, ["<eos>"])
    if legacy:
        o["model"]["merges"] = [" ".join(m) for m in o["model"]["merges"]]
    made[name] = write(name, o)

bpe("bpe", True, True, False)
bpe("bpe-unk", False, False, True)

# Strings: lines of text as they are, and hostile ones.
odd = ["\u0301", "e\u0301", "ﬁ", "①", "Ǆ", "İ", "Σ", "ΑΣ", "ß", "가", "\u1100\u1161", "\u200d", "\ufe0f", "👩\u200d🚀", "🇩🇪", "\u00a0", "\u3000", "\u2028",
       "\r\n", "\t", "\n\n", "▁", "▁▁", "  ", "</s>", "<pad>", "<unk>", "<eos>", "<0x41>", "<extra_0>", "Hello World", "hello world", "_", "\u0000", "\u007f", "\u0085",
       "\ufeff", "\ufffd", "½", "㍿", "ａ", "ﾊﾞ", "ハ\u3099", "नि", "กำ", "\U0001d400", "𠮷", "\ue000", "&amp;", "â€™", "don't", "!?", "…", "\u202e", "\u0600", "a\u0315\u0300\u05ae\u0062"]
def hostile():
    n = rng.choice([1, 2, 3, 5, 8, 13, 30])
    s = ""
    for _ in range(n):
        k = rng.random()
        if k < 0.5:
            s += rng.choice(odd)
        elif k < 0.7:
            s += chr(rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x300, 0x3000), rng.randrange(0x3000, 0xd800), rng.randrange(0x1f300, 0x1fa00), rng.randrange(0xe000, 0x10000)]))
        elif k < 0.9:
            s += rng.choice(rng.choice(lines).split()) + rng.choice(["", " ", "  "])
        else:
            s += rng.choice(odd) * rng.randrange(1, 40)
    return s
strings = [rng.choice(lines)[:rng.choice([20, 60, 160])] for _ in range(3998)] + ["", " "] + [hostile() for _ in range(4000)]
clean = get_clean_fn("canonicalize")
out = {"tokenizers": sorted(made), "strings": strings,
       "ids": {n: [t.encode(s).ids for s in strings] for n, t in made.items()},
       "canonical": [clean(s) for s in strings[-1000:]]}
with gzip.GzipFile(os.path.join(HERE, "cases.json.gz"), "wb", mtime=0) as f:
    f.write(json.dumps(out, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
print({n: t.get_vocab_size() for n, t in made.items()}, len(strings))
