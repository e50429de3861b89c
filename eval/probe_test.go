package eval

import (
	"context"
	"encoding/json"
	"image/color"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// colours writes n pictures of each class, whose colours lie about the class's.
func colours(t *testing.T, n int, seed uint64, classes ...string) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(seed, 9))
	for i := range n {
		for _, class := range classes {
			k := slices.Index(fakeClasses, class)
			near := func(c int) uint8 { return uint8(min(255, max(0, c+rng.IntN(90)-45))) }
			fill := color.RGBA{near(60 + 130*(k&1)), near(60 + 65*(k&2)), near(60 + 32*(k&4)), 255}
			writeFilled(t, filepath.Join(dir, class, string(rune('a'+i%26))+strings.Repeat("x", i/26)+".png"), fill)
		}
	}
	return dir
}

func probed(t *testing.T, enc *fake, o ProbeOptions) (*ProbeResult, error) {
	t.Helper()
	if o.Neighbours == 0 {
		o.Neighbours = 5
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Seeds, o.Templates = max(o.Seeds, 1), defaultTemplates
	p := &probe{o: o, perFile: 16}
	p.run = &run{o: p.scoring().defaults(), cfg: enc.cfg, pre: enc.cfg.Preprocess(), texts: 8, model: ModelInfo{SHA256: "fake"}}
	p.run.open = func(*arch.Config, string) (encoder, func(), error) { return enc, func() {}, nil }
	return p.score(context.Background())
}

func TestProbe(t *testing.T) {
	train, test := colours(t, 20, 1, fakeClasses...), colours(t, 9, 2, "bee", "cat", "gnu")
	features, out := t.TempDir(), t.TempDir()
	enc := newFake()
	o := ProbeOptions{Train: train, Data: test, Features: features, Out: out, Shots: []int{1, 4, 50}, Seeds: 2}
	want, err := probed(t, enc, o)
	if err != nil {
		t.Fatal(err)
	}
	if enc.images.Load() != 140+27 || want.Train.N != 140 || want.Data.N != 27 || want.Classes != 7 {
		t.Errorf("%d images encoded, %d and %d in the sets, %d classes", enc.images.Load(), want.Train.N, want.Data.N, want.Classes)
	}
	s := want.Probe
	if !s.Converged || s.Top1 < 0.6 || s.MeanPerClass != s.Top1 || s.Top5 < s.Top1 || s.NTrain != 140 || want.Neighbours.Top1 < 0.6 {
		t.Errorf("%+v, neighbours %+v: colours part the classes better", s, want.Neighbours)
	}
	if want.ZeroShot == nil || want.ZeroShot.Top1 > s.Top1 {
		t.Errorf("zero-shot %+v, of texts that know no colours", want.ZeroShot)
	}
	if len(want.Sweep) < 11 || len(want.Sweep) > 15 || !slices.ContainsFunc(want.Sweep, func(x SweepStep) bool { return x.L2 == s.L2 }) {
		t.Errorf("l2 %g of the sweep %v", s.L2, want.Sweep)
	}
	for _, x := range want.Sweep {
		if steps := 8 * math.Log10(x.L2/1e-6); math.Abs(steps-math.Round(steps)) > 1e-9 {
			t.Errorf("penalty %g is not one of the 96", x.L2)
		}
	}
	var sizes []int
	for _, x := range want.Shots {
		sizes = append(sizes, x.N)
	}
	if d := cmp.Diff([]int{7, 7, 28, 28, 112, 112}, sizes); d != "" { // of the four fifths that are not held out
		t.Error(d)
	}

	// A second call encodes nothing, and from the disk it is the same.
	var kept ProbeResult
	b, err := os.ReadFile(filepath.Join(out, resultFile))
	if err != nil || json.Unmarshal(b, &kept) != nil {
		t.Fatal(err)
	}
	again, err := probed(t, enc, o)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&kept, again); d != "" || enc.images.Load() != 167 {
		t.Errorf("%d images encoded; %s", enc.images.Load(), d)
	}
	page, err := os.ReadFile(filepath.Join(out, reportFile))
	if err != nil || !strings.Contains(string(page), "zero-shot") || !strings.Contains(string(page), "images a class") {
		t.Errorf("report: %v", err)
	}

	// A file that is damaged, or gone, is made again: sixteen images each.
	files, err := filepath.Glob(filepath.Join(features, "*.safetensors"))
	if err != nil || len(files) != 9+2 {
		t.Fatal(files, err)
	}
	if b, err = os.ReadFile(files[0]); err != nil {
		t.Fatal(err)
	}
	b[len(b)-200] ^= 1
	write(t, files[0], b)
	enc = newFake()
	if again, err = probed(t, enc, o); err != nil || cmp.Diff(&kept, again) != "" {
		t.Errorf("after damage: %v %s", err, cmp.Diff(&kept, again))
	}
	if n := enc.images.Load(); n < 11 || n > 16 {
		t.Errorf("%d images encoded again, want those of one file", n)
	}
}

