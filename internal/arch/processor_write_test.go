package arch

import (
	"strings"
	"testing"
)

// What is written for transformers is read back the same, except for the half pixel by
// which transformers crops elsewhere.
func TestProcessor(t *testing.T) {
	for _, words := range []string{"openai", "inception", "imagenet,interpolation=bilinear", "mean=0,std=1,resize=squash,interpolation=lanczos", "resize=none", "interpolation=nearest"} {
		p, err := OpenAIPreprocess().With(words)
		if err != nil {
			t.Fatal(err)
		}
		for _, resize := range [][2]int{{}, {40, 40}, {40, 48}} {
			p := p
			p.Size = 32
			if p.ResizeMode != NoResize {
				p.Resize = resize
			}
			content, why := p.Processor()
			if p.ResizeMode == Shortest && resize[0] != resize[1] {
				if why == "" {
					t.Errorf("%s, %v: %s", words, resize, content)
				}
				continue
			}
			got, err := ParsePreprocess(content, 32)
			got.Floor = p.Floor
			if why != "" || err != nil || got != p {
				t.Errorf("%s, %v: %+v, %v%v; want %+v", words, resize, got, err, why, p)
			}
		}
	}
	longest, err := OpenAIPreprocess().With("resize=longest")
	if err != nil {
		t.Fatal(err)
	}
	if _, why := longest.Processor(); !strings.Contains(why, "border") {
		t.Errorf("longest: %q", why)
	}
}
