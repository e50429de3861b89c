"""Compares evatool's 38 figures with CLIP_benchmark's, from the same features.

Writes a small made-up set for each of DataComp's 38, in the layout of DataComp's
downloader and in CLIP_benchmark's; has both scored by `evatool zeroshot datacomp`;
then lets CLIP_benchmark's loaders and metrics score the second, with features of
`evatool embed`. What CLIP_benchmark does not compute (macro F1, worst groups,
Jaccard) is as WILDS and DataComp define it, with scikit-learn.

    python judge.py EVATOOL MODEL TASKS.csv [SEED]     in an empty folder

MODEL is the model of testdata/zeroshot, converted. With clip-benchmark 1.6.2.
"""
import csv, io, json, os, subprocess, sys, tarfile, warnings

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

warnings.filterwarnings("ignore")
evatool, model, tasks = sys.argv[1:4]
rng = np.random.default_rng(int(sys.argv[4]) if len(sys.argv) > 4 else 0)
N, CLASSES = 40, 7
GROUPS = {"fmow": 0, "dollar-street": 1, "geode": 0}
for b in json.load(open(os.path.join(os.path.dirname(__file__), "../../internal/dataset/data/benchmarks.json"))):
    if b.get("group"):
        GROUPS[b["name"]] = b["group"].get("column", 0)
HUB = {"flickr30k": ("test_1k_flickr.csv", "images_flickr_1k_test", "wds_flickr30k"), "coco": ("test_5k_mscoco_2014.csv", "images_mscoco_2014_5k_test", "wds_mscoco_captions")}
os.makedirs("all", exist_ok=True)
WORDS = "goldfish,golden retriever,zebra,airliner,fire truck,school bus,volcano,bad goldfish,origami zebra,bad airliner,origami volcano,the fire truck,a school bus,bad zebra,itap of volcano".split(",")  # tokens that the tests' model has
pictures = {}  # PNG file → pixels


def png():
    im = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
    b = io.BytesIO()
    Image.fromarray(im).save(b, "PNG")
    path = "all/%05d.png" % len(pictures)
    open(path, "wb").write(b.getvalue())
    pictures[path] = im.tobytes()
    return b.getvalue()


def put(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "wb").write(data if isinstance(data, bytes) else data.encode())


def npy(v):
    b = io.BytesIO()
    np.save(b, np.array(v, dtype=np.int64))
    return b.getvalue()


def table(head, rows):
    s = io.StringIO()
    csv.writer(s).writerows([head] + rows)
    return s.getvalue()


