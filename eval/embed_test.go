package eval

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/arch/archtest"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/tensorfile"
)

// Features and logits are the original code's within 1e-4: every family on the
// Go backend, one on XLA, whose compiler takes seconds for each.
func TestEmbedTensors(t *testing.T) {
	dirs, err := filepath.Glob("../testdata/models/*-tiny")
	if err != nil || len(dirs) != 32 {
		t.Fatalf("%d models in testdata, want 32 (%v)", len(dirs), err)
	}
	eachBackend(t, func(t *testing.T, backend string) {
		for i, dir := range dirs {
			if backend != "go" && filepath.Base(dir) != "eva02-b-tiny" {
				continue
			}
			normalize := i%2 == 0
			t.Run(filepath.Base(dir), func(t *testing.T) {
				in := filepath.Join(dir, "forward.safetensors")
				o := EmbedOptions{
					OpenOptions: OpenOptions{Backend: backend, CompileCache: compileCache, Config: filepath.Join(dir, "config.json")}, Model: archtest.Weights(dir),
					Tensors: in, Raw: !normalize, Out: filepath.Join(t.TempDir(), "out.safetensors"),
				}
				if _, err := Embed(context.Background(), o); err != nil {
					t.Fatal(err)
				}
				suffix := ""
				if normalize {
					suffix = "_norm"
				}
				for got, want := range map[string]string{
					"image_features": "expected.image_features" + suffix, "text_features": "expected.text_features" + suffix,
					"logits_per_image": "expected.logits_per_image", "logit_scale_exp": "expected.logit_scale_exp",
				} {
					closeTo(t, got, floats(t, o.Out, got), floats(t, in, want), 1e-4)
				}
			})
		}
	})
}