// Features of parts in several folders merge to those of one, out of which a probe
// continues; parts that lack something or are repeated are refused.
func TestMergeFeatures(t *testing.T) {
	train, test := colours(t, 12, 1, "ant", "bee", "cat"), colours(t, 5, 2, "ant", "bee") // three files, and one
	o := ProbeOptions{Train: train, Data: test, Features: t.TempDir(), L2: 0.1}
	want, err := probed(t, newFake(), o)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for i := range 4 {
		part := o
		part.Shard, part.Shards, part.Features = i, 4, t.TempDir()
		if _, err := probed(t, newFake(), part); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, part.Features)
	}
	whole := o
	whole.Features = filepath.Join(t.TempDir(), "whole")
	res, err := MergeFeatures(dirs, MergeOptions{Out: whole.Features})
	if err != nil || res.Sets != 2 || res.Files != 4 || res.Images != 46 || !IsFeatures(dirs...) {
		t.Fatalf("%+v, %v", res, err)
	}
	enc := newFake()
	got, err := probed(t, enc, whole)
	if err != nil || enc.images.Load() != 0 || !cmp.Equal(got.Probe, want.Probe) || !cmp.Equal(got.Neighbours, want.Neighbours) {
		t.Errorf("%d images encoded, %+v, %v", enc.images.Load(), got, err)
	}
	part, err := os.ReadDir(dirs[1])
	if err != nil || len(part) == 0 {
		t.Fatal(part, err)
	}
	damaged := filepath.Join(t.TempDir(), part[0].Name())
	b, err := os.ReadFile(filepath.Join(dirs[1], part[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-5] ^= 1
	write(t, damaged, b)
	for _, c := range []struct {
		dirs   []string
		status int
		want   string
	}{
		{[]string{dirs[0], dirs[2], dirs[3]}, 3, "is in no part"},
		{append(dirs, dirs[1]), 3, "give each part once"},
		{[]string{dirs[0], filepath.Dir(damaged), dirs[2], dirs[3]}, 3, "do not match its digest"},
		{[]string{dirs[0], "missing"}, 3, "missing"},
		{[]string{dirs[0], whole.Features}, 2, "is one of the parts"},
	} {
		if _, err := MergeFeatures(c.dirs, MergeOptions{Out: whole.Features}); err == nil || fault.Code(err) != c.status || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want status %d and %q", c.dirs, err, c.status, c.want)
		}
	}
	if IsFeatures(t.TempDir()) {
		t.Error("an empty folder has features")
	}
}

