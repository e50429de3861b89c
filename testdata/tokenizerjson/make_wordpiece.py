"""wordpiece.json.gz: a WordPiece tokenizer of BERT's kind trained on the strings here, 8,000 strings (half of
them hostile) and their tokens, by the library tokenizers 0.23.

    python make_wordpiece.py
"""
import gzip
import json
import random
import unicodedata

from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.processors import BertProcessing, TemplateProcessing

rng = random.Random(16)
WORDS = """a photo of the cat dog bird car house tree river mountain Zebra Übergröße naïve café résumé coöperate Ångström jalapeño
São Paulo İstanbul ΑΘΗΝΑ Οδυσσεύς straße Москва ёлка Київ 東京 中文字符 日本語 かな 한국어 หมา नमस्ते مرحبا שלום 1234 3.14 don't it's
rock'n'roll e-mail foo_bar C++ #1 @home 50% $5 €20 £3 ½ ² ﬁne ＡＢＣ […] “quoted” ‘x’ — – … ¿qué? ¡hola! 👍 👨‍👩‍👧 🇩🇪 ❤️ a\u0301 e\u0323\u0301
running unbelievable antidisestablishmentarianism photograph photographs photographer""".split()

EDGES = [0x3400, 0x4DBF, 0x4E00, 0x9FFF, 0xF900, 0xFAFF, 0x20000, 0x2A6DF, 0x2A700, 0x2B73F, 0x2B740, 0x2B81F, 0x2B820, 0x2B920, 0x2CEAF, 0x2F800, 0x2FA1F]


def plain():
    return " ".join(rng.choice(WORDS) if rng.random() < 0.9 else rng.choice(WORDS).upper() for _ in range(rng.randint(0, 12)))


def hostile():
    kind = rng.randrange(8)
    if kind == 0 and rng.random() < 0.3:  # where the library's ranges of Chinese characters begin and end
        return "".join(rng.choice("ab") + chr(rng.choice(EDGES) + rng.randint(-1, 1)) for _ in range(rng.randint(1, 9)))
    if kind == 0:  # any characters
        return "".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(rng.randint(1, 20))) if not 0xD800 <= c < 0xE000)
    if kind == 1:  # any of the basic plane's letters and marks
        return "".join(chr(c) for c in (rng.randrange(0x3000) for _ in range(rng.randint(1, 30))))
    if kind == 2:  # special tokens and what looks like them
        return "".join(rng.choice(["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "[cls]", "[ SEP ]", "##a", "[", "]", " ", "a", "[SE", "P]"]) for _ in range(rng.randint(1, 9)))
    if kind == 3:  # long words
        return rng.choice("aäあ中.") * rng.randint(90, 130) + plain()
    if kind == 4:  # white space and controls
        return "".join(rng.choice(list("ab \t\r\n\v\f\x00\x01\x1c\x1f\x7f\x85\xa0\xad\u200b\u200d\u2028\u3000\ufeff\ufffd\ue000\U000e0001")) for _ in range(rng.randint(1, 25)))
    if kind == 5:  # marks on marks
        return "".join(rng.choice("aeoAEİıΣσςß") + "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randrange(5))) for _ in range(rng.randint(1, 9)))
    if kind == 6:  # decomposed, compatibility
        return unicodedata.normalize(rng.choice(["NFD", "NFKD", "NFC", "NFKC"]), plain() + "ﷺ각쎀ａ㎒")
    return "".join(rng.sample(plain() + "!?.,;:'\"()[]{}<>|\\/~`@#$%^&*-_=+§¶•†‡※、。「」", k=12))


strings = [plain() for _ in range(4000)] + [hostile() for _ in range(4000)]
trained = BertWordPieceTokenizer(lowercase=True)
trained.train_from_iterator(strings[:4000:2], vocab_size=700, min_frequency=1, show_progress=False)
out = {"strings": strings, "tokenizers": []}
for lowercase, strip, chinese in [(True, None, True), (False, None, True), (True, False, False), (False, True, True)]:
    spec = json.loads(trained.to_str())
    spec["normalizer"].update(lowercase=lowercase, strip_accents=strip, handle_chinese_chars=chinese)
    tok = Tokenizer.from_str(json.dumps(spec))
    v = tok.get_vocab()
    tok.post_processor = BertProcessing(("[SEP]", v["[SEP]"]), ("[CLS]", v["[CLS]"]))
    if chinese:
        tok.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", v["[CLS]"]), ("[SEP]", v["[SEP]"])])
    ids = [e.ids for e in tok.encode_batch(strings if lowercase and strip is None else strings[::5])]
    out["tokenizers"].append({"json": json.loads(tok.to_str()), "every": len(strings) // len(ids), "ids": ids})
with gzip.GzipFile("wordpiece.json.gz", "wb", mtime=0) as f:
    f.write(json.dumps(out).encode())
