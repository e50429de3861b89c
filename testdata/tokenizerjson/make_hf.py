"""hf.json.gz: small tokenizers of RoBERTa's, XLM-RoBERTa's and NLLB's kind, each as the folder that transformers
writes, and the tokens that open_clip's HFTokenizer makes of the 8,000 strings of cases.json.gz.

    python testdata/tokenizerjson/make_hf.py

NLLB's tokenizer.json has the language's code behind the text, as the published ones that are older than the
class; the class puts it in front. Made with transformers 5.24.0, tokenizers 0.23.3, open_clip_torch 3.3.0.
"""
import gzip
import json
import os
import tempfile

from open_clip.tokenizer import HFTokenizer
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, trainers
from transformers import NllbTokenizer, RobertaTokenizer, XLMRobertaTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
CONTEXT = 48
packed = lambda name: json.loads(gzip.open(os.path.join(HERE, name + ".json.gz")).read().decode("utf-8", "surrogatepass"))
strings = packed("cases")["strings"]
lines = strings[:3998]
unigram = packed("unigram")
charsmap = unigram["normalizer"]["normalizers"][0]["precompiled_charsmap"]

b = ByteLevelBPETokenizer()
b.train_from_iterator(lines, vocab_size=1500, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
o = json.loads(b.to_str())
roberta = RobertaTokenizer(vocab=o["model"]["vocab"], merges=[tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in o["model"]["merges"]])

pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(p, s) for p, s in unigram["model"]["vocab"][3:]] + [("<mask>", 0.0)]
xlmr = XLMRobertaTokenizer(vocab=pieces, _spm_precompiled_charsmap=__import__("base64").b64decode(charsmap))

t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
t.pre_tokenizer = pre_tokenizers.Metaspace()
t.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=1800, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], limit_alphabet=200, show_progress=False))
o = json.loads(t.to_str())
nllb = NllbTokenizer(vocab=o["model"]["vocab"], merges=[tuple(m) for m in o["model"]["merges"]], _spm_precompiled_charsmap=__import__("base64").b64decode(charsmap))

out = {"context": CONTEXT, "tokenizers": {}}
for name, tok in (("roberta", roberta), ("xlm-roberta", xlmr), ("nllb", nllb)):
    with tempfile.TemporaryDirectory() as dir:
        tok.save_pretrained(dir)
        files = {f: json.load(open(os.path.join(dir, f + ".json"))) for f in ("tokenizer", "tokenizer_config")}
        files["tokenizer"].update(truncation=None, padding=None)
        if name == "nllb":
            special = files["tokenizer"]["post_processor"]["special_tokens"]
            files["tokenizer"]["post_processor"] = {"type": "TemplateProcessing", "pair": files["tokenizer"]["post_processor"]["pair"], "special_tokens": special, "single": [
                {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"SpecialToken": {"id": "eng_Latn", "type_id": 0}}]}
        for f, content in files.items():
            json.dump(content, open(os.path.join(dir, f + ".json"), "w"), ensure_ascii=False)
        judge = HFTokenizer(dir, context_length=CONTEXT)
        ids = [[int(i) for i in row] for row in judge(strings)]
        pad = judge.tokenizer.pad_token_id
        for row in ids:
            while row[-1] == pad:
                row.pop()
        out["tokenizers"][name] = {**files, "ids": ids}
        if name == "nllb":
            json.dump({**files["tokenizer_config"], "src_lang": "fra_Latn"}, open(os.path.join(dir, "tokenizer_config.json"), "w"))
            judge = HFTokenizer(dir, context_length=CONTEXT)
            out["tokenizers"][name]["french"] = [[int(i) for i in row] for row in judge(strings[:20])]
        print(name, len(judge.tokenizer), [len(r) for r in ids[:5]])
with gzip.GzipFile(os.path.join(HERE, "hf.json.gz"), "wb", mtime=0) as f:
    f.write(json.dumps(out, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
