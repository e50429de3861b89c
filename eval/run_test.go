package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/fault"
)

func score(t *testing.T, enc encoder, o Options) *Result {
	t.Helper()
	o.ModelID = "fake"
	res, err := ZeroShotWith(context.Background(), public{enc}, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// counts are the parts of a result that nothing but model, data and words may
// change.
type counts struct {
	N, Correct1, Correct5, Ties int
	PerClass                    []ClassRow
	Confused                    []Confusion
	Skipped                     []Skipped
	Key                         string
}

func countsOf(r *Result) counts {
	return counts{r.N, r.Correct1, r.Correct5, r.Ties, r.PerClass, r.Confused, r.Skipped, r.Key}
}

// Batch size, worker count and shard count change nothing, and the rows are
// the same bytes.
func TestIndependence(t *testing.T) {
	dir := pictureFolder(t, 53)
	write(t, filepath.Join(dir, "cat", "broken.png"), []byte("\x89PNG\r\n\x1a\nnot a picture"))
	base := Options{Data: dir, MaxBad: 1, Out: t.TempDir()}
	want := score(t, newFake(), base)
	if want.N != 53 || len(want.Skipped) != 1 || want.Skipped[0].Key != "cat/broken.png" {
		t.Fatalf("got %d images, skipped %v", want.N, want.Skipped)
	}
	if want.Correct1 == 0 || want.Correct1 == want.N {
		t.Fatalf("%d of %d right: this data cannot show a difference", want.Correct1, want.N)
	}
	rows, err := os.ReadFile(filepath.Join(base.Out, rowsFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ batch, workers, shards int }{{1, 1, 1}, {7, 3, 1}, {64, 8, 1}, {5, 2, 2}, {16, 2, 5}, {4, 1, 54}} {
		t.Run(fmt.Sprintf("batch %d, %d workers, %d shards", c.batch, c.workers, c.shards), func(t *testing.T) {
			var dirs []string
			for i := range c.shards {
				o := base
				o.Batch, o.Workers, o.Shard, o.Shards, o.Out = c.batch, c.workers, i, c.shards, t.TempDir()
				score(t, newFake(), o)
				dirs = append(dirs, o.Out)
			}
			out := t.TempDir()
			got, err := Merge(dirs, MergeOptions{Out: out})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(countsOf(want), countsOf(got)); d != "" {
				t.Error(d)
			}
			b, err := os.ReadFile(filepath.Join(out, rowsFile))
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != string(rows) {
				t.Error("rows.csv differs")
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	dir := pictureFolder(t, 20)
	shardDir := func(i, n int, change func(*Options)) string {
		o := Options{Data: dir, Shard: i, Shards: n, Out: t.TempDir()}
		if change != nil {
			change(&o)
		}
		score(t, newFake(), o)
		return o.Out
	}
	a, b, c := shardDir(0, 3, nil), shardDir(1, 3, nil), shardDir(2, 3, nil)
	half := shardDir(0, 2, nil)
	prompts := shardDir(1, 3, func(o *Options) { o.Templates = []string{"the {}"} })
	other := shardDir(1, 3, func(o *Options) { o.Data = pictureFolder(t, 21) })
	unfinished := t.TempDir()
	write(t, filepath.Join(unfinished, journalFile), nil)
	tampered := t.TempDir()
	for _, f := range []string{resultFile, rowsFile} {
		x, err := os.ReadFile(filepath.Join(b, f))
		if err != nil {
			t.Fatal(err)
		}
		if f == rowsFile {
			x = x[:strings.LastIndex(strings.TrimSpace(string(x)), "\n")+1]
		}
		write(t, filepath.Join(tampered, f), x)
	}
	for _, k := range []struct {
		name string
		dirs []string
		want string
	}{
		{"complete, in any order", []string{c, a, b}, ""},
		{"a gap at the end", []string{a, b}, "images 13 to 19 are in no shard"},
		{"a gap inside", []string{a, c}, "are in no shard"},
		{"a gap at the start", []string{b, c}, "images 0 to 5 are in no shard"},
		{"twice the same", []string{a, b, b, c}, "another shard already covers"},
		{"an overlap", []string{half, b, c}, "another shard already covers"},
		{"other words", []string{a, prompts, c}, "in classes, templates or preprocessing ("},
		{"other data", []string{a, other, c}, "in data ("},
		{"unfinished", []string{a, unfinished, c}, "not finished"},
		{"a row is gone", []string{a, tampered, c}, "run the shard again"},
		{"no such folder", []string{a, filepath.Join(dir, "nope"), c}, "no such file"},
	} {
		_, err := Merge(k.dirs, MergeOptions{})
		switch {
		case k.want == "" && err != nil:
			t.Errorf("%s: %v", k.name, err)
		case k.want != "" && (err == nil || !strings.Contains(err.Error(), k.want) || fault.Code(err) != int(fault.Input)):
			t.Errorf("%s: got %v, want %q", k.name, err, k.want)
		}
	}
}

// A run that stops anywhere continues where it was: no image is encoded twice
// unless its batch was not on disk yet, none counts twice.
func TestResume(t *testing.T) {
	dir := pictureFolder(t, 40)
	want := score(t, newFake(), Options{Data: dir})
	stop := errors.New("pulled the plug")
	for _, at := range []int64{4, 20, 36} {
		o := Options{Data: dir, OpenOptions: OpenOptions{Batch: 4}, Out: t.TempDir(), ModelID: "fake"}
		enc := newFake()
		enc.after = func(rows int64) error {
			if rows > at {
				return stop
			}
			return nil
		}
		if _, err := ZeroShotWith(context.Background(), public{enc}, o); !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(o.Out, resultFile)); err == nil {
			t.Error("a stopped run has a result")
		}
		// A kill in the middle of a write leaves half a line.
		j := filepath.Join(o.Out, journalFile)
		b, err := os.ReadFile(j)
		if err != nil {
			t.Fatal(err)
		}
		write(t, j, append(b, `{"i":39,"k":"torn`...))
		enc = newFake()
		o.Batch = 3
		got := score(t, enc, o)
		if n := enc.images.Load(); n != 40-at {
			t.Errorf("stopped after %d: %d images encoded again, want %d", at, n, 40-at)
		}
		if d := cmp.Diff(countsOf(want), countsOf(got)); d != "" {
			t.Error(d)
		}
		enc = newFake()
		again := score(t, enc, o)
		if n := enc.images.Load(); n != 0 {
			t.Errorf("a finished run encoded %d images", n)
		}
		if d := cmp.Diff(countsOf(want), countsOf(again)); d != "" {
			t.Error(d)
		}
		if again.ImagesPerSecond != got.ImagesPerSecond {
			t.Error("a finished run lost its speed")
		}
		enc = newFake()
		o.Fresh = true
		score(t, enc, o)
		if n := enc.images.Load(); n != 40 {
			t.Errorf("--resume=false encoded %d images", n)
		}
		o.Fresh = false
		enc = newFake()
		o.ModelID = ""
		if _, err := ZeroShotWith(context.Background(), public{enc}, o); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "different model") {
			t.Errorf("another model in the place of a finished one: %v", err)
		}
		o.Force = true
		if _, err := ZeroShotWith(context.Background(), public{enc}, o); err != nil || enc.images.Load() != 40 {
			t.Errorf("a model without a name took over rows: %d encoded, %v", enc.images.Load(), err)
		}
		o.Templates = []string{"another {}"}
		enc = newFake()
		if score(t, enc, o); enc.images.Load() != 40 {
			t.Error("rows of other words were taken over")
		}
	}
}

// What a folder holds is checked before it is counted.
func TestDamagedRows(t *testing.T) {
	dir := pictureFolder(t, 12)
	o := Options{Data: dir, Out: t.TempDir()}
	score(t, newFake(), o)
	journal := filepath.Join(o.Out, journalFile)
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	for i, wrong := range []string{`"l":99`, `"l":-1`} {
		at := strings.Index(lines[i+1], `"l":`)
		end := at + strings.IndexByte(lines[i+1][at:], ',')
		lines[i+1] = lines[i+1][:at] + wrong + lines[i+1][end:]
	}
	write(t, journal, []byte(strings.Join(lines, "")))
	enc := newFake()
	if res := score(t, enc, o); res.N != 12 || enc.images.Load() != 2 {
		t.Errorf("%d images, %d encoded again, want 12 and 2", res.N, enc.images.Load())
	}
	rows := filepath.Join(o.Out, rowsFile)
	good, err := os.ReadFile(rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"\n0,", "\nx,", "line 2"},
		{"index,key", "index,kex", "header"},
		{".png,0,", ".png,7,", "not among the 7 classes"},
		{",0\n", "\n", "wrong number of fields"},
	} {
		write(t, rows, []byte(strings.Replace(string(good), c.old, c.new, 1)))
		if _, err := Merge([]string{o.Out}, MergeOptions{}); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v, want %q", c.new, c.old, err, c.want)
		}
	}
}

// An image that did not decode is tried again, since it may have been replaced.
func TestResumeAfterRepair(t *testing.T) {
	dir := pictureFolder(t, 10)
	broken := filepath.Join(dir, "bee", "zzz.png")
	good, err := os.ReadFile(filepath.Join(dir, "bee", "001.png"))
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(good)
	bad[len(bad)/2] ^= 0xff
	write(t, broken, bad)
	o := Options{Data: dir, Out: t.TempDir(), ModelID: "fake", OpenOptions: OpenOptions{Batch: 32}}
	if _, err := ZeroShotWith(context.Background(), public{newFake()}, o); fault.Code(err) != int(fault.Input) {
		t.Fatal(err)
	}
	write(t, broken, good)
	enc := newFake()
	if res := score(t, enc, o); res.N != 11 || len(res.Skipped) != 0 || enc.images.Load() != 1 {
		t.Errorf("%d images, skipped %v, %d encoded", res.N, res.Skipped, enc.images.Load())
	}
}

func TestTies(t *testing.T) {
	dir := pictureFolder(t, 21)
	o := Options{Data: dir, ClassNames: slices.Clone(fakeClasses)}
	plain := score(t, newFake(), o)
	if plain.Ties != 0 {
		t.Fatalf("%d ties", plain.Ties)
	}
	// Every name occurs again: whatever wins ties with a higher index.
	o.ClassNames = []string{"ant", "bee", "ant", "bee", "ant", "bee", "ant"}
	o.Data = t.TempDir()
	for i, name := range fakeClasses {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(o.Data, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	o.Predictions = filepath.Join(t.TempDir(), "p.csv")
	res := score(t, newFake(), o)
	if res.Ties != res.N || res.N != 21 {
		t.Errorf("%d ties of %d", res.Ties, res.N)
	}
	for _, c := range res.PerClass {
		if (c.Correct > 0) && c.ID > 1 {
			t.Errorf("class %d won a tie against a lower one", c.ID)
		}
	}
	if res.Correct1 == 0 {
		t.Error("no tie went to the lower index")
	}
	b, err := os.ReadFile(o.Predictions)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(string(b)), "\n"); len(lines) != 22 || !strings.HasPrefix(lines[0], "index,key,label,top1,") {
		t.Errorf("predictions: %d lines, %s", len(lines), lines[0])
	}
}

func TestResultFields(t *testing.T) {
	o := Options{Data: pictureFolder(t, 9), Out: t.TempDir()}
	score(t, newFake(), o)
	b, err := os.ReadFile(filepath.Join(o.Out, resultFile))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"benchmark", "model", "data", "top1", "top5", "correct1", "correct5", "n", "ci95", "mean_per_class", "ties", "skipped", "published", "diagnosis", "images_per_second", "seconds", "backend", "decoder", "versions"} {
		if _, ok := m[field]; !ok {
			t.Errorf("result.json has no %q", field)
		}
	}
	for _, list := range []string{"skipped", "diagnosis"} {
		if _, ok := m[list].([]any); !ok {
			t.Errorf("%s is %v, want a list", list, m[list])
		}
	}
}

func TestBadInput(t *testing.T) {
	good := pictureFolder(t, 14)
	broken := pictureFolder(t, 14)
	write(t, filepath.Join(broken, "bee", "x.jpg"), []byte("\xff\xd8\xff\xe0 not a JPEG"))
	empty := t.TempDir()
	names := filepath.Join(t.TempDir(), "names.txt")
	write(t, names, []byte("ant\n"))
	tensors := filepath.Join(fixture, "inputs.safetensors")
	for _, c := range []struct {
		name string
		o    Options
		kind fault.Kind
		want string
	}{
		{"missing data", Options{Data: "/nope/nowhere"}, fault.Input, "no such file"},
		{"empty folder", Options{Data: empty}, fault.Input, "empty folder"},
		{"a file that is none of the kinds", Options{Data: names}, fault.Input, "names.txt"},
		{"a broken image", Options{Data: broken}, fault.Input, "too many images do not decode (1, Options.MaxBad allows 0); the first is bee/x.jpg"},
		{"classes that do not match", Options{Data: good, ClassNames: []string{"car", "ship"}}, fault.Input, "not among the 2 classes"},
		{"too few classes for the labels", Options{Data: tensors, ClassNames: []string{"a", "b"}}, fault.Input, "48x48"},
		{"a template without a place", Options{Data: good, Templates: []string{"a photo"}}, fault.Input, "no place"},
		{"an unknown benchmark", Options{Data: good, Benchmark: "imagnet"}, fault.Usage, "zeroshot list"},
		{"a negative limit", Options{Data: good, Limit: -1}, fault.Usage, "Options.Limit"},
		{"out is a file", Options{Data: good, Out: names}, fault.Environment, "is a file"},
	} {
		_, err := ZeroShotWith(context.Background(), public{newFake()}, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != int(c.kind) {
			t.Errorf("%s: status %d: %v; want %d and %q", c.name, fault.Code(err), err, c.kind, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line", c.name)
		}
	}
	silent := newFake()
	silent.cfg.Text.Layers = 0
	if err := (&run{cfg: silent.cfg}).readsTexts(t.Context(), "m"); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "no text tower") {
		t.Errorf("without a text tower: %v", err)
	}
}

func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	enc := newFake()
	enc.after = func(rows int64) error {
		if rows > 8 {
			cancel()
		}
		return nil
	}
	_, err := ZeroShotWith(ctx, public{enc}, Options{Data: pictureFolder(t, 40), OpenOptions: OpenOptions{Batch: 4}})
	if fault.Code(err) != int(fault.Interrupted) {
		t.Errorf("status %d: %v", fault.Code(err), err)
	}
}

// A table only names its pictures: with other pictures of the same names it is
// another run, as it is for folders.
func TestTableOfOtherPictures(t *testing.T) {
	dir := t.TempDir()
	list := "path,label\n"
	for i := range 6 {
		name := fmt.Sprintf("%d.png", i)
		writeFilled(t, filepath.Join(dir, name), color.RGBA{uint8(40 * i), 9, 7, 255})
		list += fmt.Sprintf("%s,%d\n", name, i%3)
	}
	write(t, filepath.Join(dir, "list.csv"), []byte(list))
	enc := newFake()
	o := Options{Data: filepath.Join(dir, "list.csv"), ClassNames: []string{"ant", "bee", "cat"}, Out: t.TempDir(), ModelID: "fake"}
	score(t, enc, o)
	score(t, enc, o)
	if n := enc.images.Load(); n != 6 {
		t.Fatalf("%d images encoded, want 6 and none again", n)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewRGBA(image.Rect(0, 0, 30, 40))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "3.png"), b.Bytes())
	if _, err := ZeroShotWith(context.Background(), public{enc}, o); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "other pictures of the same names") {
		t.Errorf("other pictures in the place of a finished run: %v", err)
	}
	o.Force = true
	score(t, enc, o)
	if n := enc.images.Load(); n != 12 {
		t.Errorf("%d images encoded after one had been replaced, want all 6 again", n)
	}
}
