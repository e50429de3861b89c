package checkpoint

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

const formats = "../../testdata/formats/"

// A module that wraps a model puts its own name before all others.
func TestNamesBehindAPrefix(t *testing.T) {
	for _, file := range []string{"01_zip_fp32.pt", "06_torchscript_openai_vit.pt", "11_hf"} {
		in, err := Open([]string{formats + file}, "")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		plain := in.inventory()
		wrapped := &inventory{}
		for _, x := range plain.tensors {
			x.Name = "_orig_mod.model." + x.Name
			wrapped.tensors = append(wrapped.tensors, x)
		}
		a, err1 := mapToEVA(plain)
		b, err2 := mapToEVA(wrapped)
		if err1 != nil || err2 != nil {
			t.Fatal(file, err1, err2)
		}
		if a.family != b.family || len(a.items) != len(b.items) || len(a.dropped) != len(b.dropped) || b.prefix != "model." {
			t.Errorf("%s: %s and %s, %d and %d tensors, %d and %d dropped, prefix %q", file, a.family.name, b.family.name, len(a.items), len(b.items), len(a.dropped), len(b.dropped), b.prefix)
		}
		for name := range a.byName {
			if b.byName[name] == nil {
				t.Errorf("%s: no %s behind the prefix", file, name)
			}
		}
		x, _ := origin(a, plain)
		if y, _ := origin(b, wrapped); x != y {
			t.Errorf("%s: origin %q and %q", file, x, y)
		}
		wrapped.tensors[3].Name = "other." + wrapped.tensors[3].Name
		if _, err := mapToEVA(wrapped); err == nil {
			t.Errorf("%s: a prefix that not all names have", file)
		}
	}
}

// Rounding twice, float64 to float32 to half, must not differ from rounding once.
func TestDoubleRounding(t *testing.T) {
	// Just above the midpoint of 1 and the next half: float32 would round it to the
	// midpoint, and that rounds to even, which is 1.
	v := 1 + 0x1p-11 + 0x1p-40
	b := make([]byte, 2)
	encoders[tensorfile.F16].encode(b, v)
	if got := tensorfile.F16toF32(le.Uint16(b)); got != 1+0x1p-10 {
		t.Errorf("%v becomes %v", v, got)
	}
	encoders[tensorfile.F16].encode(b, -v)
	if got := tensorfile.F16toF32(le.Uint16(b)); got != -1-0x1p-10 {
		t.Errorf("%v becomes %v", -v, got)
	}
}

// The error about a file with one tower says which one is missing.
func TestOpenModelOfOneTower(t *testing.T) {
	const model = "../../testdata/models/eva01-tiny/"
	src, err := tensorfile.OpenFile(model + "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var towers [2][]tensorfile.Tensor
	for _, info := range src.Tensors() {
		b, err := tensorfile.ReadAll(src, info.Name)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		if !strings.HasPrefix(info.Name, "visual.") {
			i = 1
		}
		towers[i] = append(towers[i], tensorfile.Tensor{Info: info, Data: b})
	}
	for i, want := range []string{"has no text tower, only a vision tower; evatool init", "has no vision tower, only a text tower; evatool init"} {
		path := filepath.Join(t.TempDir(), "one.safetensors")
		if err := tensorfile.WriteFile(path, towers[i], nil); err != nil {
			t.Fatal(err)
		}
		_, err := OpenModel(context.Background(), path, ModelOptions{ConfigName: model + "config.json"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestOpenModel(t *testing.T) {
	for _, c := range []struct{ file, config string }{
		{"01_zip_fp32.pt", "eva02-b-tiny"}, {"07_torchscript_openai_rn.pt", "openai-rn-tiny"}, {"10_deepspeed", "eva02-b-tiny"}, {"12_hf_sharded", ""},
	} {
		config := c.config
		if config != "" {
			config = "../../testdata/models/" + config + "/config.json"
		}
		m, err := OpenModel(context.Background(), formats+c.file, ModelOptions{ConfigName: config})
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		infos := map[string]tensorfile.Info{}
		for _, info := range m.Source.Tensors() {
			infos[info.Name] = info
			if _, err := tensorfile.ReadAll(m.Source, info.Name); err != nil {
				t.Errorf("%s: %v", c.file, err)
			}
		}
		for _, p := range m.Config.Params() {
			if !slices.Equal(infos[p.Name].Shape, p.Shape) {
				t.Errorf("%s: %s %v, want %v", c.file, p.Name, infos[p.Name].Shape, p.Shape)
			}
			delete(infos, p.Name)
		}
		if len(infos) > 0 || len(m.SHA256) != 64 {
			t.Errorf("%s: too much: %v", c.file, infos)
		}
		m.Close()
	}
	_, err := OpenModel(context.Background(), formats+"01_zip_fp32.pt", ModelOptions{})
	if err == nil || !strings.Contains(err.Error(), "Options.Config") {
		t.Errorf("got %v", err)
	}
}
