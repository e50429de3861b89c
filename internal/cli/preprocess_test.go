package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

const preprocessImages = "../../testdata/preprocess/images"

func runPreprocess(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	app := &App{In: strings.NewReader(""), Out: &out, Err: &bytes.Buffer{}}
	root := newRoot(app)
	root.SetArgs(append([]string{"preprocess"}, args...))
	err := root.ExecuteContext(context.Background())
	return out.String(), err
}

// TestPreprocess expects the index's hashes for every image in both modes and sizes,
// and the crops in the written files.
func TestPreprocess(t *testing.T) {
	type result struct {
		Crop   string `json:"uint8_sha256"`
		Tensor string `json:"float_sha256"`
	}
	var index struct {
		Images []struct {
			File          string
			Width, Height int
			Decoded       string `json:"decoded_rgb_sha256"`
			Results       map[string]struct {
				Direct   result
				RGBFirst result `json:"rgb_first"`
			}
		}
	}
	b, err := os.ReadFile("../../testdata/preprocess/index.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range index.Images {
		files = append(files, filepath.Join(preprocessImages, filepath.Base(f.File)))
	}
	for _, size := range []string{"224", "336"} {
		for _, mode := range []string{"rgb-first", "direct"} {
			dir := t.TempDir()
			out, err := runPreprocess(t, append([]string{"--size", size, "--mode", mode, "--json", "-o", dir}, files...)...)
			if err != nil {
				t.Fatal(err)
			}
			var got []preprocessed
			if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != len(files) {
				t.Fatalf("%d results for %d files, %v", len(got), len(files), err)
			}
			for i, f := range index.Images {
				want := f.Results[size].RGBFirst
				if mode == "direct" {
					want = f.Results[size].Direct
				}
				g := got[i]
				if g.File != files[i] || g.Width != f.Width || g.Height != f.Height || g.DecodedSHA != f.Decoded || g.CropSHA != want.Crop || g.TensorSHA != want.Tensor {
					t.Errorf("%s, size %s, %s: %+v, want %+v", f.File, size, mode, g, want)
				}
				checkCropFiles(t, filepath.Join(dir, filepath.Base(f.File)), want.Crop)
			}
		}
	}
}

// checkCropFiles expects the hash of a crop from its .npy and its .png.
func checkCropFiles(t *testing.T, base, want string) {
	t.Helper()
	npy, err := os.ReadFile(base + ".npy")
	if err != nil {
		t.Fatal(err)
	}
	start := 10 + int(npy[8]) + int(npy[9])<<8
	if start%64 != 0 || npy[start-1] != '\n' || sha(npy[start:]) != want {
		t.Errorf("%s.npy is not the crop", base)
	}
	f, err := os.Open(base + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	var pix []byte
	for y := range im.Bounds().Dy() {
		for x := range im.Bounds().Dx() {
			r, g, b, _ := im.At(x, y).RGBA()
			pix = append(pix, byte(r>>8), byte(g>>8), byte(b>>8))
		}
	}
	if sha(pix) != want {
		t.Errorf("%s.png is not the crop", base)
	}
}

func TestPreprocessErrors(t *testing.T) {
	image := filepath.Join(preprocessImages, "china_420.jpg")
	dir := t.TempDir()
	truncated := filepath.Join(dir, "truncated.jpg")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(truncated, data[:len(data)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want fault.Kind
		text string
	}{
		"no size":    {[]string{"--size", "0", image}, fault.Usage, "--size 0"},
		"bad mode":   {[]string{"--mode", "both", image}, fault.Usage, "--mode both"},
		"same name":  {[]string{"-o", dir, image, preprocessImages + "/../images/china_420.jpg"}, fault.Usage, "china_420.jpg"},
		"no file":    {[]string{dir + "/none.jpg"}, fault.Input, "none.jpg"},
		"folder":     {[]string{dir}, fault.Input, dir},
		"not image":  {[]string{"preprocess.go"}, fault.Input, "preprocess.go"},
		"truncated":  {[]string{truncated}, fault.Input, "truncated.jpg: JPEG image is truncated"},
		"file as -o": {[]string{"-o", truncated, image}, fault.Environment, "truncated.jpg"},
	} {
		out, err := runPreprocess(t, append(tt.args, "--json")...)
		if fault.Code(err) != int(tt.want) || !strings.Contains(err.Error(), tt.text) || out != "" {
			t.Errorf("%s: %v (status %d), printed %q; want status %d and %q", name, err, fault.Code(err), out, tt.want, tt.text)
		}
	}
}

// TestPreprocessBilinear expects Pillow's crop with the other filter.
func TestPreprocessBilinear(t *testing.T) {
	const photo = "../../testdata/preprocess/photo_500x375.jpg"
	out, err := runPreprocess(t, "--interpolation", "bilinear", photo)
	if err != nil || !strings.Contains(out, "887fc543326e8ddf7eb69fa73b5a9807d1bba3d11245483fae66ba8954bbcf4f") {
		t.Errorf("%s %v", out, err)
	}
	if _, err := runPreprocess(t, "--interpolation", "cubic", photo); fault.Code(err) != int(fault.Usage) {
		t.Errorf("lanczos: %v", err)
	}
}
