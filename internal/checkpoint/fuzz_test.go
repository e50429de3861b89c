package checkpoint

import (
	"fmt"
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/tensorfile"
)

// FuzzPlan plans state dicts of odd tensors under known names: an error or a
// plan, never a panic, and no tensor disappears silently.
func FuzzPlan(f *testing.F) {
	var patterns []string
	for _, fam := range families {
		patterns = append(patterns, fam.has...)
		for _, r := range fam.rules {
			patterns = append(patterns, r.src...)
		}
	}
	for _, words := range []string{"rope.freqs_cos", "input_resolution", "vocab_size", "position_ids", "attn_mask", "num_batches_tracked", "mask_token", "lm_head.bias"} {
		patterns = append(patterns, words, "visual."+words)
	}
	dts := []tensorfile.DType{tensorfile.F32, tensorfile.F16, tensorfile.BF16, tensorfile.I64, tensorfile.BOOL}
	// The marks of every family, and more.
	for i := range families {
		var seed []byte
		for _, name := range families[i].has {
			for k, p := range patterns {
				if p == name {
					seed = append(seed, byte(k>>8), byte(k), 0, 2, 3, 4, 1)
					break
				}
			}
		}
		f.Add(seed, uint8(i), "")
	}
	f.Fuzz(func(t *testing.T, data []byte, choice uint8, config string) {
		inv := &inventory{metadata: map[string]string{metaConfig: config}}
		for ; len(data) >= 7; data = data[7:] {
			name := patterns[(int(data[0])<<8|int(data[1]))%len(patterns)]
			name = strings.ReplaceAll(strings.ReplaceAll(name, "#", fmt.Sprint(data[2]%3)), "*", "weight")
			info := tensorfile.Info{Name: name, DType: dts[int(data[6])%len(dts)]}
			for _, d := range data[3 : 3+int(data[6]>>4)%4] {
				info.Shape = append(info.Shape, int64(d%20))
			}
			inv.tensors = append(inv.tensors, info)
		}
		o := PlanOptions{Layout: []string{"eva", "openclip", "hf", "source"}[choice%4], DType: []string{"keep", "fp16"}[choice>>2&1]}
		if choice&8 != 0 {
			o.Resize = "eva"
		}
		p, err := newPlan(inv, o)
		if err != nil {
			return
		}
		used := map[string]bool{}
		for _, it := range p.Items {
			_ = it.String()
			for _, s := range it.Sources() {
				used[s] = true
			}
			if n := it.bytesIn(); it.raw() && n != it.Out.NumBytes() {
				t.Fatalf("%v has %d bytes of source for %d", it, n, it.Out.NumBytes())
			}
		}
		for _, d := range p.Dropped {
			used[d.Name] = true
		}
		for _, in := range inv.tensors {
			if !used[in.Name] {
				t.Fatalf("%s disappears", in.Name)
			}
		}
	})
}
