package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/tensorfile"
)

// stateDict is an inventory in the order of the file, with names and shapes only.
func stateDict(t *testing.T, raw json.RawMessage) []tensorfile.Info {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	var out []tensorfile.Info
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		info := tensorfile.Info{Name: name.(string), DType: tensorfile.F32}
		if err := dec.Decode(&info.Shape); err != nil {
			t.Fatal(err)
		}
		out = append(out, info)
	}
	return out
}

// structures are the published architectures by name.
func structures(t *testing.T) map[string][]tensorfile.Info {
	t.Helper()
	out := map[string][]tensorfile.Info{}
	for _, text := range archtest.Structures(t, "../../testdata/structure") {
		var s struct {
			Name string          `json:"name"`
			Dict json.RawMessage `json:"state_dict"`
		}
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		out[s.Name] = stateDict(t, s.Dict)
	}
	return out
}

func mustPlan(t *testing.T, inv *inventory, o PlanOptions) *Plan {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(inv, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outputs is what a plan writes, as an inventory.
func outputs(p *Plan) *inventory {
	inv := &inventory{}
	for _, it := range p.Items {
		inv.tensors = append(inv.tensors, it.Out)
	}
	return inv
}

// sameTensors compares inventories as sets.
func sameTensors(t *testing.T, got, want []tensorfile.Info) {
	t.Helper()
	m := map[string]tensorfile.Info{}
	for _, w := range want {
		m[w.Name] = w
	}
	for _, g := range got {
		w, ok := m[g.Name]
		if !ok {
			t.Errorf("%s is too much", g.Name)
		} else if !SameShape(g.Shape, w.Shape) || g.DType != w.DType {
			t.Errorf("%s %s %v, want %s %v", g.Name, g.DType, g.Shape, w.DType, w.Shape)
		}
		delete(m, g.Name)
	}
	for n := range m {
		t.Errorf("%s is missing", n)
	}
}

func TestPublishedModelsAreRecognised(t *testing.T) {
	for name, tensors := range structures(t) {
		t.Run(name, func(t *testing.T) {
			p := mustPlan(t, &inventory{tensors: tensors}, PlanOptions{})
			if p.Name != name {
				t.Fatalf("recognised as %q (%s)", p.Name, p.Recognised)
			}
			var want []tensorfile.Info
			for _, q := range p.Config.Params() {
				want = append(want, tensorfile.Info{Name: q.Name, DType: tensorfile.F32, Shape: q.Shape})
			}
			sameTensors(t, outputs(p).tensors, want)
			// OpenCLIP's CustomTextCLIP has EVA's names.
			if again := mustPlan(t, outputs(p), PlanOptions{}); again.Name != name {
				t.Errorf("under EVA's names it is %q", again.Name)
			}
			if len(p.Items)+len(p.Dropped) != len(tensors) {
				t.Errorf("%d tensors in, %d out, %d dropped", len(tensors), len(p.Items), len(p.Dropped))
			}
		})
	}
}

// Every model that a layout can express comes back from it unchanged.
func TestLayoutsRoundTrip(t *testing.T) {
	for name, tensors := range structures(t) {
		eva := mustPlan(t, &inventory{tensors: tensors}, PlanOptions{})
		for _, layout := range []string{"eva", "openclip", "hf"} {
			t.Run(name+"/"+layout, func(t *testing.T) {
				o := PlanOptions{Layout: layout}
				if err := o.Check(); err != nil {
					t.Fatal(err)
				}
				p, err := newPlan(outputs(eva), o)
				expressible := layout != "hf" || strings.Contains(name, "ViT")
				if !expressible {
					if err == nil || !strings.Contains(err.Error(), "Options.Layout hf") {
						t.Fatalf("got %v, want an error: there is no such model in transformers", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				inv := outputs(p)
				inv.metadata = ModelMetadata(eva.Config)
				back := mustPlan(t, inv, PlanOptions{})
				sameTensors(t, outputs(back).tensors, outputs(eva).tensors)
				if back.Name != name {
					t.Errorf("comes back as %s", back.Name)
				}
			})
		}
	}
}

// OpenCLIP's own EVA models, as it instantiates them with timm's towers.
func TestTimmNames(t *testing.T) {
	all := structures(t)
	for file, name := range map[string]string{
		"EVA01-g-14": "EVA01-CLIP-g-14", "EVA02-B-16": "EVA02-CLIP-B-16",
		"EVA02-L-14-336": "EVA02-CLIP-L-14-336", "EVA02-E-14-plus": "EVA02-CLIP-bigE-14-plus",
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile("testdata/timm/" + file + ".json")
			if err != nil {
				t.Fatal(err)
			}
			timm := stateDict(t, b)
			p := mustPlan(t, &inventory{tensors: timm}, PlanOptions{})
			if p.Name != name || p.Family != "timm-eva-clip" {
				t.Fatalf("recognised as %q, %s", p.Name, p.Family)
			}
			back := mustPlan(t, &inventory{tensors: all[name]}, PlanOptions{Layout: "openclip"})
			sameTensors(t, outputs(back).tensors, timm)
		})
	}
}

func TestTowersAreRecognised(t *testing.T) {
	all := structures(t)
	for name, want := range map[string]string{
		"EVA01-CLIP-g-14": "EVA01_g_psz14", "EVA02-CLIP-B-16": "EVA02_B_psz14to16",
		"EVA02-CLIP-L-14": "EVA02_L_psz14", "EVA02-CLIP-bigE-14": "EVA02_E_psz14",
	} {
		var tower []tensorfile.Info
		for _, info := range all[name] {
			if n, ok := strings.CutPrefix(info.Name, "visual."); ok && !strings.HasPrefix(n, "head.") {
				tower = append(tower, tensorfile.Info{Name: n, DType: tensorfile.F16, Shape: info.Shape})
			}
		}
		c, _ := arch.Named(name)
		w := int64(c.Vision.Width)
		tower = append(tower, tensorfile.Info{Name: "mask_token", DType: tensorfile.F16, Shape: []int64{1, 1, w}},
			tensorfile.Info{Name: "lm_head.weight", DType: tensorfile.F16, Shape: []int64{1024, w}},
			tensorfile.Info{Name: "lm_head.bias", DType: tensorfile.F16, Shape: []int64{1024}})
		p := mustPlan(t, &inventory{tensors: tower}, PlanOptions{})
		if p.Name != want || p.Family != "eva-tower" || p.Config != nil {
			t.Errorf("%s: recognised as %q, %s", name, p.Name, p.Family)
		}
		if back := mustPlan(t, outputs(p), PlanOptions{}); back.Name != want || len(back.Items) != len(p.Items) {
			t.Errorf("%s: converted, it is recognised as %q", name, back.Name)
		}
	}
}

// sorted is a copy in alphabetical order, as in a safetensors file of the Python
// library.
func sorted(tensors []tensorfile.Info) []tensorfile.Info {
	out := slices.Clone(tensors)
	slices.SortFunc(out, func(a, b tensorfile.Info) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// OpenAI's and OpenCLIP's models of one shape need different activations.
func TestWhatTellsOpenAIFromOpenCLIP(t *testing.T) {
	const name = "openai-ViT-B-32"
	tensors := sorted(structures(t)[name])
	if _, err := newPlan(&inventory{tensors: tensors}, PlanOptions{Layout: "eva", DType: "keep"}); err == nil || !strings.Contains(err.Error(), "openclip-ViT-B-32") {
		t.Errorf("sorted names say nothing, but: %v", err)
	}
	facts := slices.Clone(tensors)
	for _, n := range []string{"input_resolution", "context_length", "vocab_size"} {
		facts = append(facts, tensorfile.Info{Name: n, DType: tensorfile.I64})
	}
	mix := slices.Clone(tensors)
	for i := range mix {
		if !strings.Contains(mix[i].Name, "ln_") && strings.HasSuffix(mix[i].Name, "weight") {
			mix[i].DType = tensorfile.F16
		}
	}
	for _, inv := range [][]tensorfile.Info{facts, mix} {
		if p := mustPlan(t, &inventory{tensors: inv}, PlanOptions{}); p.Name != name || !p.Config.QuickGELU {
			t.Errorf("recognised as %s", p.Name)
		}
	}
	// With Hugging Face's names, there is no order to go by.
	p := mustPlan(t, &inventory{tensors: structures(t)[name]}, PlanOptions{Layout: "hf"})
	if _, err := newPlan(outputs(p), PlanOptions{Layout: "eva", DType: "keep"}); err == nil || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("got %v", err)
	}
}

// OpenCLIP trained ResNets too, with GELU, which their shapes do not show.
func TestOpenCLIPResNetIsNotTakenSilently(t *testing.T) {
	tensors := structures(t)["openai-RN50"]
	if p := mustPlan(t, &inventory{tensors: tensors}, PlanOptions{}); len(p.Warnings) > 0 {
		t.Errorf("OpenAI's order warns: %v", p.Warnings)
	}
	slices.SortStableFunc(tensors, func(a, b tensorfile.Info) int {
		return strings.Compare(fmt.Sprint(!strings.Contains(a.Name, "ln_1")), fmt.Sprint(!strings.Contains(b.Name, "ln_1")))
	})
	if p := mustPlan(t, &inventory{tensors: tensors}, PlanOptions{}); len(p.Warnings) != 1 {
		t.Errorf("warnings %v", p.Warnings)
	}
}

// A published model at another image size keeps everything but its size.
func TestOtherImageSizeIsRecognised(t *testing.T) {
	tensors := structures(t)["EVA02-CLIP-B-16"]
	for i := range tensors {
		if tensors[i].Name == "visual.pos_embed" {
			tensors[i].Shape = []int64{1, 28*28 + 1, 768}
		}
	}
	p := mustPlan(t, &inventory{tensors: tensors}, PlanOptions{})
	if p.Config == nil || p.Config.Vision.ImageSize != 448 || !strings.Contains(p.Recognised, "EVA02-CLIP-B-16") {
		t.Errorf("recognised as %s (%s)", p.Name, p.Recognised)
	}
}

// A model trained with SigLIP's loss has one more tensor.
func TestLogitBias(t *testing.T) {
	tensors := append(structures(t)["EVA02-CLIP-B-16"], tensorfile.Info{Name: "logit_bias", DType: tensorfile.F32, Shape: []int64{1}})
	p := mustPlan(t, &inventory{tensors: tensors}, PlanOptions{})
	if p.Config == nil || p.Config.LogitBias == nil || p.Name != Custom || !strings.Contains(p.Recognised, "with a logit bias") {
		t.Errorf("recognised as %s (%s)", p.Name, p.Recognised)
	}
}

// The text tower's logit_scale takes precedence over the model's.
func TestLogitScaleOfTheTextTower(t *testing.T) {
	tensors := structures(t)["EVA02-CLIP-B-16"]
	for _, both := range []bool{false, true} {
		in := slices.Clone(tensors)
		i := slices.IndexFunc(in, func(x tensorfile.Info) bool { return x.Name == "logit_scale" })
		if both {
			in = append(in, tensorfile.Info{Name: "text.logit_scale", DType: tensorfile.F32})
		} else {
			in[i].Name = "text.logit_scale"
		}
		p := mustPlan(t, &inventory{tensors: in}, PlanOptions{})
		j := slices.IndexFunc(p.Items, func(it *Item) bool { return it.Out.Name == "logit_scale" })
		if j < 0 || p.Items[j].Sources()[0] != "text.logit_scale" || p.Name != "EVA02-CLIP-B-16" {
			t.Errorf("both %v: %d, recognised as %s", both, j, p.Name)
		}
	}
}
