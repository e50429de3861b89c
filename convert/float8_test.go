package convert

import (
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

// A conversion casts the 8-bit floats by value, as torch does, and Diff
// compares them by value.
func TestFloat8(t *testing.T) {
	text, err := os.ReadFile("../internal/tensorfile/testdata/float8.txt") // made with torch
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	write := func(d tensorfile.DType) string {
		path := filepath.Join(dir, string(d)+".safetensors")
		x := tensorfile.Tensor{Info: tensorfile.Info{Name: "x", DType: d, Shape: []int64{256}}, Data: all}
		if err := tensorfile.WriteFile(path, []tensorfile.Tensor{x}, nil); err != nil {
			t.Fatal(err)
		}
		return path
	}
	names := map[string]string{"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if w[0] == "#" {
			continue
		}
		from, to := tensorfile.DType(w[0]), tensorfile.DType(w[1])
		in, out := write(from), filepath.Join(dir, w[0]+w[1]+".safetensors")
		o := Options{Sources: []string{in}, Output: out, Layout: "source", DType: names[w[1]]}
		r, err := Run(t.Context(), o)
		if from == tensorfile.F8_E8M0 && to == tensorfile.F16 {
			if err == nil || !strings.Contains(err.Error(), "overflows") {
				t.Errorf("2^127 became F16: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Cast != 1 {
			t.Errorf("%s to %s: cast %d, want 1", from, to, r.Cast)
		}
		f, err := tensorfile.OpenFile(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tensorfile.ReadAll(f, "x")
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if d := f.Tensors()[0].DType; d != to {
			t.Fatalf("%s to %s is %s", from, to, d)
		}
		want, _ := hex.DecodeString(w[2])
		dec, n := tensorfile.NumberDecoder(to), to.Size()
		for i := range 256 {
			g, w := dec(got[i*n:]), dec(want[i*n:])
			if !(g != g && w != w) && math.Float64bits(g) != math.Float64bits(w) {
				t.Errorf("%s code %#02x as %s is %v, want %v", from, i, to, g, w)
			}
		}
		if to == tensorfile.F32 {
			d, err := Diff(t.Context(), in, out, DiffOptions{})
			if err != nil || !d.Equal {
				t.Errorf("%s and the same numbers in %s differ: %+v (%v)", from, to, d, err)
			}
		}
	}
	d, err := Diff(t.Context(), filepath.Join(dir, "F8_E4M3.safetensors"), filepath.Join(dir, "F8_E5M2.safetensors"), DiffOptions{})
	if err != nil || d.Equal {
		t.Errorf("the same codes of E4M3 and E5M2 are equal: %+v (%v)", d, err)
	}
}

// Complex numbers are copied, compared as they are, and never cast.
func TestComplex(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, last byte) string {
		path := filepath.Join(dir, name)
		x := tensorfile.Tensor{Info: tensorfile.Info{Name: "x", DType: tensorfile.C64, Shape: []int64{1}}, Data: []byte{0, 0, 0x80, 0x3f, 0, 0, 0, last}}
		if err := tensorfile.WriteFile(path, []tensorfile.Tensor{x}, nil); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := write("a.safetensors", 0x40), write("b.safetensors", 0x41)
	out := filepath.Join(dir, "out.safetensors")
	o := Options{Sources: []string{a}, Output: out, Layout: "source", DType: "fp32"}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "complex") {
		t.Errorf("cast of complex numbers: %v", err)
	}
	o.DType = ""
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for other, want := range map[string]bool{out: true, b: false} {
		d, err := Diff(t.Context(), a, other, DiffOptions{})
		if err != nil || d.Equal != want {
			t.Errorf("%s: %+v (%v), want equal %v", filepath.Base(other), d, err, want)
		}
	}
}
