"""siglip.json.gz: what transformers' SiglipTokenizer and Siglip2Tokenizer make of 2,000 strings, half of them
hostile, and the folders that they read: a sentencepiece model with the tokenizer.json of the same vocabulary
(which SiglipTokenizer does not read), and a BPE of Gemma's kind.

    python testdata/tokenizerjson/make_siglip.py

Made with transformers 5.24.0, sentencepiece 0.2.3, tokenizers 0.23.3. Strings that have a special token are left
out: evatool cleans those away first.
"""
import base64
import gzip
import json
import os
import tempfile

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from transformers import AutoTokenizer, Siglip2Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
packed = lambda name: json.loads(gzip.open(os.path.join(HERE, name + ".json.gz")).read().decode("utf-8", "surrogatepass"))
strings = packed("cases")["strings"]
lines = strings[:3998]
at = [i for i in [*range(0, 4000, 4), *range(4000, 8000, 4)] if not any(s in strings[i] for s in ("<pad>", "</s>", "<unk>", "<eos>", "<bos>", "<mask>"))]
CONTEXT = 64
out = {"context": CONTEXT, "at": at, "tokenizers": {}}


def judged(name, dir, files):
    tok = AutoTokenizer.from_pretrained(dir)
    ids = tok([strings[i] for i in at], padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    pad = tok.pad_token_id
    for row in ids:
        while row and row[-1] == pad:
            row.pop()
    out["tokenizers"][name] = {**files, "pad": pad, "ids": ids}
    print(type(tok).__name__, len(tok), [len(r) for r in ids[:4]])


with tempfile.TemporaryDirectory() as dir:
    open(dir + "/t.txt", "w").write("\n".join(lines))
    spm.SentencePieceTrainer.train(input=dir + "/t.txt", model_prefix=dir + "/spiece", vocab_size=1500, model_type="unigram", pad_id=0, eos_id=1,
                                   unk_id=2, bos_id=-1, normalization_rule_name="nmt_nfkc", add_dummy_prefix=False, minloglevel=2, character_coverage=0.98)
    m = pb.ModelProto.FromString(open(dir + "/spiece.model", "rb").read())
    config = {"tokenizer_class": "SiglipTokenizer"}
    json.dump(config, open(dir + "/tokenizer_config.json", "w"))
    added = lambda i, s: {"id": i, "content": s, "single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(1, "</s>"), added(2, "<unk>")],
                 "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(m.normalizer_spec.precompiled_charsmap).decode()},
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
                 "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                                    "pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
                 "decoder": None, "model": {"type": "Unigram", "unk_id": 2, "vocab": [[p.piece, p.score] for p in m.pieces], "byte_fallback": False}}
    os.remove(dir + "/t.txt")
    judged("siglip", dir, {"tokenizer": tokenizer, "tokenizer_config": config})

gemma = packed("bpe")
gemma["added_tokens"] = [a for a in gemma["added_tokens"] if a["special"]]
for kind in ("Siglip2Tokenizer", "GemmaTokenizer"):
    with tempfile.TemporaryDirectory() as dir:
        config = {"tokenizer_class": kind, "padding_side": "right", "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
        file = {**gemma, "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}
        file["added_tokens"] = file["added_tokens"] + [{**file["added_tokens"][0], "id": 2300, "content": "<mask>"}]
        json.dump(config, open(dir + "/tokenizer_config.json", "w"))
        json.dump(file, open(dir + "/tokenizer.json", "w"))
        judged(kind, dir, {"tokenizer": file, "tokenizer_config": config})
with gzip.GzipFile(os.path.join(HERE, "siglip.json.gz"), "wb", mtime=0) as f:
    f.write(json.dumps(out, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
