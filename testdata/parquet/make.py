"""Small Parquet files in every codec and encoding, as pyarrow writes them: values.json says what is in them."""
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq

HERE = os.path.dirname(os.path.abspath(__file__))


def rows(n, seed=1):
    rng = random.Random(seed)
    words = ["cat", "dog", "a long caption with words", "猫", "", "x" * 40]
    return {
        "path": [f"images/{i:06d}.jpg" for i in range(n)],
        "caption": [[rng.choice(words) + str(i) for _ in range(rng.randint(1, 3))] for i in range(n)],
        "label": [rng.choice([None, 0, 1, 2, 7, 1000]) for _ in range(n)],
        "image": [{"bytes": None if i % 5 == 4 else bytes([i % 256]) * rng.randint(0, 60), "path": f"{i}.png"} for i in range(n)],
    }


SCHEMA = pa.schema([
    ("path", pa.string()),
    ("caption", pa.list_(pa.string())),
    ("label", pa.int64()),
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
])

CASES = {}
for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
    CASES["codec-" + codec] = dict(compression=codec, data_page_version="1.0")
    CASES["v2-" + codec] = dict(compression=codec, data_page_version="2.0", use_dictionary=False)
for encoding in ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"]:
    for version in ["1.0", "2.0"]:
        CASES[f"{encoding.lower().replace('_', '-')}-v{version[0]}"] = dict(
            use_dictionary=False, data_page_version=version, compression="zstd",
            column_encoding={"path": encoding, "caption.list.element": encoding, "image.bytes": encoding, "label": "DELTA_BINARY_PACKED"})
CASES["stream-split"] = dict(use_dictionary=False, column_encoding={"label": "BYTE_STREAM_SPLIT"})
CASES["small-pages"] = dict(data_page_size=64, write_batch_size=4, dictionary_pagesize_limit=256)
CASES["page-index"] = dict(data_page_size=64, write_batch_size=4, write_page_index=True)
CASES["checksums"] = dict(data_page_size=64, write_batch_size=4, write_page_checksum=True)
CASES["row-groups"] = dict(row_group_size=7)
# Row groups of one row: where that is null the dictionary is empty.
CASES["nulls-brotli"] = dict(row_group_size=1, compression="brotli")

CASES["empty-group"] = dict(compression="zstd")  # as a part of a table that no row was written to


def main():
    values = {}
    for name, options in CASES.items():
        n = 40 if "page" in name or name in ("checksums", "row-groups") else 12
        data = rows(n)
        options = {"compression": "snappy", **options}
        table = pa.table(data, schema=SCHEMA)
        with pq.ParquetWriter(os.path.join(HERE, name + ".parquet"), SCHEMA, **{k: v for k, v in options.items() if k != "row_group_size"}) as w:
            if name == "empty-group":
                w.write_table(table[:0])
            w.write_table(table, options.get("row_group_size"))
        back = pq.read_table(os.path.join(HERE, name + ".parquet")).to_pylist()
        values[name] = [{
            "caption": [c for c in r["caption"] if c.strip()], "label": -1 if r["label"] is None else r["label"],
            "image": None if r["image"]["bytes"] is None else r["image"]["bytes"].hex(), "path": r["image"]["path"],
        } for r in back]
    with open(os.path.join(HERE, "values.json"), "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items()) + "\n}\n")


if __name__ == "__main__":
    main()
