package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// A --config of another size gives --resize its size; --resize alone is refused.
func TestResizeWithConfig(t *testing.T) {
	const dir = "../../testdata/init/e_load_checkpoint_evaclip_bigger_image/"
	for _, tt := range []struct {
		args []string
		code int
	}{
		{[]string{"--config", dir + "config.json", "--resize", "clip-rei"}, 0},
		{[]string{"--config", dir + "config.json"}, 3},
		{[]string{"--resize", "clip-rei"}, 2},
	} {
		var out, errs strings.Builder
		args := append([]string{"convert", dir + "EVA02_CLIP_224.pt", "-o", filepath.Join(t.TempDir(), "x.safetensors")}, tt.args...)
		if code := Main(t.Context(), args, strings.NewReader(""), &out, &errs); code != tt.code {
			t.Errorf("%v: status %d, want %d: %s", tt.args, code, tt.code, errs.String())
		}
	}
}
