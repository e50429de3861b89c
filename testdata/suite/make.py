"""Writes metrics.json: scores made up with ties, absent classes and empty
groups, and what scikit-learn, torch and CLIP_benchmark make of them.

Run with clip-benchmark 1.6.2, scikit-learn and torch: python make.py
"""
import json, warnings
import numpy as np, torch
from sklearn.metrics import balanced_accuracy_score, f1_score, jaccard_score

warnings.filterwarnings("ignore")


def first(logits):  # of equals the lower class, as evatool ranks
    return np.argsort(-logits, axis=1, kind="stable")


def worst(ok, groups):  # WILDS: over the groups that have images
    return min(ok[groups == g].mean() for g in range(groups.max() + 1) if (groups == g).any())


def average_precision(scores, targets):  # CLIP_benchmark's, sorted stably
    out = []
    for k in range(scores.shape[1]):
        order = torch.sort(scores[:, k], dim=0, descending=True, stable=True)[1]
        truth = targets[:, k][order].double()
        precision = truth.cumsum(0) / torch.arange(1, len(truth) + 1)
        out.append(float(precision[truth.bool()].sum() / max(float(truth.sum()), 1)))
    return out


def recalls(scores, positive, k):  # CLIP_benchmark's, of equals the lower index
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(positive, top, 1).any(1).mean())


def choices(rng, tied):
    out = []
    for images, captions in [(2, 2)] * 9 + [(1, 2)] * 9:
        s = (rng.integers(0, 4, (images, captions)) / 4 if tied else rng.normal(size=(images, captions))).astype(np.float32)
        own, k = np.diag(s), min(images, captions)
        # Thrush et al. and Hsieh et al.: above the others, not equal to them.
        text = all(own[i] > s[i, j] for i in range(k) for j in range(captions) if j != i)
        image = all(own[i] > s[j, i] for i in range(k) for j in range(images) if j != i)
        if not tied:  # then it is CLIP_benchmark's: image_caption_selection.evaluate
            assert text == (s.argmax(1)[:k] == np.arange(k)).all() and image == (s.argmax(0)[:k] == np.arange(k)).all()
        out.append({"images": images, "scores": s.flatten().tolist(), "text": bool(text), "image": bool(image)})
    return out


cases = []
for seed in range(4):
    rng = np.random.default_rng(seed)
    n, classes = 60 + 7 * seed, 8 + seed
    logits = rng.integers(-6, 7, (n, classes)).astype(np.float32) / 2  # many ties
    if seed == 3:
        logits = rng.normal(size=(n, classes)).astype(np.float32)  # none
    labels = rng.choice([c for c in range(classes) if c not in (1, 4)], n)  # two classes absent
    groups = rng.choice([0, 2, 3, 6], n)  # empty groups between
    groups[0] = 6
    many = (rng.random((n, classes)) < 0.2).astype(int)
    many[:, 2] = 0  # a class without pictures
    many[::9] = 0  # pictures without a class
    order = first(logits)
    ok, top5 = (order[:, 0] == labels).astype(float), (order[:, :5] == labels[:, None]).any(1).astype(float)
    questions = []
    for _ in range(12):
        k = int(rng.choice([5, 6, 10, 12]))
        scores = (rng.integers(0, 6, k) / 4).astype(np.float32)
        right = sorted(rng.choice(k, int(rng.integers(2, 5)), replace=False).tolist())
        truth = np.isin(np.arange(k), right)
        chosen = np.isin(np.arange(k), np.argsort(scores, kind="stable")[-len(right):])
        questions.append({"scores": scores.tolist(), "right": right, "jaccard": jaccard_score(truth, chosen)})
    pictures, per = 14 + seed, 3
    scores = (rng.integers(0, 9, (pictures * per, pictures)) / 8).astype(np.float32)
    if seed == 3:
        scores = rng.normal(size=scores.shape).astype(np.float32)
    own = np.repeat(np.arange(pictures), per)[:, None] == np.arange(pictures)
    if seed == 3:  # CLIP_benchmark itself
        from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
        for k in (1, 5, 10):
            theirs = (recall_at_k(torch.tensor(scores), torch.tensor(own), k) > 0).float().mean().item()
            assert abs(theirs - recalls(scores, own, k)) < 1e-6
            theirs = (recall_at_k(torch.tensor(scores.T.copy()), torch.tensor(own.T.copy()), k) > 0).float().mean().item()
            assert abs(theirs - recalls(scores.T, own.T, k)) < 1e-6
    case = {
        "retrieval": {"captions_of": per, "scores": scores.tolist(), "text_to_image": [recalls(scores, own, k) for k in (1, 5, 10)], "image_to_text": [recalls(scores.T, own.T, k) for k in (1, 5, 10)]},
        "choices": choices(rng, seed < 3),
        "logits": logits.tolist(), "labels": labels.tolist(), "groups": groups.tolist(), "many": many.tolist(), "questions": questions,
        "top1": ok.mean(), "top5": top5.mean(),
        "mean_per_class": balanced_accuracy_score(labels, order[:, 0]),
        "f1_macro": f1_score(labels, order[:, 0], average="macro", labels=np.unique(labels)),
        "worst_group_top1": worst(ok, groups), "worst_group_top5": worst(top5, groups),
        "average_precision": average_precision(torch.tensor(logits), torch.tensor(many)),
    }
    if seed == 3:  # CLIP_benchmark itself, whose order of equals is not fixed
        from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
        theirs = average_precision_per_class(torch.tensor(logits), torch.tensor(many)).tolist()
        assert np.allclose(theirs, case["average_precision"], atol=1e-6)
    cases.append(case)
json.dump(cases, open("metrics.json", "w"))
