package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/evatool/evatool/internal/fault"
)

// picture is an image of the conformance set. Decoding is not this package's
// work, so any bytes will do.
type picture struct {
	name    string
	data    string
	class   int
	caption string
}

var (
	classes  = []string{"n01440764", "n01443537", "n01484850"}
	pictures = []picture{
		{"a", "\xff\xd8first", 0, "a tench, held"},
		{"b", strings.Repeat("\xff\xd8", 256), 0, `the "big" tench`},
		{"c", "\xff\xd8", 1, "a goldfish\tin a bowl"},
		{"d", strings.Repeat("\xff\xd8 long", 300), 2, "weißer Hai"},
		{"e", strings.Repeat("\x00", 512), 2, "a shark"},
	}
)

// layouts writes the pictures in every layout below dir and says how to open
// each.
var layouts = []struct {
	name     string
	options  Options
	labels   bool
	captions bool
	write    func(t *testing.T, dir string) (src string)
}{
	{name: "imagefolder", labels: true, write: func(t *testing.T, dir string) string {
		for _, p := range pictures {
			write(t, filepath.Join(dir, classes[p.class], p.name+".JPEG"), p.data)
		}
		write(t, filepath.Join(dir, classes[1], "notes.txt"), "no image")
		return dir
	}},
	{name: "imagefolder with class names", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		for _, p := range pictures {
			write(t, filepath.Join(dir, "val", classes[p.class], p.name+".png"), p.data)
		}
		return dir
	}},
	{name: "folders of class numbers", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		for _, p := range pictures {
			write(t, filepath.Join(dir, fmt.Sprint(p.class), p.name+".jpeg"), p.data)
		}
		return dir
	}},
	{name: "folders of more classes", labels: true, options: Options{ClassNames: classes, SkipOthers: true}, write: func(t *testing.T, dir string) string {
		for _, p := range pictures {
			write(t, filepath.Join(dir, classes[p.class], p.name+".png"), p.data)
		}
		write(t, filepath.Join(dir, "n99999999", "x.png"), "another class")
		return dir
	}},
	{name: "braces in the folder's name", labels: true, write: func(t *testing.T, dir string) string {
		for _, p := range pictures {
			write(t, filepath.Join(dir, "{a,b} [1]", classes[p.class], p.name+".jpg"), p.data)
		}
		return filepath.Join(dir, "{a,b} [1]")
	}},
	{name: "tar of class folders", labels: true, write: func(t *testing.T, dir string) string {
		var entries []entry
		for _, p := range pictures {
			entries = append(entries, entry{"imagenet-a/" + classes[p.class] + "/" + p.name + "_0.865 fish.jpg", p.data})
		}
		entries = append(entries, entry{"imagenet-a/README.txt", "cite us"})
		return writeTar(t, filepath.Join(dir, "a.tar"), entries)
	}},
	{name: "webdataset", labels: true, captions: true, write: func(t *testing.T, dir string) string {
		for i := range 3 {
			var entries []entry
			for _, p := range pictures[i*2 : min(i*2+2, len(pictures))] {
				entries = append(entries, entry{p.name + ".txt", p.caption + "\n"}, entry{p.name + ".cls", fmt.Sprint(p.class)}, entry{p.name + ".png", p.data})
			}
			entries = append(entries, entry{"only.txt", "a caption without image"})
			writeTar(t, filepath.Join(dir, fmt.Sprintf("x-%03d.tar", i)), entries)
		}
		return filepath.Join(dir, "x-{000..002}.tar")
	}},
	{name: "webdataset by pattern", labels: true, captions: true, write: func(t *testing.T, dir string) string {
		for i, p := range pictures {
			writeTar(t, filepath.Join(dir, fmt.Sprintf("shard%d.tar", 8+i)), []entry{{p.name + ".webp", p.data}, {p.name + ".cls", fmt.Sprint(p.class)}, {p.name + ".txt", p.caption}})
		}
		return filepath.Join(dir, "shard?.tar::") + filepath.Join(dir, "shard1*.tar")
	}},
	{name: "webdataset with json", labels: true, captions: true, write: func(t *testing.T, dir string) string {
		for i := range 12 { // 2.tar comes before 10.tar
			var entries []entry
			if i < len(pictures) {
				p := pictures[i]
				j := fmt.Sprintf(`{"width": 3, "label": %d, "caption": %q}`, p.class, p.caption)
				name := strings.Repeat("deep/", 30) + p.name
				entries = []entry{{name + ".json", j}, {name + ".JPG", p.data}}
			} else {
				entries = []entry{{"no/image.json", "{}"}}
			}
			writeTar(t, filepath.Join(dir, "test", fmt.Sprintf("%d.tar", i)), entries)
		}
		write(t, filepath.Join(dir, "classnames.txt"), strings.Join(classes, "\n")+"\n")
		return dir
	}},
	{name: "csv", labels: true, captions: true, write: func(t *testing.T, dir string) string {
		table := "path,caption,label\n"
		for _, p := range pictures {
			write(t, filepath.Join(dir, "images", p.name+".jpg"), p.data)
			table += fmt.Sprintf("images/%s.jpg,\"%s\",%d\n", p.name, strings.ReplaceAll(p.caption, `"`, `""`), p.class)
		}
		return write(t, filepath.Join(dir, "t.csv"), table)
	}},
	{name: "csv of class names, no header", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		table := ""
		for _, p := range pictures {
			write(t, filepath.Join(dir, p.name+".webp"), p.data)
			table += p.name + ".webp," + classes[p.class] + "\r\n"
		}
		return write(t, filepath.Join(dir, "t.csv"), table)
	}},
	{name: "tsv", captions: true, options: Options{ImageColumn: "where", CaptionColumn: "what"}, write: func(t *testing.T, dir string) string {
		table := "id\twhat\twhere\n"
		for _, p := range pictures {
			write(t, filepath.Join(dir, p.name+".jpg"), p.data)
			caption := `"` + strings.ReplaceAll(p.caption, `"`, `""`) + `"`
			table += "0\t" + caption + "\t" + p.name + ".jpg\n"
		}
		return write(t, filepath.Join(dir, "t.tsv"), table)
	}},
	{name: "parquet of paths", labels: true, captions: true, write: func(t *testing.T, dir string) string {
		type line struct {
			File  string `parquet:"file_name"`
			Text  string `parquet:"text"`
			Class string `parquet:"label"`
		}
		var rows []line
		for _, p := range pictures {
			write(t, filepath.Join(dir, "images", p.name+".jpg"), p.data)
			rows = append(rows, line{"images/" + p.name + ".jpg", p.caption, classes[p.class]})
		}
		return writeParquet(t, filepath.Join(dir, "t.parquet"), rows, 2)
	}},
	{name: "parquet of images", labels: true, captions: true, write: func(t *testing.T, dir string) string {
		type picture struct {
			Bytes []byte `parquet:"bytes,optional"`
			Path  string `parquet:"path,optional"`
		}
		type line struct {
			Image picture  `parquet:"image,optional"`
			Texts []string `parquet:"captions,list"`
			Label int64    `parquet:"label"`
		}
		for i := range 2 {
			var rows []line
			for _, p := range pictures[i*3 : min(i*3+3, len(pictures))] {
				rows = append(rows, line{picture{[]byte(p.data), p.name + ".jpg"}, []string{p.caption}, int64(p.class)})
			}
			writeParquet(t, filepath.Join(dir, fmt.Sprintf("test-%05d-of-00002.parquet", i)), rows, 2)
		}
		return dir
	}},
	{name: "ilsvrc folder with the ground truth", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		for i, p := range pictures {
			write(t, filepath.Join(dir, "val", validationName(i)), p.data)
		}
		write(t, filepath.Join(dir, "ILSVRC2012_devkit_t12", "data", "ILSVRC2012_validation_ground_truth.txt"), groundTruthLines())
		return dir
	}},
	{name: "ilsvrc tar", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		var entries []entry
		for _, i := range []int{3, 1, 4, 0, 2} {
			entries = append(entries, entry{validationName(i), pictures[i].data})
		}
		write(t, filepath.Join(dir, "ILSVRC2012_validation_ground_truth.txt"), groundTruthLines())
		return writeTar(t, filepath.Join(dir, "ILSVRC2012_img_val.tar"), entries)
	}},
	{name: "ilsvrc tars as they were published", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		var entries []entry
		for i, p := range pictures {
			entries = append(entries, entry{validationName(i), p.data})
		}
		writeTar(t, filepath.Join(dir, "ILSVRC2012_img_val.tar"), entries)
		writeTar(t, filepath.Join(dir, "ILSVRC2012_img_train.tar"), []entry{{"n01440764.tar", "images"}})
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write(tarBytes(t, []entry{{"ILSVRC2012_devkit_t12/readme.txt", "kit"}, {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", groundTruthLines()}}))
		z.Close()
		write(t, filepath.Join(dir, kit), packed.String())
		return dir
	}},
	{name: "ilsvrc folder with the localisation table", labels: true, options: Options{ClassNames: classes}, write: func(t *testing.T, dir string) string {
		table := "ImageId,PredictionString\n"
		for i, p := range pictures {
			write(t, filepath.Join(dir, "ILSVRC/Data/CLS-LOC/val", validationName(i)), p.data)
			table += strings.TrimSuffix(validationName(i), ".JPEG") + "," + classes[p.class] + " 85 1 499 272 \n"
		}
		write(t, filepath.Join(dir, "LOC_val_solution.csv"), table)
		return dir
	}},
}

func validationName(i int) string { return fmt.Sprintf("ILSVRC2012_val_%08d.JPEG", i+1) }

// groundTruthLines are the ILSVRC2012_IDs of the pictures' classes, from the
// development kit: tench 449, goldfish 442, great white shark 450.
func groundTruthLines() string {
	id := map[int]int{}
	for i, wnid := range ilsvrcIDs() {
		if c := slices.Index(classes, wnid); c >= 0 {
			id[c] = i + 1
		}
	}
	out := ""
	for _, p := range pictures {
		out += fmt.Sprintln(id[p.class])
	}
	return out
}

type entry struct{ name, data string }

func write(t *testing.T, name, data string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

func tarBytes(t testing.TB, entries []entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.data))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func writeTar(t *testing.T, name string, entries []entry) string {
	t.Helper()
	return write(t, name, string(tarBytes(t, entries)))
}

// writeParquet writes rows in groups of n.
func writeParquet[T any](t *testing.T, name string, rows []T, n int, options ...parquet.WriterOption) string {
	t.Helper()
	var buf bytes.Buffer
	w := parquet.NewGenericWriter[T](&buf, append(options, parquet.Compression(&parquet.Snappy), parquet.PageBufferSize(16))...)
	for part := range slices.Chunk(rows, n) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return write(t, name, buf.String())
}

func TestConformance(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			src := l.write(t, t.TempDir())
			conform(t, src, l.options, l.labels, l.captions)
		})
	}
}

