package eval

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evatool/evatool/internal/fault"
)

// TestMain turns the test binary into a slow run that waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("EVAL_TEST_VICTIM"); dir != "" {
		enc := newFake()
		enc.after = func(int64) error {
			time.Sleep(20 * time.Millisecond)
			return nil
		}
		_, err := ZeroShotWith(context.Background(), public{enc}, Options{Data: dir, OpenOptions: OpenOptions{Batch: 2}, Out: os.Getenv("EVAL_TEST_OUT"), ModelID: "fake"})
		if err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "eval-test-")
	if err != nil {
		panic(err)
	}
	compileCache = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// compileCache is shared by the tests: XLA takes seconds for a tower.
var compileCache string

// kill -9 at any moment, again and again: the run that finishes has the counts
// and rows of one that was never killed.
func TestKillNine(t *testing.T) {
	dir := pictureFolder(t, 60)
	clean := Options{Data: dir, Out: t.TempDir()}
	want := score(t, newFake(), clean)
	out := t.TempDir()
	journal := filepath.Join(out, journalFile)
	killed := 0
	for _, lines := range []int{3, 9, 30} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "EVAL_TEST_VICTIM="+dir, "EVAL_TEST_OUT="+out)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if b, _ := os.ReadFile(journal); bytes.Count(b, []byte{'\n'}) >= lines {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait() != nil {
			killed++
		}
	}
	if killed != 3 {
		t.Fatalf("only %d of 3 runs were killed before they finished", killed)
	}
	if _, err := os.Stat(filepath.Join(out, resultFile)); err == nil {
		t.Fatal("a killed run has a result")
	}
	enc := newFake()
	got := score(t, enc, Options{Data: dir, Out: out})
	if n := enc.images.Load(); n == 0 || n > 31 {
		t.Errorf("%d images encoded after the kills", n)
	}
	if d := cmp.Diff(countsOf(want), countsOf(got)); d != "" {
		t.Error(d)
	}
	a, err := os.ReadFile(filepath.Join(clean.Out, rowsFile))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(out, rowsFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("rows.csv differs")
	}
}

func TestTwoRunsInOneFolder(t *testing.T) {
	out := t.TempDir()
	j, _, err := openJournal(out, "k", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(out, "k", nil, false); fault.Code(err) != int(fault.Environment) {
		t.Errorf("a second run: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again, _, err := openJournal(out, "k", nil, false)
	if err != nil {
		t.Fatalf("after the first is done: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
