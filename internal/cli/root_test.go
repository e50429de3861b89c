package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// Ctrl-C ends with 130 and one line, whether or not the command had something
// to say.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, errw bytes.Buffer
	code := Main(ctx, []string{"convert", "--quiet", "../../testdata/formats/01_zip_fp32.pt", "-o", t.TempDir() + "/o.safetensors"}, strings.NewReader(""), &out, &errw)
	if got := errw.String(); code != 130 || got != "evatool: interrupted\n" {
		t.Errorf("status %d, %q", code, got)
	}
}