// Parts of the features come from several calls; the set that is read from the disk
// is the set in memory.
func TestFeatureParts(t *testing.T) {
	train, test := colours(t, 12, 1, "ant", "bee"), colours(t, 5, 2, "ant", "bee")
	o := ProbeOptions{Train: train, Data: test, Features: t.TempDir(), L2: 0.1}
	for i := range 3 {
		part := o
		part.Shard, part.Shards = i, 3
		res, err := probed(t, newFake(), part)
		if err != nil || res.Probe != nil || res.Shard == nil {
			t.Fatalf("%+v %v", res, err)
		}
	}
	enc := newFake()
	res, err := probed(t, enc, o)
	if err != nil || enc.images.Load() != 0 || res.Probe.NTrain != 24 || len(res.Sweep) != 0 {
		t.Fatalf("%d images encoded, %+v, %v", enc.images.Load(), res, err)
	}
	files, _ := filepath.Glob(filepath.Join(o.Features, "*.safetensors"))
	s := &featureSet{dim: 8}
	key := ""
	for _, f := range files {
		if k := filepath.Base(f)[:32]; key == "" || k == key {
			key = k
			full := keyOf(t, f)
			if err := s.load(f, full); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := make([]float32, s.Len()*8)
	if err := s.Read(whole, 0, s.Len()); err != nil {
		t.Fatal(err)
	}
	p := picked{sets: []*featureSet{s}, places: []place{{0, 3}, {0, 4}, {0, 1}, {0, int32(s.Len() - 1)}}}
	got := make([]float32, 3*8)
	if err := p.Read(got, 1, 4); err != nil {
		t.Fatal(err)
	}
	n := s.Len() - 1
	if want := slices.Concat(whole[4*8:5*8], whole[8:2*8], whole[n*8:]); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// keyOf is the key that the file of features was written for.
func keyOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		M map[string]string `json:"__metadata__"`
	}
	if err := json.NewDecoder(strings.NewReader(string(b[8:]))).Decode(&head); err != nil {
		t.Fatal(err)
	}
	return head.M["evatool.features"]
}

func TestProbeRefuses(t *testing.T) {
	two, one := colours(t, 3, 1, "ant", "bee"), colours(t, 6, 1, "ant")
	for _, c := range []struct {
		what   string
		o      ProbeOptions
		status int
		want   string
	}{
		{"no train", ProbeOptions{Data: two}, 2, "Options.Train"},
		{"negative penalty", ProbeOptions{Train: two, Data: two, L2: -1}, 2, "Options.L2 -1"},
		{"penalty and validation", ProbeOptions{Train: two, Data: two, Val: two, L2: 1}, 2, "Options.Val"},
		{"a result of a part", ProbeOptions{Train: two, Data: two, L2: 1, Shards: 2, Out: "out"}, 2, "Options.Out: a part has features"},
		{"no shots", ProbeOptions{Train: two, Data: two, Shots: []int{0}}, 2, "Options.Shots 0"},
		{"one class", ProbeOptions{Train: one, Data: one, L2: 1}, 3, "a regression needs at least two"},
		{"too few to hold out", ProbeOptions{Train: two, Data: two}, 3, "give Options.Val or Options.L2"},
		{"another class to score", ProbeOptions{Train: one, Data: two, L2: 1}, 3, "bee"},
	} {
		c.o.Features = t.TempDir()
		_, err := probed(t, newFake(), c.o)
		if err == nil || fault.Code(err) != c.status || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want status %d and %q", c.what, err, c.status, c.want)
		}
	}
}

// Sets whose names, sizes and labels are the same still differ in their pictures.
func TestFeaturesOfOtherPictures(t *testing.T) {
	table := func(shade uint8) string {
		dir := t.TempDir()
		list := "path,label\n"
		for i := range 8 {
			name := string(rune('a'+i)) + ".png"
			writeFilled(t, filepath.Join(dir, name), color.RGBA{uint8(30 * i), shade, 7, 255})
			list += name + "," + strconv.Itoa(i%4) + "\n"
		}
		write(t, filepath.Join(dir, "list.csv"), []byte(list))
		return filepath.Join(dir, "list.csv")
	}
	enc := newFake()
	features := t.TempDir()
	one, other := table(9), table(8)
	for _, data := range []string{other, one} {
		if _, err := probed(t, enc, ProbeOptions{Train: one, Data: data, Features: features, L2: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if n := enc.images.Load(); n != 8+8 {
		t.Errorf("%d images encoded, want those of either set once", n)
	}
}
