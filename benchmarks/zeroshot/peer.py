"""The other side of the comparison: open_clip on the same images.

peer.py make CONFIG OUT.pt          random weights, seed 0
peer.py score CONFIG FILE.pt DIR DTYPE   zero-shot over an image folder
"""

import json
import os
import sys
import time

import open_clip
import torch
from torchvision.datasets import ImageFolder

COMMAND, CONFIG = sys.argv[1:3]


def make(out):
    torch.manual_seed(0)
    model = open_clip.create_model(CONFIG, pretrained=None)
    torch.save(model.state_dict(), out)


@torch.no_grad()
def score(file, folder, dtype):
    model, _, preprocess = open_clip.create_model_and_transforms(CONFIG, pretrained=None)
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()
    data = ImageFolder(folder, preprocess)
    tokenizer = open_clip.get_tokenizer(CONFIG)
    prompts = ["a photo of a %s." % c.replace("_", " ") for c in data.classes]
    classes = torch.nn.functional.normalize(model.encode_text(tokenizer(prompts)), dim=-1)
    if dtype == "bf16":
        model = model.bfloat16()
    loader = torch.utils.data.DataLoader(data, batch_size=32, num_workers=int(os.environ.get("PEER_WORKERS", "2")))
    top1, start = [], time.time()
    for images, _ in loader:
        x = model.encode_image(images.to(torch.bfloat16) if dtype == "bf16" else images).float()
        top1 += (100 * torch.nn.functional.normalize(x, dim=-1) @ classes.T).argmax(1).tolist()
    seconds = time.time() - start
    print(json.dumps({"images_per_second": len(top1) / seconds, "top1": top1}))


{"make": make, "score": score}[COMMAND](*sys.argv[3:])
