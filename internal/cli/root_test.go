package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"
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

// Every command with an output takes -o, --out and --output.
func TestOneOutputFlag(t *testing.T) {
	n := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if f := cmd.Flags().Lookup("out"); f != nil {
			n++
			if f.Shorthand != "o" || cmd.Flags().Lookup("output") != f {
				t.Errorf("%s: --out is -%s, --output another flag", cmd.CommandPath(), f.Shorthand)
			}
		} else if f := cmd.Flags().ShorthandLookup("o"); f != nil {
			t.Errorf("%s: -o is --%s", cmd.CommandPath(), f.Name)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(Command())
	if n < 10 {
		t.Errorf("only %d commands with --out", n)
	}
}

// Backends are known by the names that logs and documents use: one that is not
// installed is missing, not unknown.
func TestBackendNames(t *testing.T) {
	out := t.TempDir() + "/o.npy"
	for _, name := range flagValues["backend"] {
		if name == "xla:" {
			name += "/no/such/plugin.so"
		}
		code, _, errs := run(t, "embed", "--backend", name, "--model", "missing.pt", "--texts", "missing.txt", "-o", out)
		if code != 3 && code != 4 || strings.Contains(errs, "unknown") {
			t.Errorf("--backend %s: status %d, %s", name, code, errs)
		}
	}
	if code, _, errs := run(t, "embed", "--backend", "cpu", "--model", "missing.pt", "--texts", "missing.txt", "-o", out); code != 4 || !strings.Contains(errs, "unknown; give auto, go, xla, xla-cpu, xla-cuda") {
		t.Errorf("status %d, %s", code, errs)
	}
}
