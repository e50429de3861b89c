"""Small Parquet files and dataset cards as `datasets` 5.2 writes them."""
import io
import json
import os

import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image, Value
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData
from PIL import Image as Picture

HERE = os.path.dirname(os.path.abspath(__file__))
CIFAR10 = "truck cat airplane dog ship bird automobile frog deer horse".split()


def png(i):
    b = io.BytesIO()
    Picture.new("RGB", (2, 2), (i * 20 % 256, i * 7 % 256, 255 - i)).save(b, "PNG")
    return b.getvalue()


def write(name, labels, names, column="label", words=None):
    features = {"image": Image(), column: ClassLabel(names=names) if names else Value("int64")}
    data = {"image": [{"bytes": png(i), "path": None} for i in range(len(labels))], column: labels}
    if words:
        features["class_name"], data["class_name"] = Value("string"), words
    Dataset.from_dict(data, features=Features(features)).to_parquet(os.path.join(HERE, name + ".parquet"))


def null_bytes():
    """Images of which two are only paths."""
    features = Features({"image": Image(), "label": ClassLabel(names=["dog", "cat"])})
    images = [{"bytes": None, "path": "pictures/a.png"}, {"bytes": png(3), "path": "b.png"}, {"bytes": None, "path": "pictures/c.png"}]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(images, type=kind), "label": pyarrow.array([0, 1, 1])}, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, os.path.join(HERE, "null-bytes.parquet"), compression="snappy")


def cards():
    names = [
        "truck, lorry: 'big' and very long indeed so that YAML has to fold it somewhere along the line",
        "cat", 'air "plane"', "dog", "ship: a boat", "bird", "no", "frog", "1", "horse",
    ]
    info = DatasetInfo(features=Features({"image": Image(), "label": ClassLabel(names=names)}))
    for file, configs in {"card.md": ["default"], "card-two.md": ["a", "b"]}.items():
        data = DatasetCardData()
        DatasetInfosDict({c: info for c in configs}).to_dataset_card_data(data)
        with open(os.path.join(HERE, file), "w") as f:
            f.write("---\n" + data.to_yaml() + "\n---\n# A set\n")
    with open(os.path.join(HERE, "card-names.json"), "w") as f:
        json.dump(names, f)


def main():
    write("cifar10-own-order", list(range(10)), CIFAR10)
    write("cifar10-other-order", [0, 1], sorted(CIFAR10, reverse=True))
    write("imagenet-subset", [0, 1, 2, 3], "n01498041 n01440764 n02123045 n01484850".split())
    write("imagenet-lemmas", [0, 1, 2, 3], [
        "stingray", "tench, Tinca tinca", "tabby, tabby cat",
        "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
    ])
    write("cifar10-nine", list(range(9)), CIFAR10[:9])
    foreign = "Flugzeug Auto Vogel Katze Hirsch Hund Frosch Pferd Schiff Lastwagen".split()
    write("cifar10-foreign", list(range(10)), foreign)
    write("cifar10-foreign-nine", list(range(9)), foreign[:9])
    write("fine-label", [0, 1], ["aquarium_fish", "apple"], column="fine_label")
    write("numbers", [3, 0, 1], None)
    write("null-label", [3, None, 1], None)
    write("unlabelled", [-1, -1], ["cat", "dog"])
    write("words-beside", [0, 1, 2], None, words=["truck", "cat", "airplane"])
    null_bytes()
    cards()


if __name__ == "__main__":
    main()