// conform checks that src holds the pictures, in their order.
func conform(t *testing.T, src string, o Options, labels, captions bool) {
	t.Helper()
	d, err := Open(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Len() != len(pictures) {
		t.Fatalf("%s: %d examples, want %d", d.Describe(), d.Len(), len(pictures))
	}
	var wg sync.WaitGroup
	keys := make([]string, 4*d.Len()) // several goroutines read the same example
	for slot := range keys {
		wg.Go(func() {
			i := slot % d.Len()
			ex, err := d.Read(i)
			if err != nil {
				t.Errorf("Read(%d): %v", i, err)
				return
			}
			p := pictures[i]
			if ex.Index != i || string(ex.Image) != p.data {
				t.Errorf("Read(%d): index %d, image %.20q; want %.20q", i, ex.Index, ex.Image, p.data)
			}
			if labels && ex.Label != p.class || !labels && ex.Label != -1 {
				t.Errorf("Read(%d): label %d, want %d", i, ex.Label, p.class)
			}
			if captions && (len(ex.Captions) != 1 || ex.Captions[0] != p.caption) || !captions && len(ex.Captions) > 0 {
				t.Errorf("Read(%d): captions %q, want %q", i, ex.Captions, p.caption)
			}
			if ex.Path == "" {
				t.Errorf("Read(%d): no path", i)
			}
			keys[slot] = ex.Key
		})
	}
	wg.Wait()
	slices.Sort(keys)
	if keys[0] == "" || len(slices.Compact(keys)) != len(pictures) {
		t.Errorf("keys %q are not distinct", keys)
	}
	again, err := Open(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Fingerprint() != d.Fingerprint() || len(d.Fingerprint()) != 64 {
		t.Errorf("fingerprint %s, then %s", d.Fingerprint(), again.Fingerprint())
	}
}

func TestErrors(t *testing.T) {
	whole := tarBytes(t, []entry{{"a.jpg", strings.Repeat("x", 2000)}, {"a.txt", "caption"}, {"b.jpg", "y"}})
	put := func(name, data string) func(t *testing.T, dir string) string {
		return func(t *testing.T, dir string) string { return write(t, filepath.Join(dir, name), data) }
	}
	tests := []struct {
		name    string
		options Options
		write   func(t *testing.T, dir string) string
		want    []string // parts of the message
	}{
		{name: "nothing there", write: func(t *testing.T, dir string) string { return filepath.Join(dir, "none") }, want: []string{"none", "no such file"}},
		{name: "tar cut inside a file", write: put("x.tar", string(whole[:1000])), want: []string{"x.tar", "truncated", "offset 1000"}},
		{name: "tar cut inside a header", write: put("x.tar", string(whole[:2700])), want: []string{"truncated", "offset 2700"}},
		{name: "tar cut between files", write: put("x.tar", string(whole[:512+2048])), want: []string{"truncated", "offset 2560", "end-of-archive"}},
		{name: "two tars in one", write: put("x.tar", string(whole)+string(whole)), want: []string{"data after the end-of-archive"}},
		{name: "compressed tar", write: put("x.tar", "\x1f\x8b\x08 and so on"), want: []string{"x.tar", "gzip", "decompress"}},
		{name: "compressed by name", write: put("x.tar.gz", "\x1f\x8b"), want: []string{"compressed"}},
		{name: "no tar", write: put("x.tar", strings.Repeat("no tar ", 200)), want: []string{"x.tar", "offset 0"}},
		{name: "empty file", write: put("x.tar", ""), want: []string{"truncated", "offset 0"}},
		{name: "one missing tar of many", write: func(t *testing.T, dir string) string {
			for _, i := range []int{0, 1, 3} {
				write(t, filepath.Join(dir, fmt.Sprintf("x-%02d.tar", i)), string(whole))
			}
			return filepath.Join(dir, "x-{00..03}.tar")
		}, want: []string{"x-02.tar", "no such file", "file 3 of 4"}},
		{name: "one damaged tar of many", write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "x-0.tar"), string(whole))
			write(t, filepath.Join(dir, "x-1.tar"), string(whole[:1024]))
			return filepath.Join(dir, "x-{0..1}.tar")
		}, want: []string{"x-1.tar", "truncated", "one of 2 tars"}},
		{name: "an extension twice", write: func(t *testing.T, dir string) string {
			return writeTar(t, filepath.Join(dir, "x.tar"), []entry{{"a.jpg", "1"}, {"a.txt", "t"}, {"a.jpg", "2"}})
		}, want: []string{"a.jpg occurs twice"}},
		{name: "tar without images", write: func(t *testing.T, dir string) string {
			return writeTar(t, filepath.Join(dir, "x.tar"), []entry{{"a.txt", "1"}})
		}, want: []string{"no samples", "KEY.jpg"}},
		{name: "open brace", write: func(_ *testing.T, dir string) string { return filepath.Join(dir, "x-{000") }, want: []string{"closing }"}},
		{name: "endless brace", write: func(_ *testing.T, dir string) string { return filepath.Join(dir, "x-{0..99999999999}.tar") }, want: []string{"more than"}},
		{name: "unknown extension", write: put("x.docx", ""), want: []string{"x.docx", "not a known kind of dataset"}},
		{name: "empty folder", write: func(t *testing.T, dir string) string { return dir }, want: []string{"empty folder"}},
		{name: "images without folders", write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "a.jpg"), "1")
			return dir
		}, want: []string{"no class folders"}},
		{name: "class without image", write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "cat", "a.jpg"), "1")
			write(t, filepath.Join(dir, "dog", "a.txt"), "1")
			return dir
		}, want: []string{`"dog"`, "no image"}},
		{name: "folder of another set", options: Options{ClassNames: []string{"cat", "dog"}}, write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "cat", "a.jpg"), "1")
			write(t, filepath.Join(dir, "horse", "a.jpg"), "1")
			return dir
		}, want: []string{"1 of 2 folders", `"horse"`}},
		{name: "folder twice", options: Options{ClassNames: []string{"tabby cat", "dog"}}, write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "Tabby_Cat", "a.jpg"), "1")
			write(t, filepath.Join(dir, "tabby-cat", "a.jpg"), "1")
			return dir
		}, want: []string{"Tabby_Cat", "tabby-cat", "both class 0"}},
		{name: "label out of range", options: Options{ClassNames: classes}, write: put("t.csv", "path,label\na.jpg,2\nb.jpg,3\n"), want: []string{"line 3", "b.jpg", "3", "0..2"}},
		{name: "label of no class", options: Options{ClassNames: classes}, write: put("t.csv", "path,label\na.jpg,cat\n"), want: []string{"line 2", "cat"}},
		{name: "no image column", write: put("t.csv", "url,label\na.jpg,2\n"), want: []string{"no image path column", "url, label"}},
		{name: "no such column", options: Options{CaptionColumn: "what"}, write: put("t.csv", "path,label\na.jpg,2\n"), want: []string{`"what"`, "path, label"}},
		{name: "row too short", write: put("t.csv", "path,label\na.jpg\n"), want: []string{"line 2"}},
		{name: "empty table", write: put("t.csv", ""), want: []string{"t.csv", "empty"}},
		{name: "header only", write: put("t.csv", "path,label\n"), want: []string{"no rows"}},
		{name: "ilsvrc without classes", write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, validationName(0)), "1")
			return dir
		}, want: []string{"ILSVRC2012_validation_ground_truth.txt"}},
		{name: "ilsvrc number out of range", write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, validationName(0)), "1")
			write(t, filepath.Join(dir, "ILSVRC2012_validation_ground_truth.txt"), "1001\n")
			return dir
		}, want: []string{"line 1", "1001", "1..1000"}},
		{name: "ilsvrc ground truth too short", write: func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, validationName(1)), "1")
			write(t, filepath.Join(dir, "ILSVRC2012_validation_ground_truth.txt"), "1000\n")
			return dir
		}, want: []string{"no class for ILSVRC2012_val_00000002.JPEG", "1 image"}},
		{name: "unknown kind", options: Options{Kind: "lmdb"}, write: put("t.csv", "path,label\n"), want: []string{"lmdb", "webdataset"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(context.Background(), tt.write(t, t.TempDir()), tt.options)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(fault.Line(err), want) {
					t.Errorf("%q does not say %q", fault.Line(err), want)
				}
			}
			if c := fault.Code(err); c != int(fault.Input) && c != int(fault.Usage) {
				t.Errorf("exit status %d of %v", c, err)
			}
		})
	}
}

