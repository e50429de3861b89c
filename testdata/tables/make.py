"""Tables of quotes, line breaks and separators, as pandas 3.1 reads them: cases.json."""
import io
import json
import os
import random
import re

import pandas

HEAD = "path,caption"
CASES = {
    "plain": "path,caption\na.jpg,a cat\nb.jpg,a dog\n",
    "no line break at the end": "path,caption\na.jpg,a cat",
    "a word in quotes begins the field": 'path,caption\na.jpg,"Wow" she said\nb.jpg,fine\n',
    "a quote inside": 'path,caption\na.jpg,a 5" screen\nb.jpg,x\n',
    "quotes inside": 'path,caption\na.jpg,say "hi" there\nb.jpg,x\n',
    "doubled": 'path,caption\na.jpg,"say ""hi"" there"\n',
    "only a doubled quote": 'path,caption\na.jpg,""""\nb.jpg,""""""\n',
    "empty in quotes": 'path,caption\na.jpg,""\nb.jpg,""x\n',
    "comma in quotes": 'path,caption\na.jpg,"a cat, a dog"\n',
    "comma outside quotes": "path,caption\na.jpg,a cat, a dog\n",
    "more fields later": "path,caption\na.jpg,x\nb.jpg,x,y\n",
    "line break in quotes": 'path,caption\na.jpg,"two\nlines"\nb.jpg,x\n',
    "crlf in quotes": 'path,caption\r\na.jpg,"two\r\nlines"\r\nb.jpg,x\r\n',
    "cr in quotes": 'path,caption\na.jpg,"two\rlines"\nb.jpg,x\n',
    "crlf": "path,caption\r\na.jpg,x\r\nb.jpg,y\r\n",
    "cr": "path,caption\ra.jpg,x\rb.jpg,y\r",
    "mixed line ends": "path,caption\ra.jpg,x\nb.jpg,y\r\nc.jpg,z\n\r\n",
    "cr and a comma": "path,caption\na.jpg,x\r,y\n",
    "never closed": 'path,caption\na.jpg,"x\nb.jpg,y\n',
    "never closed at the end": 'path,caption\na.jpg,x\nb.jpg,"',
    "closed at the end": 'path,caption\na.jpg,"x"',
    "doubled at the end": 'path,caption\na.jpg,"x""',
    "text after the closing quote": 'path,caption\na.jpg,"x"y"z\nb.jpg,"x" y,\n',
    "text and a comma after the closing quote": 'path,caption\na.jpg,"x"y,z\n',
    "space before the quote": 'path,caption\na.jpg, "x, y"\n',
    "space before the quote alone": 'path,caption\na.jpg, "x"\n',
    "blank lines": "path,caption\n\na.jpg,x\n   \nb.jpg,y\n\t\n\n",
    "blank lines first": "\n \npath,caption\na.jpg,x\n",
    "leading space": "path,caption\n  a.jpg,x\n",
    "short row": "path,caption\na.jpg\nb.jpg,y\n",
    "short row of three": "path,caption,label\na.jpg,x\nb.jpg,y,2\n",
    "trailing comma in all rows": "path,caption\na.jpg,x,\nb.jpg,y,\n",
    "mark": "\ufeffpath,caption\na.jpg,x\n",
    "mark and quotes": '\ufeff"path","caption"\n"a.jpg","x"\n',
    "header in quotes": '"path","caption"\na.jpg,x\n',
    "quote in the header": 'path,cap"tion\na.jpg,x\n',
    "backslash": 'path,caption\na.jpg,"a \\" b"\n',
    "single quotes": "path,caption\na.jpg,'x, y'\n",
    "unicode": "path,caption\nä.jpg,“quoted” — ß\u2028x\nb.jpg,\u00a0y\n",
    "form feed and vertical tab": "path,caption\na.jpg,x\x0cy\x0bz\n",
    "json list": 'path,caption\na.jpg,"[""one"", ""two, three""]"\n',
    "missing values stay words": "path,caption\na.jpg,NA\nb.jpg,None\nc.jpg,\n",
    "only a header": "path,caption\n",
    "comment sign": "path,caption\n#a.jpg,x\n",
    "number-like": "path,caption\n001,1e5\n",
    "quote opens on an own line": 'path,caption\n"a.jpg\n","x"\n',
    "tab: word in quotes": 'path\tcaption\na.jpg\tx\nb.jpg\ty\nc.jpg\tz\nd.jpg\t"Wow" she said\ne.jpg\tv\n',
    "tab: comma": "path\tcaption\na.jpg\tx, y\n",
    "tab: quote inside": 'path\tcaption\na.jpg\ta 5" screen\n',
    "tab: tab in quotes": 'path\tcaption\na.jpg\t"x\ty"\n',
    "tab: never closed": 'path\tcaption\na.jpg\t"x\nb.jpg\ty\n',
    "tab: empty fields": "path\tcaption\tlabel\na.jpg\t\t1\n\tx\t\n",
    "tab: spaces": "path\tcaption\n a.jpg\t x \n",
    "semicolon": "path;caption\na.jpg;x, y\nb.jpg;\"x; y\"\n",
    "bar": "path|caption\na.jpg|x, y\nb.jpg|\"x| y\"\n",
    "utf-8 broken": b"path,caption\na.jpg,caf\xe9\n",
    "utf-16": "path,caption\na.jpg,x\n".encode("utf-16"),
    "utf-16 big": b"\xfe\xff" + "path,caption\na.jpg,x\n".encode("utf-16-be"),
}


def judge(data, sep):
    try:
        t = pandas.read_csv(io.BytesIO(data), sep=sep, dtype=str, keep_default_na=False)
    except Exception as e:
        return {"error": type(e).__name__}
    if not isinstance(t.index, pandas.RangeIndex):
        return {"error": "a column of the rows without a name becomes the index"}
    return {"header": list(t.columns), "rows": t.fillna("").values.tolist()}


def main():
    cases = []
    for name, text in CASES.items():
        data = text if isinstance(text, bytes) else text.encode()
        sep = "\t" if name.startswith("tab") else ";" if name == "semicolon" else "|" if name == "bar" else ","
        cases.append({"name": name, "sep": sep, "data": data.hex(), **judge(data, sep)})
    rng = random.Random(14)
    for i in range(600):
        body = "".join(rng.choice(['"', '"', ",", ",", "\n", "\n", "\r", " ", "\t", "x", "y", "\\"]) for _ in range(rng.randint(1, 24)))
        data = (HEAD + "\n" + body).encode()
        if re.search(r"(^|[\n\r])[ \t]*\r,", body):
            continue  # pandas loses the comma after a blank line that ends with a lone carriage return
        cases.append({"name": f"random {i}", "sep": ",", "data": data.hex(), **judge(data, ",")})
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(len(cases), sum("error" in c for c in cases))


if __name__ == "__main__":
    main()
