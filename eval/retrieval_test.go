package eval

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
)

// seer encodes picture number i (the red of its colour) as the caption that
// answer names.
type seer struct {
	*fake
	answer func(i int) string
}

func (s seer) Images(ctx context.Context, flat []float32, n int) ([]float32, error) {
	plane := s.cfg.Vision.ImageSize * s.cfg.Vision.ImageSize
	width := s.cfg.Text.ContextLength
	p := s.cfg.Preprocess()
	tokens := make([]int32, n*width)
	for i := range n {
		red := int((flat[3*i*plane]*p.Std[0]+p.Mean[0])*255 + 0.5)
		bpe.New().Tokens(tokens[i*width:(i+1)*width], s.answer(red), width)
	}
	return s.Texts(ctx, tokens, n)
}

// retrieveWith scores an encoder that is given, in small batches.
func retrieveWith(t *testing.T, enc encoder, o RetrievalOptions) (*RetrievalResult, error) {
	t.Helper()
	r := &run{o: o.scoring().defaults(), cfg: enc.Config(), pre: enc.Config().Preprocess(), texts: 3}
	r.o.Batch, r.o.Workers = 7, 2
	r.open = func(*arch.Config, string) (encoder, func(), error) { return enc, nil, nil }
	return r.retrieve(t.Context(), o)
}

func caption(i, k int) string { return fmt.Sprintf("picture %d in words %d", i, k) }

