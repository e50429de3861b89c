package convert

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/fault"
)

// A folder in transformers' names has a configuration, equivalent to the one that
// the model came with.
func TestConfigBesideHuggingFaceNames(t *testing.T) {
	dir := t.TempDir()
	out, config := filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "config.json")
	openai := Options{Sources: []string{formats + "06_torchscript_openai_vit.pt"}, Config: "../testdata/models/openai-vit-tiny/config.json", Layout: "hf", Output: out}
	if r := run(t, openai); r.ConfigFile != config {
		t.Errorf("the report says %q", r.ConfigFile)
	}
	same := func(model string) {
		t.Helper()
		want, err1 := os.ReadFile("../testdata/models/" + model + "/config.json")
		got, err2 := os.ReadFile(config)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		a, err1 := arch.Parse(want)
		b, err2 := arch.Parse(got)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		x, _ := hfConfig(a)
		if y, _ := hfConfig(b); string(x) != string(y) {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	same("openai-vit-tiny")
	if p, err := arch.ParsePreprocess(read(t, filepath.Join(dir, "preprocessor_config.json")), 48); err != nil || p.ResizeMode != arch.Shortest || p.Mean != arch.CLIPMean {
		t.Errorf("pictures: %+v, %v", p, err)
	}

	// Another model: overwritten only with Force, and not beside a file of another name.
	openclip := Options{Sources: []string{formats + "09_openclip_epoch_5.pt"}, Config: "../testdata/models/openclip-vith-tiny/config.json", Layout: "hf", Output: out}
	os.Remove(out)
	if _, err := Run(context.Background(), openclip); fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), config) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("written in spite of the error")
	}
	openclip.Output = filepath.Join(dir, "other.safetensors")
	openclip.Force = true
	if r := run(t, openclip); r.ConfigFile != "" || !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, config) }) {
		t.Errorf("%q, warnings %q", r.ConfigFile, r.Warnings)
	}
	same("openai-vit-tiny")
	openclip.Output = out
	run(t, openclip)
	same("openclip-vith-tiny")

	// The same model again: the file stays, whatever else is in it.
	if err := os.WriteFile(config, []byte(strings.Replace(string(read(t, config)), "{", `{"mine": 1,`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := run(t, openclip); r.ConfigFile != config || !strings.Contains(string(read(t, config)), "mine") {
		t.Error("a good configuration was overwritten")
	}
}

// No configuration for half a model, or for other names.
func TestNoConfigWhereItWouldLie(t *testing.T) {
	dir := t.TempDir()
	o := Options{Sources: []string{formats + "06_torchscript_openai_vit.pt"}, Config: "../testdata/models/openai-vit-tiny/config.json"}
	for name, change := range map[string]func(o *Options){
		"part":     func(o *Options) { o.Layout, o.Exclude = "hf", []string{"text_model.*"} },
		"openclip": func(o *Options) { o.Layout = "openclip" },
	} {
		o := o
		change(&o)
		o.Output = filepath.Join(dir, name+".safetensors")
		if r := run(t, o); r.ConfigFile != "" {
			t.Errorf("%s: %s", name, r.ConfigFile)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		t.Error("config.json was written")
	}
	for what, change := range map[string]func(c *arch.Config){
		"pool":   func(c *arch.Config) { c.Vision.PoolType = "avg" },
		"ln_pre": func(c *arch.Config) { c.Vision.NoLnPre = true },
		"mask":   func(c *arch.Config) { c.Text.AttnMask = false },
		"eos":    func(c *arch.Config) { c.Text.PoolType, c.Text.EOS = "eos", new(2) },
	} {
		c, _ := arch.Named("openclip-ViT-B-32")
		change(c)
		if _, why := hfConfig(c); why == "" {
			t.Errorf("%s: no reason", what)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