sets = list(csv.DictReader(open(tasks)))
texts, truth = [], {}
for s in sets:
    key, name = s["key"], s["benchmark"]
    if name == "winogavil":
        images = {"thing%d" % k: png() for k in range(12)}
        asked = []
        for q, n in enumerate([5, 6, 10, 12, 12, 10, 12]):
            c = list(images)[:n]
            asked.append((c, WORDS[q], list(rng.choice(c, int(rng.integers(2, 5)), replace=False))))
        rows = [[q, str(list(map(str, c))), cue, str(list(map(str, a)))] for q, (c, cue, a) in enumerate(asked)]
        texts += ["A " + cue for _, cue, _ in asked]
        for root in ("B/winogavil", "A/hf_cache/downloads/extracted/ab"):
            for k, b in images.items():
                put(f"{root}/winogavil_images/{k}.jpg", b)
        put("B/winogavil/winogavil_dataset.csv", table(["ID", "candidates", "cue", "associations"], rows))
        put("A/hf_cache/downloads/77", table(["ID", "candidates", "cue", "associations"], rows))
        put("A/hf_cache/downloads/77.json", '{"url": "https://x/winogavil_dataset.csv"}')
        order = list(pictures)[-12:]
        truth[key] = [([order[list(images).index(k)] for k in c], "A " + cue, [order[list(images).index(k)] for k in a]) for c, cue, a in asked]
        continue
    captions, out = name in HUB, io.BytesIO()
    labels = rng.integers(0, CLASSES - 1, N)  # the last class has no picture
    groups = rng.choice([0, 2, 3], N)  # one group is empty
    files = []
    with tarfile.open(fileobj=out, mode="w") as tar:
        for i in range(N):
            members = {"png": png()}
            files.append(list(pictures)[-1])
            if captions:
                members["txt"] = ("%s %s\n%s" % (WORDS[i % 15], WORDS[i // 15], WORDS[14 - i % 15])).encode()
            else:
                members["cls"] = str(labels[i]).encode()
            if name in GROUPS:
                members["npy"] = npy([9] * GROUPS[name] + [groups[i]])
            for ext in sorted(members):
                info = tarfile.TarInfo("s%03d.%s" % (i, ext))
                info.size = len(members[ext])
                tar.addfile(info, io.BytesIO(members[ext]))
    slug = key.replace("/", "-")
    a = "A/wds_" + (key.split("/")[1] if key.startswith("fairness") else slug) + "_test"
    b = HUB[name][2] if captions else "wds_" + slug
    classnames = list(map(str, rng.choice(WORDS, CLASSES, replace=False)))
    templates = ["a photo of a {c}.", "{c}"]
    for folder in ["B/" + b] + [a] * (not captions):
        put(folder + "/test/0.tar", out.getvalue())
        put(folder + "/test/nshards.txt", "1")
        if not captions:
            put(folder + "/classnames.txt", "\n".join(classnames))
            put(folder + "/zeroshot_classification_templates.txt", "\n".join(templates))
    if captions:
        put(f"B/{b}/dataset_type.txt", "retrieval")
        csvname, folder, _ = HUB[name]
        put("A/hf_cache/downloads/" + name, table(["raw", "filename"], [[json.dumps(["%s %s" % (WORDS[i % 15], WORDS[i // 15]), WORDS[14 - i % 15]]), "p%03d.jpg" % i] for i in range(N)]))
        put("A/hf_cache/downloads/" + name + ".json", '{"url": "https://x/%s"}' % csvname)
        for i, f in enumerate(files):
            put(f"A/hf_cache/downloads/extracted/{name}/{folder}/p{i:03d}.jpg", open(f, "rb").read())
        texts += ["%s %s" % (WORDS[i % 15], WORDS[i // 15]) for i in range(N)] + WORDS
    else:
        texts += [t.replace("{c}", c) for c in classnames for t in templates]
    truth[key] = (b, labels, groups, classnames, templates)


def run(*args):
    p = subprocess.run([evatool, *args], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    return p.stdout


ours = {r: json.loads(run("zeroshot", "datacomp", "--backend", "go", "--classifier-cache", "off", "--model", model, "--data", r, "--out", "out" + r, "--json")) for r in "AB"}
texts = list(dict.fromkeys(texts))
open("texts.txt", "w").write("\n".join(texts) + "\n")
run("embed", "--backend", "go", "--model", model, "--texts", "texts.txt", "--normalize=false", "-o", "t.npy")
run("embed", "--backend", "go", "--model", model, "--images", "all", "--normalize=false", "-o", "i.npy")
text, image = torch.tensor(np.load("t.npy")), torch.tensor(np.load("i.npy"))
assert len(image) == len(pictures) and len(text) == len(texts)
place = {pixels: i for i, pixels in enumerate(pictures.values())}
said = {t: i for i, t in enumerate(texts)}


class Features:
    def encode_image(self, x):
        return image[x.long().flatten()]

    def encode_text(self, x):
        return text[x]


def score(s):
    key, name = s["key"], s["benchmark"]
    unit = torch.nn.functional.normalize
    if name == "winogavil":
        got = []
        for c, cue, a in truth[key]:
            f = unit(image[[list(pictures).index(p) for p in c]].double(), dim=-1) @ unit(text[said[cue]].double(), dim=-1)
            chosen = {c[i] for i in np.argsort(f.numpy(), kind="stable")[-len(a):]}
            if len(c) >= 10:
                got.append(len(chosen & set(a)) / len(chosen | set(a)))
        return float(np.mean(got))
    folder, labels, groups, classnames, templates = truth[key]
    data = build_dataset("wds/" + name, root="B/" + folder, transform=lambda im: torch.tensor([float(place[np.asarray(im.convert("RGB")).tobytes()])]), split="test", task="zeroshot_retrieval" if name in HUB else "zeroshot_classification")
    loader = torch.utils.data.DataLoader(data.batched(8), batch_size=None)
    tokens = lambda t: torch.tensor([said[x] for x in t])
    if name in HUB:
        m = zeroshot_retrieval.evaluate(Features(), loader, tokens, "cpu", amp=False, recall_k_list=[1])
        return (m["image_retrieval_recall@1"] + m["text_retrieval_recall@1"]) / 2
    w = zeroshot_classification.zero_shot_classifier(Features(), tokens, data.classes, data.templates, "cpu", amp=False)
    logits, target = zeroshot_classification.run_classification(Features(), w, loader, "cpu", amp=False)
    assert target.tolist() == labels.tolist()
    top5 = (logits.topk(5)[1] == target[:, None]).any(1).numpy()
    top1 = (logits.argmax(1) == target).numpy()
    metric = s["metric"]
    if metric == "f1_macro":
        return f1_score(labels, logits.argmax(1), average="macro", labels=np.unique(labels))
    if metric.startswith("worst_group"):
        right = top5 if metric.endswith("5") else top1
        return min(right[groups == g].mean() for g in np.unique(groups))
    # As evaluate does; its accuracy fails with NumPy 2.4 at float() of one value.
    if metric == "top1":
        return float(logits.topk(1, 1, True, True)[1].t().eq(target.view(1, -1)).float().sum()) / len(target)
    return balanced_accuracy_score(target, logits.argmax(axis=1))


worst, n = 0.0, 0
for s in sets:
    a, b = ([x for x in ours[r]["sets"] if x["key"] == s["key"]][0]["value"] for r in "AB")
    want = score(s)
    n += 1
    worst = max(worst, abs(a - want), abs(b - want))
    if abs(a - want) > 1e-6 or abs(b - want) > 1e-6:
        print("DIFFERENT", s["key"], s["main_metric"], a, b, want)
print(f"{n} of 38 sets compared in two layouts; largest difference {worst:.2g}; average {ours['A']['average']:.6f}, {ours['B']['average']:.6f}")
sys.exit(worst > 1e-6)
