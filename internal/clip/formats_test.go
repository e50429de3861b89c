package clip_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/evatool/evatool/internal/checkpoint"
	"github.com/evatool/evatool/internal/clip"
	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/tensorfile"
	"github.com/evatool/evatool/internal/weights"
)

// From a checkpoint as published, in half precision and with stale RoPE
// tables, to the features of the original code.
func TestForwardOfCheckpoints(t *testing.T) {
	const formats, models = "../../testdata/formats/", "../../testdata/models/"
	ctx := context.Background()
	read := func(path string) *tensorfile.File {
		f, err := tensorfile.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	d, err := device.Open(ctx, device.Options{Backend: "go"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, tt := range []struct{ path, expected string }{
		{"02_zip_fp16.pt", "02_zip_fp16.pt"},
		{"03_zip_bf16.pt", "03_zip_bf16.pt"},
		{"05_legacy_fp16_module.pth", "05_legacy_fp16_module.pth"},
		{"06_torchscript_openai_vit.pt", "06_torchscript_openai_vit.pt"},
		{"07_torchscript_openai_rn.pt", "07_torchscript_openai_rn.pt"},
		{"09_openclip_epoch_5.pt", "09_openclip_epoch_5.pt"},
		{"10_deepspeed", "10_deepspeed__epoch_2__mp_rank_00_model_states.pt"},
		{"12_hf_sharded", "12_hf_sharded"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			var about struct{ Family string }
			raw, err := os.ReadFile(formats + "expected/" + tt.expected + ".json")
			if err == nil {
				err = json.Unmarshal(raw, &about)
			}
			if err != nil {
				t.Fatal(err)
			}
			m, err := checkpoint.OpenModel(ctx, formats+tt.path, checkpoint.ModelOptions{ConfigName: filepath.Join(models, about.Family, "config.json")})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			set, err := weights.Load(ctx, d, m.Config, m.Source, "fp32")
			if err != nil {
				t.Fatal(err)
			}
			defer set.Free()
			r, err := clip.NewRunner(d, set, clip.RunnerOptions{Images: 5, Texts: 5})
			if err != nil {
				t.Fatal(err)
			}
			in := read(filepath.Join(models, about.Family, "forward.safetensors"))
			want := read(formats + "expected/" + tt.expected + ".forward.safetensors")
			images, err := tensorfile.Float32s(in, "images")
			if err != nil {
				t.Fatal(err)
			}
			ids, err := tensorfile.ReadAll(in, "tokens")
			if err != nil {
				t.Fatal(err)
			}
			tokens := make([]int32, len(ids)/8)
			for i := range tokens {
				tokens[i] = int32(binary.LittleEndian.Uint64(ids[8*i:]))
			}
			img, err := r.Images(ctx, images, 3)
			if err != nil {
				t.Fatal(err)
			}
			txt, err := r.Texts(ctx, tokens, 5)
			if err != nil {
				t.Fatal(err)
			}
			for name, got := range map[string][]float32{"expected.image_features": img, "expected.text_features": txt} {
				f, err := tensorfile.Float32s(want, name)
				if err != nil {
					t.Fatal(err)
				}
				if len(f) != len(got) {
					t.Fatalf("%s: %d values, want %d", name, len(got), len(f))
				}
				for i := range f {
					if !(math.Abs(float64(got[i]-f[i])) < 1e-4) {
						t.Fatalf("%s: value %d is %v, want %v", name, i, got[i], f[i])
					}
				}
			}
		})
	}
}
