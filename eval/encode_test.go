package eval

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/fault"
)

// openFixture opens the zero-shot fixture's model.
func openFixture(t *testing.T, o OpenOptions) *Model {
	t.Helper()
	o.Config, o.CompileCache = filepath.Join(fixture, "config.json"), compileCache
	m, err := Open(t.Context(), archtest.ZeroShotModel(t, fixture), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// somePictures are files of every kind, and some texts.
func somePictures(t *testing.T) (paths []string, files [][]byte, texts []string) {
	t.Helper()
	all, err := filepath.Glob("../testdata/preprocess/images/*")
	if err != nil || len(all) < 12 {
		t.Fatalf("%d pictures, %v", len(all), err)
	}
	for i := 0; i < len(all); i += len(all) / 12 {
		b, err := os.ReadFile(all[i])
		if err != nil {
			t.Fatal(err)
		}
		paths, files = append(paths, all[i]), append(files, b)
	}
	return paths, files, []string{"a photo of a dog", "", strings.Repeat("many words ", 60), "&lt;Ünïcode&gt; 犬", "a photo of a cat"}
}

// most is the largest difference between rows of features and flat ones.
func most(t *testing.T, got [][]float32, flat []float32) (d float64) {
	t.Helper()
	all := slices.Concat(got...)
	if len(all) != len(flat) || len(flat) == 0 {
		t.Fatalf("%d values, want %d", len(all), len(flat))
	}
	for i := range all {
		d = max(d, math.Abs(float64(all[i]-flat[i])))
	}
	return d
}

// The library's features are those of Embed: to the bit on the Go backend,
// whose rows do not depend on each other; within 1e-6 on XLA, which computes
// calls of different sizes in different orders.
func TestEncodeIsEmbed(t *testing.T) {
	paths, files, texts := somePictures(t)
	eachBackend(t, func(t *testing.T, backend string) {
		m := openFixture(t, OpenOptions{Backend: backend})
		dir := t.TempDir()
		write(t, filepath.Join(dir, "texts"), []byte(strings.Join(texts, "\n")+"\n"))
		out := filepath.Join(dir, "out.safetensors")
		if _, err := Embed(t.Context(), EmbedOptions{Opened: m, Images: paths, Texts: filepath.Join(dir, "texts"), Out: out}); err != nil {
			t.Fatal(err)
		}
		allowed := 1e-6
		if backend == "go" {
			allowed = 0
		}
		images, err := m.EncodeImages(t.Context(), files...)
		if err != nil {
			t.Fatal(err)
		}
		if d := most(t, images, floats(t, out, "image_features")); d > allowed {
			t.Errorf("images differ by %.2g", d)
		}
		prompts, err := m.EncodeTexts(t.Context(), texts...)
		if err != nil {
			t.Fatal(err)
		}
		if d := most(t, prompts, floats(t, out, "text_features")); d > allowed {
			t.Errorf("texts differ by %.2g", d)
		}
		alone, err := m.EncodeImages(t.Context(), files[3])
		if err != nil {
			t.Fatal(err)
		}
		if d := most(t, alone, images[3]); d > allowed {
			t.Errorf("alone an image differs by %.2g", d)
		}
		// Probabilities are the softmax of what Embed calls logits_per_image.
		logits := floats(t, out, "logits_per_image")
		for i, row := range m.Probabilities(images, prompts) {
			sum := 0.0
			for j := range texts {
				sum += math.Exp(float64(logits[i*len(texts)+j]))
			}
			for j, p := range row {
				if want := math.Exp(float64(logits[i*len(texts)+j])) / sum; math.Abs(float64(p)-want) > 1e-5 {
					t.Errorf("image %d, text %d: %v, want %v", i, j, p, want)
				}
			}
		}
	})
}

// Callers from many goroutines get their own features, whoever shares their
// calls, and fewer calls than pictures do.
func TestEncodeTogether(t *testing.T) {
	_, files, texts := somePictures(t)
	m := openFixture(t, OpenOptions{Backend: "go"})
	images, err := m.EncodeImages(t.Context(), files...)
	if err != nil {
		t.Fatal(err)
	}
	prompts, err := m.EncodeTexts(t.Context(), texts...)
	if err != nil {
		t.Fatal(err)
	}
	before := m.dev.Traffic().Runs
	var wg sync.WaitGroup
	const callers = 8
	for g := range callers {
		wg.Go(func() {
			for i := range files {
				i = (i + g) % len(files)
				got, err := m.EncodeImages(t.Context(), files[i])
				if err != nil || !slices.Equal(got[0], images[i]) {
					t.Errorf("picture %d: another feature, %v", i, err)
				}
			}
			for k := range 3 {
				got, err := m.EncodeTexts(t.Context(), texts[k:]...)
				if err != nil || !slices.EqualFunc(got, prompts[k:], slices.Equal) {
					t.Errorf("texts %d: other features, %v", k, err)
				}
			}
		})
	}
	wg.Wait()
	if runs := m.dev.Traffic().Runs - before; runs >= int64(callers*(len(files)+3)) {
		t.Errorf("%d calls of the device for %d calls", runs, callers*(len(files)+3))
	}
}

// A bad input is an error of a kind, and names its index; nothing else is
// affected.
func TestEncodeErrors(t *testing.T) {
	_, files, _ := somePictures(t)
	m := openFixture(t, OpenOptions{Backend: "go", Workers: 3})
	kind := func(err error) string {
		var e Error
		if !errors.As(err, &e) {
			return ""
		}
		return e.Kind()
	}
	for range 20 {
		bad := slices.Clone(files)
		bad[5], bad[7], bad[8] = []byte("no picture"), nil, bad[8][:20]
		f, err := m.EncodeImages(t.Context(), bad...)
		if f != nil || kind(err) != KindInput || !strings.HasPrefix(err.Error(), "image 5: ") {
			t.Fatalf("%v", err)
		}
	}
	if f, err := m.EncodeTexts(t.Context(), "café", "caf\xe9"); f != nil || kind(err) != KindInput || !strings.HasPrefix(err.Error(), "text 1: ") {
		t.Errorf("Latin-1: %v", err)
	}
	if f, err := m.EncodeImages(t.Context()); err != nil || f == nil || len(f) != 0 {
		t.Errorf("no pictures: %v, %v", f, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.EncodeImages(gone, files...); !errors.Is(err, context.Canceled) || kind(err) != KindInterrupted {
		t.Errorf("cancelled: %v", err)
	}
	late, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	if _, err := m.EncodeTexts(late, "a"); !errors.Is(err, context.DeadlineExceeded) || kind(err) != KindInterrupted {
		t.Errorf("too late: %v", err)
	}
	for name, c := range map[string]struct {
		model string
		o     OpenOptions
		want  string
	}{
		"no file":    {"nowhere.pt", OpenOptions{Backend: "go"}, KindInput},
		"no backend": {"nowhere.pt", OpenOptions{Backend: "abacus"}, KindEnvironment},
		"dtype":      {"nowhere.pt", OpenOptions{DType: "int8"}, KindUsage},
		"batch":      {"nowhere.pt", OpenOptions{Batch: -1}, KindUsage},
	} {
		if m, err := Open(t.Context(), c.model, c.o); m != nil || kind(err) != c.want {
			t.Errorf("%s: kind %q of %v, want %q", name, kind(err), err, c.want)
		}
	}
}

// Close may come at any moment: calls in flight finish, or say why not.
func TestCloseInFlight(t *testing.T) {
	_, files, texts := somePictures(t)
	for round := range 3 {
		m := openFixture(t, OpenOptions{Backend: "go"})
		var wg sync.WaitGroup
		begun := make(chan struct{}, 100)
		for range 6 {
			wg.Go(func() {
				for {
					begun <- struct{}{}
					_, err := m.EncodeImages(t.Context(), files[:1+round]...)
					if err == nil {
						_, err = m.EncodeTexts(t.Context(), texts...)
					}
					if err == nil {
						continue
					}
					var e Error
					if !errors.As(err, &e) || e.Kind() != KindUsage || err.Error() != "the model is closed" {
						t.Errorf("in flight: %v", err)
					}
					return
				}
			})
		}
		for range 6 + round {
			<-begun
		}
		go func() {
			for range begun {
			}
		}()
		var closers sync.WaitGroup
		for range 2 {
			closers.Go(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closers.Wait()
		wg.Wait()
		close(begun)
		if _, err := m.EncodeImages(t.Context(), files[0]); fault.Code(err) != int(fault.Usage) {
			t.Errorf("afterwards: %v", err)
		}
	}
}

// A score ends when its model is closed, and says why.
func TestCloseUnderAScore(t *testing.T) {
	m := openFixture(t, OpenOptions{Backend: "go"})
	dir := pictureFolder(t, 60)
	o := Options{Opened: m, Data: dir, Cache: "off", OpenOptions: OpenOptions{Batch: 1}, Meter: func(label string, _ int64, _ string) Meter {
		if label == "images" {
			go m.Close()
		}
		return noMeter{}
	}}
	_, err := ZeroShot(t.Context(), o)
	if err != nil && err.Error() != "the model is closed" {
		t.Error(err)
	}
	if _, err := ZeroShot(t.Context(), o); fault.Code(err) != int(fault.Usage) || err.Error() != "the model is closed" {
		t.Errorf("on a closed model: %v", err)
	}
}

// Several jobs on one opened model have the results of jobs of their own.
func TestOpenedModel(t *testing.T) {
	e := readExpected(t)
	m := openFixture(t, OpenOptions{Backend: "go", Batch: 5})
	own := fixtureOptions(t, e)
	own.Backend = "go"
	want, err := ZeroShot(t.Context(), own)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		o := own
		o.Opened, o.Model, o.Config, o.Backend = m, "", "", ""
		got, err := ZeroShot(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got.Key != want.Key || got.Correct1 != e.Top1 || got.Correct5 != e.Top5 || got.Model.SHA256 != want.Model.SHA256 {
			t.Errorf("%d, %d of %+v", got.Correct1, got.Correct5, got.Model)
		}
	}
	if _, err := m.EncodeTexts(t.Context(), "still open"); err != nil {
		t.Error(err)
	}
}

func TestInfo(t *testing.T) {
	m := openFixture(t, OpenOptions{Backend: "go", Batch: 3, DType: "bf16"})
	got := m.Info()
	if len(got.SHA256) != 64 || filepath.Base(got.Model) != "model.safetensors" {
		t.Errorf("%+v", got)
	}
	got.SHA256, got.Model = "", ""
	want := Info{
		ImageSize: 48, ContextLength: 77, EmbedDim: 24, LogitScale: m.scale, Mode: "rgb-first",
		Preprocess: Preprocess{Size: 48, Mean: [3]float32{0.48145466, 0.4578275, 0.40821073}, Std: [3]float32{0.26862954, 0.26130258, 0.27577711}, Interpolation: "bicubic", ResizeMode: "shortest"},
		Backend:    "go", Devices: 1, DType: "fp32", Batch: 3, // the Go backend computes in fp32
	}
	if got != want {
		t.Errorf("%+v,\nwant %+v", got, want)
	}
	if b, err := json.Marshal(got); err != nil || !strings.Contains(string(b), `"image_size":48`) {
		t.Errorf("%s, %v", b, err)
	}
}
