package convert

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/tensorfile"
)

var kills = flag.Int("kills", 10, "how many runs TestKill kills")

// childMode makes the test binary convert args[0] to args[1] and exit.
const childMode = "convert-as-child"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == childMode {
		if _, err := Run(context.Background(), Options{Sources: os.Args[2:3], Output: os.Args[3], Layout: "source"}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	atomicfile.Fsync = func(*os.File) error { return nil } // takes most of the time of these tests
	os.Exit(m.Run())
}

// A run killed at any moment leaves its output absent or whole, and nothing else
// that the next run does not remove.
func TestKill(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src.safetensors")
	var infos []tensorfile.Info
	for i := range 40 {
		infos = append(infos, tensorfile.Info{Name: fmt.Sprint("t", i), DType: tensorfile.F32, Shape: []int64{1 << 18}})
	}
	writeNames(t, src, infos)
	child := func(out string) *exec.Cmd { return exec.Command(os.Args[0], childMode, src, out) }
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.safetensors")
	start := time.Now()
	if out, err := child(whole).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	usual := time.Since(start)
	want, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	absent := 0
	for i := range *kills {
		out := filepath.Join(dir, fmt.Sprintf("out%d.safetensors", i))
		cmd := child(out)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rand.Int64N(int64(usual)))
		time.Sleep(after)
		cmd.Process.Kill()
		cmd.Wait()
		got, err := os.ReadFile(out)
		switch {
		case os.IsNotExist(err):
			absent++
		case err != nil:
			t.Fatal(err)
		case string(got) != string(want):
			t.Errorf("killed after %v: the output is there, but not whole", after)
		}
	}
	last := filepath.Join(dir, "last.safetensors")
	if out, err := child(last).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".safetensors") && !strings.HasSuffix(e.Name(), ".report.json") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	t.Logf("%d killed, %d of them before the output was there; a run takes %v", *kills, absent, usual)
}
