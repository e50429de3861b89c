package published

import (
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
)

// All 196 pairs of OpenCLIP 3.3 and EVA's seven files, each readable.
func TestWeightsTable(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range AllWeights() {
		if _, err := arch.OpenAIPreprocess().With(w.Preprocess); err != nil {
			t.Errorf("%s: %v", w.Name(), err)
		}
		if n := len(w.SHA256); n != 0 && n != 8 && n != 64 {
			t.Errorf("%s: SHA-256 %q", w.Name(), w.SHA256)
		}
		if seen[w.Name()+w.Repo] || !strings.Contains(w.Repo, "/") || len(w.Files) == 0 {
			t.Errorf("%+v", w)
		}
		seen[w.Name()+w.Repo] = true
	}
	if len(seen) != 196+10 {
		t.Errorf("%d weights, want 206", len(seen))
	}
}

// tags lists the names of weights, each once, without -quickgelu.
func tags(list []Weights) (names []string) {
	for _, w := range list {
		names = append(names, strings.Replace(w.Name(), "-quickgelu/", "/", 1))
	}
	return slices.Compact(names)
}

func TestByName(t *testing.T) {
	for path, want := range map[string][]string{
		"hub/CLIP-ViT-L-14-laion2B-s32B-b82K/open_clip_pytorch_model.bin":                             {"ViT-L-14/laion2b_s32b_b82k"},
		"clip-vit-l-14-laion2b-s32b-b82k/model.safetensors":                                           {"ViT-L-14/laion2b_s32b_b82k"},
		"c/models--laion--CLIP-ViT-L-14-laion2B-s32B-b82K/snapshots/8c7a/open_clip_model.safetensors": {"ViT-L-14/laion2b_s32b_b82k"},
		"c/models--QuanSun--EVA-CLIP/snapshots/11af/EVA02_CLIP_B_psz16_s8B.pt":                        {"EVA02-B-16/merged2b_s8b_b131k"},
		"c/models--mine--laion2b_s32b_b82k/snapshots/11af/open_clip_pytorch_model.bin":                nil,
		"ViT-L-14_laion2b_s32b_b82k.safetensors":                                                      {"ViT-L-14/laion2b_s32b_b82k"},
		"laion2b_s32b_b82k.pt":                                                                        {"ViT-L-14/laion2b_s32b_b82k"},
		"ViT-H-14-378-quickgelu-dfn5b.pt":                                                             {"ViT-H-14-378/dfn5b"},
		"DFN5B-CLIP-ViT-H-14-378/open_clip_pytorch_model.bin":                                         {"ViT-H-14-378/dfn5b"},
		"dfn5b.pt": nil,
		"vit_b_32-quickgelu-laion400m_e31-d867053b.pt": {"ViT-B-32/laion400m_e31"},
		"h14_v1.2_altogether.pt":                       {"ViT-H-14/metaclip_altogether"},
		"EVA02_CLIP_L_336_psz14_s6B.pt":                {"EVA02-L-14-336/merged2b_s6b_b61k"},
		"convnext_base_w-laion2b_s13b_b82k_augreg.bin": {"convnext_base_w/laion2b_s13b_b82k_augreg"},
		"ViT-B-32.pt":                 nil,
		"RN50.pt":                     nil,
		"epoch_5.pt":                  nil,
		"open_clip_pytorch_model.bin": nil,
		"timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors": {"ViT-B-32/openai"},
	} {
		got := tags(ByName(path))
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestBySHA256(t *testing.T) {
	if got := tags(BySHA256("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af")); !slices.Equal(got, []string{"ViT-B-32/openai"}) {
		t.Error(got)
	}
	if got := tags(BySHA256("d867053b" + strings.Repeat("0", 56))); !slices.Equal(got, []string{"ViT-B-32/laion400m_e31"}) {
		t.Error(got)
	}
	if got := BySHA256(strings.Repeat("0", 64)); got != nil {
		t.Error(got)
	}
}