// Each of 20 pictures has two captions; the second of the pair is a stranger's,
// so text to image finds one caption of two and image to text all.
func TestRetrieval(t *testing.T) {
	dir := t.TempDir()
	list := "path,caption\n"
	type sentence struct {
		Raw string `json:"raw"`
	}
	type picture struct {
		Filename  string     `json:"filename"`
		Split     string     `json:"split"`
		Sentences []sentence `json:"sentences"`
	}
	var doc struct {
		Images []picture `json:"images"`
	}
	for i := range 20 {
		name := fmt.Sprintf("%02d.png", i)
		writeFilled(t, filepath.Join(dir, "images", name), color.RGBA{uint8(i), 0, 0, 255})
		list += fmt.Sprintf("images/%s,%s\nimages/%s,%s\n", name, caption(i, 0), name, caption(i, 1))
		doc.Images = append(doc.Images, picture{name, "test", []sentence{{caption(i, 0)}, {caption(i, 1)}}})
	}
	doc.Images = append(doc.Images, picture{"not-there.png", "train", nil})
	write(t, filepath.Join(dir, "list.csv"), []byte(list))
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "dataset_flickr30k.json"), b)
	coco := t.TempDir() // as COCO has it, in another order
	var images, annotations []string
	for i := range 20 {
		name := fmt.Sprintf("%012d.png", 1000+i)
		writeFilled(t, filepath.Join(coco, "val2017", name), color.RGBA{uint8(i), 0, 0, 255})
		images = append([]string{fmt.Sprintf(`{"id": %d, "file_name": %q}`, 1000+i, name)}, images...)
		for k := range 2 {
			annotations = append(annotations, fmt.Sprintf(`{"image_id": %d, "caption": %q}`, 1000+i, caption(i, k)))
		}
	}
	write(t, filepath.Join(coco, "annotations", "captions_val2017.json"),
		fmt.Appendf(nil, `{"images": [%s], "annotations": [%s]}`, strings.Join(images, ","), strings.Join(annotations, ",")))
	var tarred bytes.Buffer // as CLIP_benchmark has it
	w := tar.NewWriter(&tarred)
	for i := range 20 {
		picture, err := os.ReadFile(filepath.Join(dir, "images", fmt.Sprintf("%02d.png", i)))
		if err != nil {
			t.Fatal(err)
		}
		for ext, b := range map[string][]byte{"png": picture, "txt": []byte(caption(i, 0) + "\n" + caption(i, 1))} {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("s%02d.%s", i, ext), Size: int64(len(b)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tars := t.TempDir()
	write(t, filepath.Join(tars, "test", "0.tar"), tarred.Bytes())
	enc := seer{newFake(), func(i int) string { return caption(i, 0) }}
	for _, o := range []RetrievalOptions{
		{Set: "csv", Data: filepath.Join(dir, "list.csv")},
		{Set: "flickr30k", Data: dir},
		{Set: "coco", Data: tars},
		{Set: "coco", Data: coco},
		{Set: "csv", Data: filepath.Join(coco, "annotations", "captions_val2017.json")},
	} {
		t.Run(o.Set, func(t *testing.T) {
			res, err := retrieveWith(t, enc, o)
			if err != nil {
				t.Fatal(err)
			}
			if res.Images != 20 || res.Captions != 40 {
				t.Fatalf("%d images, %d captions", res.Images, res.Captions)
			}
			if r := res.ImageToText; r.Hits1 != 20 || r.R1 != 1 || r.N != 20 {
				t.Errorf("image to text %+v", r)
			}
			if r := res.TextToImage; r.Hits1 < 20 || r.Hits1 > 30 || r.N != 40 || r.Hits10 <= r.Hits1 {
				t.Errorf("text to image %+v", r)
			}
		})
	}
	for _, c := range []struct {
		o    RetrievalOptions
		want string
	}{
		{RetrievalOptions{Set: "flickr30k", Data: dir, Split: "val"}, `no images in the split "val"`},
		{RetrievalOptions{Set: "flickr30k", Data: dir, Split: "train"}, "not-there.png"},
		{RetrievalOptions{Set: "coco", Data: dir}, "dataset_coco.json"},
	} {
		if _, err := openCaptioned(t.Context(), c.o, enc.cfg.Preprocess()); err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
	if err := (&RetrievalOptions{Set: "flickr"}).check(); fault.Code(err) != int(fault.Usage) {
		t.Error(err)
	}
}

// Equal captions tie exactly, although a model's last bits depend on a text's
// place in its batch: the lower one ranks first.
func TestEqualCaptionsTie(t *testing.T) {
	one := func(i int, image, text []float32, caption string) entry {
		return entry{row: row{Index: i}, Found: &found{Image: image, Captions: []string{caption}, Texts: text}}
	}
	res := &RetrievalResult{}
	ranks, err := res.count([]entry{
		one(0, []float32{1, 0}, []float32{0.6, 0.8}, "a dog"),
		one(1, []float32{0, 1}, []float32{0.8, 0.6}, "a cat"),
		one(2, []float32{1, 0}, []float32{0.60000002, 0.8}, "a dog"),
		one(3, []float32{0, 1}, []float32{0.6, 0.80000007}, "A  dog"),
		one(4, []float32{1, 0}, []float32{0.1, 0.99}, "A Dog"), // as for a tokenizer that heeds case
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 4, 2, 3, 4} {
		if ranks[i].image != want {
			t.Errorf("image %d finds its caption at place %d, want %d", i, ranks[i].image, want)
		}
	}
}

// A sentence without its text is an error, not an empty caption that is searched for.
func TestKarpathyWithoutText(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.jpg": "x", "dataset_coco.json": `{"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"caption": "a dog"}]}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openKarpathy(dir, "coco", ""); err == nil || !strings.Contains(err.Error(), `image a.jpg has a sentence without "raw"`) {
		t.Errorf("%v", err)
	}
}

// Karpathy's val split of COCO has as many images as test, of which the published
// figures are: it is not compared with them. Data without splits has none to choose.
func TestRetrievalSplit(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.jpg"), []byte("x"))
	write(t, filepath.Join(dir, "list.csv"), []byte("path,caption\na.jpg,a dog\n"))
	write(t, filepath.Join(dir, "dataset_coco.json"), []byte(`{"images": [
		{"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a dog"}]},
		{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "a dog"}]}]}`))
	p := newFake().cfg.Preprocess()
	for split, want := range map[string]string{"": "", "test": "", "val": "the split val, while published figures are of test"} {
		src, err := openCaptioned(t.Context(), RetrievalOptions{Set: "coco", Data: dir, Split: split}, p)
		if err != nil {
			t.Fatal(err)
		}
		res := &RetrievalResult{Set: "coco", N: 5000, Layout: src.Describe(), Model: ModelInfo{Config: "openclip-ViT-B-32"}}
		if res.publish(); res.NotCompared != want || (len(res.Published) == 0) != (want != "") {
			t.Errorf("split %q: %q, %d published", split, res.NotCompared, len(res.Published))
		}
	}
	o := RetrievalOptions{Set: "csv", Data: filepath.Join(dir, "list.csv"), Split: "val"}
	if _, err := openCaptioned(t.Context(), o, p); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "Options.Split val") {
		t.Error(err)
	}
}
