package eval

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/fault"
)

// changed is an encoder with other rows: wrong ones, or those that it keeps.
type changed struct {
	public
	images, texts func([]float32) []float32
}

func (c changed) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	rows, err := c.public.Images(ctx, flat, n)
	return c.images(rows), err
}

func (c changed) Texts(ctx context.Context, tokens []int32, n int) ([]float32, error) {
	rows, err := c.public.Texts(ctx, tokens, n)
	return c.texts(rows), err
}

// Rows of another width than the configuration says are not scored, and those of
// the right one stay the encoder's.
func TestEncodersRows(t *testing.T) {
	o := Options{Data: pictureFolder(t, 12)}
	same := func(rows []float32) []float32 { return rows }
	wide := func(rows []float32) []float32 { return append(slices.Clone(rows), rows...) }
	narrow := func(rows []float32) []float32 { return rows[:len(rows)/2] }
	for name, enc := range map[string]changed{
		"wide images": {public{newFake()}, wide, same}, "wide texts": {public{newFake()}, same, wide},
		"narrow images": {public{newFake()}, narrow, same}, "narrow texts": {public{newFake()}, same, narrow},
	} {
		_, what, _ := strings.Cut(name, " ")
		if _, err := ZeroShotWith(t.Context(), enc, o); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var kept, before [][]float32
	keep := func(rows []float32) []float32 {
		kept, before = append(kept, rows), append(before, slices.Clone(rows))
		return rows
	}
	if _, err := ZeroShotWith(t.Context(), changed{public{newFake()}, keep, keep}, o); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(kept, before, slices.Equal) {
		t.Error("scoring changed the encoder's own features")
	}
}

// A part that is not one of the shards is refused before anything is opened.
func TestNoSuchPart(t *testing.T) {
	for _, p := range [][2]int{{-1, 2}, {2, 2}, {1, 0}, {0, -2}, {-1, 0}} {
		one := Options{Data: t.TempDir(), Model: "m", Shard: p[0], Shards: p[1]}
		for name, err := range map[string]error{
			"zeroshot":  one.check(),
			"retrieval": (&RetrievalOptions{Set: "csv", Model: "m", Shard: p[0], Shards: p[1]}).check(),
			"probe":     (&ProbeOptions{Train: "a", Data: "b", Model: "m", Shard: p[0], Shards: p[1]}).check(),
			"suite":     (&SuiteOptions{Models: []string{"m"}, Sets: []string{"a"}, Options: one}).check(),
		} {
			if fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "Options.Shard ") {
				t.Errorf("%s, part %d of %d: %v", name, p[0], p[1], err)
			}
		}
	}
}

// Merging nothing is a mistake of the caller, whatever the parts would be of.
func TestMergeNothing(t *testing.T) {
	merges := map[string]func(dirs ...string) error{
		"set":       func(dirs ...string) error { _, err := Merge(dirs, MergeOptions{}); return err },
		"retrieval": func(dirs ...string) error { _, err := MergeRetrieval(dirs, MergeOptions{}); return err },
		"suite":     func(dirs ...string) error { _, err := MergeSuite(dirs, MergeOptions{}); return err },
		"features":  func(dirs ...string) error { _, err := MergeFeatures(dirs, MergeOptions{}); return err },
	}
	for name, merge := range merges {
		if err := merge(); fault.Code(err) != int(fault.Usage) {
			t.Errorf("%s of no parts: %v", name, err)
		}
		if err := merge(t.TempDir()); fault.Code(err) != int(fault.Input) {
			t.Errorf("%s of an empty folder: %v", name, err)
		}
	}
}

// Texts from a reader need one.
func TestEmbedWithoutReader(t *testing.T) {
	o := EmbedOptions{Texts: "-", Model: "m", Out: "x.npy"}
	if err := o.check(); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "without a reader") {
		t.Error(err)
	}
}

// A context ends an Embed that waits for its texts.
func TestEmbedWaits(t *testing.T) {
	m := openFixture(t, OpenOptions{Backend: "go"})
	in, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	defer time.AfterFunc(5*time.Second, func() { w.Close() }).Stop()
	if _, err := Embed(ctx, EmbedOptions{Opened: m, Texts: "-", Stdin: in, Out: filepath.Join(t.TempDir(), "x.npy")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.Close()
}

// Words of a program that are not UTF-8 are refused, as those of a file are.
func TestWordsNotUTF8(t *testing.T) {
	dir := pictureFolder(t, 4)
	for name, o := range map[string]Options{
		"name":     {ClassNames: append([]string{"caf\xe9"}, fakeClasses[1:]...), Folders: fakeClasses},
		"template": {Templates: []string{"caf\xe9 {c}"}},
	} {
		o.Data = dir
		if _, err := ZeroShotWith(t.Context(), public{newFake()}, o); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "not UTF-8") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
