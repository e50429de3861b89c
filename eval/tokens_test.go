package eval

import (
	"context"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/tokenjson"
	"github.com/evatool/evatool/internal/weights"
)

// shifted is a tokenizer.json's tokenizer that another one took the place of.
type shifted struct {
	*bpe.Tokenizer
	by int32
}

func (s shifted) Encode(text string) []int32 {
	ids := s.Tokenizer.Encode(text)
	for i := range ids {
		ids[i] = (ids[i] + s.by) % 400
	}
	return ids
}

func (s shifted) Tokens(dst []int32, text string, context int) {
	clear(dst[:context])
	copy(dst[:context], s.Encode(text))
}

// Class vectors of one tokenizer are not taken for those of another.
func TestClassifierOfAnotherTokenizer(t *testing.T) {
	cache := t.TempDir()
	build := func(by int32) []float32 {
		r := &run{
			o: Options{Cache: cache}.defaults(), cfg: newFake().Config(), model: ModelInfo{SHA256: "m"}, texts: 8,
			w:     prompts{names: fakeClasses, templates: []string{"a {}"}},
			open:  func(*arch.Config, string) (encoder, func(), error) { return newFake(), nil, nil },
			words: func(context.Context) (checkpoint.Tokenizer, error) { return shifted{bpe.New(), by}, nil },
		}
		c, err := r.classifier(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c.w
	}
	if one, other := build(0), build(7); slices.Equal(one, other) {
		t.Error("the class vectors of another tokenizer")
	}
}

// Class vectors computed in bfloat16 are not taken for those of a processor without
// it, which computes bf16 weights in float32.
func TestClassifierOfAnotherArithmetic(t *testing.T) {
	cache := t.TempDir()
	for _, arithmetic := range []string{"xla-cpu", "xla-cpu BFloat16"} {
		r := &run{
			o: Options{Cache: cache}.defaults(), cfg: newFake().Config(), model: ModelInfo{SHA256: "m"}, texts: 8, backend: "xla-cpu", arithmetic: arithmetic,
			w:    prompts{names: fakeClasses, templates: []string{"a {}"}},
			open: func(*arch.Config, string) (encoder, func(), error) { return newFake(), nil, nil },
		}
		if _, err := r.classifier(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := os.ReadDir(cache); err != nil || len(files) != 2 {
		t.Errorf("%d files, %v", len(files), err)
	}
}

// A model knows its arithmetic: where bf16 is not only storage, its type is in it.
func TestArithmetic(t *testing.T) {
	dir := "../testdata/models/eva02-b-tiny"
	eachBackend(t, func(t *testing.T, backend string) {
		for _, dtype := range []string{"fp32", "bf16"} {
			m, err := Open(t.Context(), archtest.Weights(dir), OpenOptions{Config: filepath.Join(dir, "config.json"), Backend: backend, DType: dtype})
			if err != nil {
				t.Fatal(err)
			}
			if dt, err := weights.ComputeDType(m.dev, dtype); err != nil || dt.IsHalfPrecision() != (m.arithmetic() != m.backend()) {
				t.Errorf("%s is computed in %s by %q, %v", dtype, dt, m.arithmetic(), err)
			}
			m.Close()
		}
	})
}

// A tokenizer is a file beside the weights: with another one a run is another run.
func TestRunOfOtherTokenizer(t *testing.T) {
	data := pictureFolder(t, 4)
	key := func(by int32) string {
		enc := newFake()
		r := &run{o: Options{Data: data}.defaults(), cfg: enc.cfg, pre: enc.cfg.Preprocess(), texts: 8}
		r.words = func(context.Context) (checkpoint.Tokenizer, error) { return shifted{bpe.New(), by}, nil }
		if err := r.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer r.data.Close()
		return r.key
	}
	one, again, other := key(1), key(1), key(2)
	if one != again || one == other {
		t.Errorf("keys %s, %s, %s", one, again, other)
	}
}

// The texts of a retrieval come with its pictures: its tokenizer counts by its file.
func TestRetrievalOfOtherTokenizer(t *testing.T) {
	dir := t.TempDir()
	writeFilled(t, filepath.Join(dir, "0.png"), color.RGBA{A: 255})
	write(t, filepath.Join(dir, "list.csv"), []byte("path,caption\n0.png,a cat\n"))
	key := func(file, pad string) string {
		r := &run{o: Options{Data: filepath.Join(dir, "list.csv")}.defaults(), cfg: newFake().cfg, pre: newFake().cfg.Preprocess(), texts: 8}
		r.words = func(context.Context) (checkpoint.Tokenizer, error) {
			return tokenjson.Parse([]byte(file), tokenjson.Options{Pad: pad})
		}
		if err := r.captioned(t.Context(), RetrievalOptions{Set: "csv", Data: r.o.Data}); err != nil {
			t.Fatal(err)
		}
		defer r.data.Close()
		return r.key
	}
	const one = `{"model": {"type": "WordPiece", "unk_token": "u", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {"u": 0, "p": 1, "cat": 2, "a": 3}}}`
	other := strings.Replace(one, `"cat": 2, "a": 3`, `"cat": 3, "a": 2`, 1)
	first, again := key(one, "p"), key(one, "p")
	if first != again || first == key(other, "p") || first == key(one, "u") {
		t.Error("the run of another tokenizer")
	}
}