func TestEmbedBlocks(t *testing.T) {
	dir := "../testdata/models/eva02-b-tiny"
	eachBackend(t, func(t *testing.T, backend string) {
		out := filepath.Join(t.TempDir(), "out.safetensors")
		_, err := Embed(context.Background(), EmbedOptions{
			OpenOptions: OpenOptions{Backend: backend, CompileCache: compileCache, Config: filepath.Join(dir, "config.json"), Batch: 2}, Model: archtest.Weights(dir),
			Tensors: filepath.Join(dir, "forward.safetensors"), Out: out, Blocks: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		want := filepath.Join(dir, "intermediate.safetensors")
		for _, name := range []string{"visual.blocks.0", "visual.blocks.2", "text.transformer.resblocks.1"} {
			first := floats(t, want, name) // of the first sample
			got := floats(t, out, name)
			if len(got) <= len(first) {
				t.Fatalf("%s: %d values for all samples", name, len(got))
			}
			closeTo(t, name, got[:len(first)], first, 1e-4)
		}
	})
}

// Features do not depend on the batch size beyond rounding.
func TestEmbedBatches(t *testing.T) {
	dir := "../testdata/models/eva02-b-tiny"
	eachBackend(t, func(t *testing.T, backend string) {
		var want []float32
		for _, batch := range []int{5, 2} {
			out := filepath.Join(t.TempDir(), "out.safetensors")
			_, err := Embed(context.Background(), EmbedOptions{
				OpenOptions: OpenOptions{Backend: backend, CompileCache: compileCache, Config: filepath.Join(dir, "config.json"), Batch: batch}, Model: archtest.Weights(dir),
				Tensors: filepath.Join(dir, "forward.safetensors"), Out: out,
			})
			if err != nil {
				t.Fatal(err)
			}
			got := append(floats(t, out, "image_features"), floats(t, out, "text_features")...)
			if want == nil {
				want = got
			}
			closeTo(t, "features", got, want, 1e-5)
		}
	})
}

func TestEmbedChecks(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "o.safetensors")
	for _, c := range []struct {
		o    EmbedOptions
		kind fault.Kind
		want string
	}{
		{EmbedOptions{Out: out}, fault.Usage, "Options.Images"},
		{EmbedOptions{Out: out, Texts: "a", Tensors: "b"}, fault.Usage, "Options.Tensors"},
		{EmbedOptions{Out: filepath.Join(dir, "o.txt"), Texts: "a"}, fault.Usage, ".safetensors or .npy"},
		{EmbedOptions{Out: filepath.Join(dir, "o.npy"), Texts: "a", Images: []string{"b"}}, fault.Usage, "one array"},
		{EmbedOptions{Out: filepath.Join(dir, "o.npy"), Texts: "a", Blocks: true}, fault.Usage, "Options.Blocks"},
		{EmbedOptions{Out: out, Texts: "a", OpenOptions: OpenOptions{DType: "int8"}}, fault.Usage, "Options.DType"},
		{EmbedOptions{Out: filepath.Join(dir, "no", "o.npy"), Texts: "a"}, fault.Environment, "no such folder"},
	} {
		if err := c.o.check(); err == nil || fault.Code(err) != int(c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: status %d: %v; want %d and %q", c.o, fault.Code(err), err, c.kind, c.want)
		}
	}
}

func TestReadTexts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.txt")
	write(t, path, []byte("a dog\r\n\n  two \nlast"))
	for _, from := range []string{path, "-"} {
		got, err := readTexts(t.Context(), from, strings.NewReader("a dog\n\n  two \nlast\n"))
		if err != nil || strings.Join(got, "|") != "a dog||  two |last" {
			t.Errorf("%s: %q %v", from, got, err)
		}
	}
	// Latin-1, UTF-16 with and without its mark: never read as something else.
	for _, text := range []string{"ok\ncaf\xe9\n", "\xff\xfeh\x00i\x00\n\x00", "h\x00i\x00\n\x00"} {
		write(t, path, []byte(text))
		if got, err := readTexts(t.Context(), path, nil); fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), "not UTF-8") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestWrongTensors(t *testing.T) {
	dir := "../testdata/models/eva02-b-tiny"
	tensor := func(name string, d tensorfile.DType, shape ...int64) tensorfile.Tensor {
		i := tensorfile.Info{Name: name, DType: d, Shape: shape}
		return tensorfile.Tensor{Info: i, Data: make([]byte, i.NumBytes())}
	}
	big := tensor("tokens", tensorfile.I64, 1, 77)
	binary.LittleEndian.PutUint64(big.Data[8:], 1<<40)
	for _, c := range []struct {
		t    tensorfile.Tensor
		want string
	}{
		{tensor("pixels", tensorfile.F32, 1, 3, 64, 64), "want at least one of them"},
		{tensor("images", tensorfile.F32, 1, 3, 32, 32), "32x32 but the model takes 64x64"},
		{tensor("images", tensorfile.F16, 1, 3, 64, 64), "want F32"},
		{tensor("images", tensorfile.F32, 0, 3, 64, 64), "empty"},
		{tensor("tokens", tensorfile.I64, 2, 76), "the model takes [n,77]"},
		{tensor("tokens", tensorfile.F32, 2, 77), "want I64"},
		{big, "tokens[0,1] is 1099511627776"},
	} {
		in := filepath.Join(t.TempDir(), "in.safetensors")
		if err := tensorfile.WriteFile(in, []tensorfile.Tensor{c.t}, nil); err != nil {
			t.Fatal(err)
		}
		_, err := Embed(context.Background(), EmbedOptions{
			OpenOptions: OpenOptions{Backend: "go", Config: filepath.Join(dir, "config.json")}, Model: archtest.Weights(dir),
			Tensors: in, Out: filepath.Join(t.TempDir(), "o.safetensors"),
		})
		if err == nil || fault.Code(err) != int(fault.Input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %v: %v, want %q", c.t.Name, c.t.DType, c.t.Shape, err, c.want)
		}
	}
}
