package dataset

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// within fails when f asks for more than a multiple of n bytes, all allocations
// counted.
func within(t *testing.T, n int, f func()) {
	t.Helper()
	const base, each = 16 << 20, 2_000
	if got := allocated(f); got > base+each*int64(n) {
		t.Errorf("%d bytes were asked for by an input of %d", got, n)
	}
}

// FuzzNames: lists of class names in each of their forms, against classes.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"card.md", "card-two.md"} {
		b, err := os.ReadFile(filepath.Join(huggingFace, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{
		"cat\ndog\r\nbird\n", "\xef\xbb\xbf0\n1\n2\n", "\xff\xfec\x00", "cat\ncat\n", "\n\n\n", "e\u0301\n\u00e9\n",
		`{"default": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}`,
		`{"features": {"label": {"names": {"0": "cat", "1": "dog"}}}}`, `{"features": {"label": {"names": {"-1": "cat", "99999999999": "dog"}}}}`,
		`{"info": {"features": {"label": {"names": ["n01440764", "tench, Tinca tinca"]}}}}`,
		"---\n- name: label\n  class_label:\n    names:\n      '0': \"\\u0000\n", "---\n- name: label\nnames:\n ? : : \n---\n",
	} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		within(t, len(data), func() {
			if err := os.WriteFile(filepath.Join(dir, "classnames.txt"), data, 0o644); err != nil {
				t.Fatal(err)
			}
			lists := [][]string{infosNames(data, "label"), cardNames(data, "label")}
			file, err := classNamesFile(t.Context(), disk{}, filepath.Join(dir, "classnames.txt"))
			if err == nil {
				lists = append(lists, file)
			}
			if names, err := parquetNames(string(data), "label"); err == nil {
				lists = append(lists, names)
			}
			for _, names := range lists {
				for _, sparse := range []bool{false, true} {
					l, err := newLabels(Options{ClassNames: []string{"cat", "dog", "0", "é"}, Also: [][]string{{"felis, cat", "", "x", ""}}}).with(nameList{names, sparse}, "fuzz")
					if err != nil || l.own == nil {
						continue
					}
					for i, class := range l.to {
						if class < -1 || class >= 4 {
							t.Fatalf("number %d is class %d of 4", i, class)
						}
					}
				}
			}
		})
	})
}

// FuzzTruth: the files with the classes of ImageNet's validation images.
func FuzzTruth(f *testing.F) {
	for _, s := range []string{"490\n361\n171\n", "n01440764\nn01443537\n", "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4 \n", "ILSVRC2012_val_00000001.JPEG 65\n", "\r\n", "-1\n1001\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		within(t, len(data), func() {
			for _, truth := range truths {
				class, err := truth.read(lines(data))
				if err == nil && len(class) > len(data)+1 {
					t.Fatalf("%s: %d classes of %d bytes", truth.name, len(class), len(data))
				}
			}
			unpackTruth(data)
		})
	})
}

// FuzzTar: the index of a tar, and its samples.
func FuzzTar(f *testing.F) {
	for _, entries := range [][]entry{
		{{"a.jpg", "x"}, {"a.txt", "cat"}, {"a.cls", "1"}, {"b.jpg", "y"}, {"b.json", `{"caption": "dog", "label": 2}`}},
		{{"n01440764/a.JPEG", "x"}, {"n01443537/b.JPEG", "y"}},
		{{"a.1.jpg", "x"}, {"a.2.jpg", "y"}, {"a.txt", "\xff\xfex\x00"}},
		{{strings.Repeat("long/", 60) + "a.png", "x"}},
	} {
		f.Add(tarBytes(f, entries))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		src := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(src, data, 0o644); err != nil {
			t.Fatal(err)
		}
		within(t, len(data), func() {
			d, err := Open(context.Background(), src, Options{})
			if err != nil {
				if strings.Contains(err.Error(), "offset -") {
					t.Error(err)
				}
				return
			}
			for i := range min(d.Len(), 50) {
				d.Read(i)
			}
		})
	})
}

// FuzzCOCO: COCO's captions.
func FuzzCOCO(f *testing.F) {
	f.Add([]byte(cocoText))
	f.Add([]byte(`{"images": [{"id": "a", "file_name": "../x"}], "annotations": [{"image_id": "a", "caption": "\ud800"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		within(t, len(data), func() {
			IsCOCO(data)
			cocoRecords(t.Context(), disk{}, "captions_val2017.json", data)
		})
	})
}