func TestFingerprintChanges(t *testing.T) {
	base := func(t *testing.T, dir string) {
		write(t, filepath.Join(dir, "cat", "a.jpg"), "12345")
		write(t, filepath.Join(dir, "dog", "b.jpg"), "12345")
	}
	table := func(rows string) func(t *testing.T, dir string) string {
		return func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "t.csv"), "path,label,text\n"+rows)
		}
	}
	archive := func(entries ...entry) func(t *testing.T, dir string) string {
		return func(t *testing.T, dir string) string { return writeTar(t, filepath.Join(dir, "t.tar"), entries) }
	}
	sources := map[string]func(t *testing.T, dir string) string{
		"folder": func(t *testing.T, dir string) string { base(t, dir); return dir },
		"other size": func(t *testing.T, dir string) string {
			base(t, dir)
			write(t, filepath.Join(dir, "cat", "a.jpg"), "1")
			return dir
		},
		"other name": func(t *testing.T, dir string) string {
			base(t, dir)
			write(t, filepath.Join(dir, "cat", "c.jpg"), "12345")
			return dir
		},
		"table":         table("a.jpg,1,x\n"),
		"other label":   table("a.jpg,2,x\n"),
		"other caption": table("a.jpg,1,y\n"),
		"tar":           archive(entry{"a.jpg", "1"}, entry{"a.txt", "x"}),
		"longer tar":    archive(entry{"a.jpg", strings.Repeat("1", 600)}, entry{"a.txt", "x"}),
		"one more":      archive(entry{"a.jpg", "1"}, entry{"a.txt", "x"}, entry{"b.jpg", "1"}),
	}
	seen := map[string]string{}
	for name, make := range sources {
		d, err := Open(context.Background(), make(t, t.TempDir()), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[d.Fingerprint()]; ok {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[d.Fingerprint()] = name
	}
}
