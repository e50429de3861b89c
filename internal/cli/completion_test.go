package cli

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evatool/evatool/trainer"
)

func run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(context.Background(), args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// offered are the words that the shell gets for a command line.
func offered(t *testing.T, args ...string) []string {
	t.Helper()
	_, out, _ := run(t, append([]string{"__complete"}, args...)...)
	words, _, ok := strings.Cut("\n"+out, "\n:")
	if !ok {
		t.Fatalf("%v: completion says %q", args, out)
	}
	return strings.Fields(words)
}

// TestCompletedValues: the shell offers what the command accepts. The input does not
// exist, so an accepted value ends with status 3, another with 2.
func TestCompletedValues(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "o.safetensors")
	for flag, cmd := range map[string][]string{
		"--layout": {"convert", "missing.pt", "-o", out},
		"--dtype":  {"convert", "missing.pt", "-o", out},
		"--resize": {"convert", "missing.pt", "-o", out, "--image-size", "64"},
		"--mode":   {"preprocess", "missing.png"},

		"--interpolation": {"preprocess", "missing.png"},
		"--preprocess":    {"preprocess", "missing.png"},
		"--map":           {"diff", "missing.pt", "missing.pt"},
	} {
		values := offered(t, append(slices.Clone(cmd), flag, "")...)
		if len(values) < 2 {
			t.Errorf("%s %s offers %v", cmd[0], flag, values)
		}
		for _, v := range values {
			if code, _, errs := run(t, append(slices.Clone(cmd), flag, v)...); code != 3 {
				t.Errorf("%s %s %s: status %d, %s", cmd[0], flag, v, code, errs)
			}
		}
		if code, _, errs := run(t, append(slices.Clone(cmd), flag, "nonsense")...); code != 2 {
			t.Errorf("%s %s nonsense: status %d, %s", cmd[0], flag, code, errs)
		}
	}
	for _, v := range offered(t, "embed", "--dtype", "") {
		if code, _, errs := run(t, "embed", "--backend", "go", "--model", "missing.pt", "--texts", "missing.txt", "-o", out, "--dtype", v); code != 3 {
			t.Errorf("embed --dtype %s: status %d, %s", v, code, errs)
		}
	}
}

func TestCompletedArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"train", "emoji"}, []string{"emoji-adamw", "emoji-lamb"}},
		{[]string{"train", "recipes/"}, nil},
		{[]string{"train", "emoji-lamb", ""}, nil},
		{[]string{"train", "--set", "lr."}, []string{"lr.vision=", "lr.text=", "lr.other="}},
		{[]string{"train", "--set", "data.0.w"}, []string{"data.0.weight="}},
		{[]string{"train", "--resume", ""}, []string{"auto", "never"}},
		{[]string{"zeroshot", "imagenet", "--resume="}, nil}, // true or false there
		{[]string{"train", "--backend", "x"}, []string{"xla", "xla-cpu", "xla-cuda", "xla:"}},
		{[]string{"retrieval", "f"}, []string{"flickr30k"}},
		{[]string{"zeroshot", "imagenet-"}, []string{"imagenet-a", "imagenet-o", "imagenet-r", "imagenet-sketch", "imagenet-v2"}},
		{[]string{"models", "EVA01-CLIP-g"}, []string{"EVA01-CLIP-g-14", "EVA01-CLIP-g-14-plus"}},
		{[]string{"backend", "install", ""}, []string{"cpu", "cuda"}},
		{[]string{"cache", "clear", "cl"}, []string{"classifiers"}},
		{[]string{"zeroshot", "cifar10,cifar1"}, []string{"cifar10,cifar10", "cifar10,cifar100"}},
		{[]string{"zeroshot", "imagenet", "--model", "EVA02-CLIP-B"}, []string{"EVA02-CLIP-B-16"}},
		{[]string{"embed", "--model", "ViT-B-32/laion2b"}, []string{"ViT-B-32/laion2b_e16", "ViT-B-32/laion2b_s34b_b79k"}},
		{[]string{"embed", "--model", "openai:ViT-L"}, []string{"openai:ViT-L-14", "openai:ViT-L-14-336"}},
		{[]string{"embed", "--model", "runs/"}, nil},
		{[]string{"convert", "EVA01-CLIP-g-14-"}, []string{"EVA01-CLIP-g-14-plus"}},
		{[]string{"fetch", "a.pt", "EVA02-CLIP-B"}, []string{"EVA02-CLIP-B-16"}},
		{[]string{"convert", "a.pt", "--config", "EVA02-CLIP-B"}, []string{"EVA02-CLIP-B-16"}},
		{[]string{"train", "--dry-run", "--card", "H"}, []string{"H100", "H200"}},
	} {
		if got := offered(t, c.args...); !slices.Equal(got, c.want) && len(got)+len(c.want) > 0 {
			t.Errorf("%v offers %v, want %v", c.args, got, c.want)
		}
	}
	// Every offered key exists in a recipe.
	for _, key := range offered(t, "train", "--set", "") {
		if _, err := trainer.LoadRecipe("emoji-lamb", key+"null"); err != nil && strings.Contains(err.Error(), "unknown key") {
			t.Error(err)
		}
	}
}
