package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/evatool/evatool/internal/comm/mpitest"
)

// killed kills ranks, including the first, and launchers of a job that writes a
// checkpoint at every step, and resumes it, until it is finished.
func (b *bench) killed(l mpitest.Launcher, ranks, kills int) error {
	const steps = 30
	file, err := b.recipeFile(steps, 1)
	if err != nil {
		return err
	}
	command := func(out string) *exec.Cmd {
		return l.Command(ranks, b.tool, "train", file, "--backend", "go", "--threads", "1", "--out", out, "--quiet")
	}
	want, cut := filepath.Join(b.dir, "want"), filepath.Join(b.dir, "cut")
	for _, dir := range []string{want, cut} {
		os.RemoveAll(dir)
	}
	if text, err := command(want).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	var slowest time.Duration
	done := [3]int{} // last rank, first rank, launcher
	rounds, commits := 1, 0
	for n := 0; n < kills; {
		os.RemoveAll(filepath.Join(cut, ".tmp-ranks"))
		cmd := command(cut)
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		var list []int
		for i := 0; i < 1000 && list == nil; i++ {
			time.Sleep(10 * time.Millisecond)
			list = processes(cut, ranks)
		}
		if list == nil {
			return fmt.Errorf("no ranks\n%s", &text)
		}
		// At any time, after some steps, or in the middle of a checkpoint.
		who := n % 3
		var left []string
		switch began, _ := metrics(cut); n / 3 % 3 {
		case 0:
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
		default:
			for i := 0; i < 3000; i++ {
				now, _ := metrics(cut)
				left, _ = filepath.Glob(filepath.Join(cut, "checkpoints", ".tmp-*"))
				if len(now) > len(began) && (n/3%3 == 1 || len(left) > 0) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if n/3%3 == 1 {
				time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
			}
		}
		start := time.Now()
		left, _ = filepath.Glob(filepath.Join(cut, "checkpoints", ".tmp-*"))
		if syscall.Kill([]int{list[ranks-1], list[0], cmd.Process.Pid}[who], syscall.SIGKILL) == nil {
			n++
			done[who]++
			commits += min(1, len(left))
		}
		<-ended
		for _, p := range list {
			for syscall.Kill(p, 0) == nil {
				if time.Since(start) > 10*time.Second {
					return fmt.Errorf("process %d is still alive 10 s after a kill\n%s", p, &text)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
		slowest = max(slowest, time.Since(start))
		if _, err := os.Stat(filepath.Join(cut, "report.html")); err == nil {
			if list, err := metrics(cut); err == nil && len(list) == steps {
				if err := b.sameBits(command(cut), cut, want); err != nil {
					return err
				}
				os.RemoveAll(cut) // finished: again from the start
				rounds++
			}
		}
	}
	if err := b.sameBits(command(cut), cut, want); err != nil {
		return err
	}
	fmt.Printf("%s, %d ranks: %d kills (last rank %d, first rank %d, launcher %d; %d of them while a checkpoint was made), %d runs to the end with the same bits, the slowest end after a kill %v\n",
		l.Name, ranks, kills, done[0], done[1], done[2], commits, rounds, slowest.Round(time.Millisecond))
	return nil
}

// sameBits finishes a run and compares its model.
func (b *bench) sameBits(cmd *exec.Cmd, cut, want string) error {
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	got, err := os.ReadFile(filepath.Join(cut, "final.safetensors"))
	if err != nil {
		return err
	}
	whole, err := os.ReadFile(filepath.Join(want, "final.safetensors"))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, whole) {
		return fmt.Errorf("%s: different bits from the run that was not killed", cut)
	}
	return nil
}

// processes are the ranks' processes of a job that has started.
func processes(out string, n int) (list []int) {
	for rank := range n {
		var p struct{ PID int }
		text, err := os.ReadFile(filepath.Join(out, ".tmp-ranks", fmt.Sprintf("rank-%d.json", rank)))
		if err != nil || json.Unmarshal(text, &p) != nil {
			return nil
		}
		list = append(list, p.PID)
	}
	return list
}
