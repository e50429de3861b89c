// Forward compares the speed of the image and text towers with PyTorch's.
//
//	go run ./benchmarks/forward --python /path/of/python
//
// The Python needs torch and open_clip; without --python only evatool is
// measured. For each row all sides are started and warmed up, then take turns
// on the otherwise idle machine. The table gives the median wall time and, in
// parentheses, the least processor time of a run, both in milliseconds; ratios are
// taken within a round, and given as their median with its 95 % interval.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/benchmarks/paired"
)

// row is one line of the table.
type row struct {
	model, peer  string // the architecture here and in open_clip
	tower, dtype string
	batch        int
	tokens       int
}

type bench struct {
	python, script string
	rounds         int
	threads        int
	sides          []string
	match          string
}

func main() {
	var b bench
	var w work
	var dtypes, batches, sides string
	worker := flag.Bool("worker", false, "be a worker (for the command's own use)")
	flag.StringVar(&w.model, "model", "", "worker: architecture")
	flag.StringVar(&w.tower, "tower", "image", "worker: image or text")
	flag.StringVar(&w.dtype, "dtype", "fp32", "worker: fp32 or bf16")
	flag.IntVar(&w.batch, "batch", 8, "worker: rows")
	flag.IntVar(&w.tokens, "tokens", 77, "worker: length of the texts")
	flag.StringVar(&w.backend, "backend", "xla", "worker: backend")
	flag.IntVar(&w.threads, "threads", 0, "threads of both sides; 0: all cores")
	flag.StringVar(&b.python, "python", "", "a Python with torch and open_clip")
	flag.StringVar(&b.script, "peer", "benchmarks/forward/peer.py", "the peer's script")
	flag.IntVar(&b.rounds, "rounds", 9, "runs of each side")
	flag.StringVar(&dtypes, "dtypes", "fp32,bf16", "which precisions")
	flag.StringVar(&batches, "batches", "1,8,32", "which batch sizes")
	flag.StringVar(&sides, "sides", "xla,eager,compile", "of xla, go, eager, compile")
	flag.StringVar(&b.match, "match", "", "only rows whose name contains this")
	flag.Parse()
	b.threads = w.threads
	var err error
	if *worker {
		err = w.run(context.Background())
	} else {
		b.sides = strings.Split(sides, ",")
		err = b.run(os.Stdout, rows(strings.Split(dtypes, ","), strings.Split(batches, ",")))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// otherTowers are image towers of other kinds, by their name here and in open_clip.
var otherTowers = []string{"ViT-B-16-SigLIP", "convnext_base", "ViTamin-B", "MobileCLIP-S1", "MobileCLIP-B", "PE-Core-B-16", "coca_ViT-B-32"}

// rows lists what is measured. Prompts are as long as most of ImageNet's; the other
// image towers are measured in fp32 at batch 8.
func rows(dtypes, batches []string) []row {
	const full, prompt = 77, 14
	var out []row
	for _, dtype := range dtypes {
		for _, m := range [][2]string{{"EVA02-CLIP-B-16", "EVA02-B-16"}, {"openai-ViT-B-32", "ViT-B-32-quickgelu"}} {
			for _, tower := range []string{"image", "text", "prompt"} {
				for _, batch := range batches {
					n, err := strconv.Atoi(batch)
					if err != nil {
						continue
					}
					r := row{m[0], m[1], tower, dtype, n, full}
					if tower == "prompt" {
						r.tower, r.tokens = "text", prompt
					}
					// The two models have the same text tower.
					if r.tower == "text" && m[0] != "EVA02-CLIP-B-16" {
						continue
					}
					out = append(out, r)
				}
			}
		}
	}
	if slices.Contains(dtypes, "fp32") && slices.Contains(batches, "8") {
		for _, name := range otherTowers {
			out = append(out, row{name, name, "image", "fp32", 8, full})
		}
	}
	return out
}

func (r row) String() string {
	s := fmt.Sprintf("%s %s %s batch %d", r.model, r.tower, r.dtype, r.batch)
	if r.tower == "text" {
		s += fmt.Sprintf(", %d tokens", r.tokens)
	}
	return s
}

func (b *bench) run(out io.Writer, rows []row) error {
	fmt.Fprintf(out, "| %s, %d cores |", runtime.GOARCH, runtime.NumCPU())
	for _, s := range b.sides {
		fmt.Fprintf(out, " %s |", s)
	}
	fmt.Fprintf(out, " %s faster than |\n|%s\n", b.sides[0], strings.Repeat("---|", len(b.sides)+2))
	for _, r := range rows {
		if !strings.Contains(r.String(), b.match) {
			continue
		}
		if err := b.row(out, r); err != nil {
			return err
		}
	}
	return nil
}

// row measures all sides in turns and prints one line.
func (b *bench) row(out io.Writer, r row) error {
	var running []*side
	defer func() {
		for _, s := range running {
			s.stop()
		}
	}()
	var names []string
	for _, name := range b.sides {
		if b.python == "" && (name == "eager" || name == "compile") {
			continue
		}
		s, err := b.start(name, r)
		if err != nil {
			return err
		}
		running, names = append(running, s), append(names, name)
	}
	for round := range b.rounds {
		for i := range running {
			if round%2 == 1 { // alternate which side goes first
				i = len(running) - 1 - i
			}
			if err := running[i].once(); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(out, "| %s |", r)
	ratios := ""
	for i, s := range running {
		fmt.Fprintf(out, " %.0f (%.0f) |", 1e3*paired.Median(s.wall), 1e3*slices.Min(s.cpu))
		if i > 0 {
			ratios += fmt.Sprintf(" %s %v", names[i], paired.Over(s.wall, running[0].wall))
		}
	}
	fmt.Fprintf(out, "%s |\n", ratios)
	return nil
}

// side is a running worker.
type side struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	wall, cpu []float64 // seconds of each run
}

func (b *bench) start(name string, r row) (*side, error) {
	var cmd *exec.Cmd
	batch, tokens, threads := strconv.Itoa(r.batch), strconv.Itoa(r.tokens), strconv.Itoa(b.threads)
	switch name {
	case "xla", "go":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd = exec.Command(self, "-worker", "-model", r.model, "-tower", r.tower, "-dtype", r.dtype, "-batch", batch, "-tokens", tokens,
			"-backend", name, "-threads", threads)
	case "eager", "compile":
		cmd = exec.Command(b.python, filepath.FromSlash(b.script), r.peer, r.tower, r.dtype, name, batch, tokens, threads)
	default:
		return nil, fmt.Errorf("side %q: want xla, go, eager or compile", name)
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &side{cmd: cmd, in: in, out: bufio.NewScanner(stdout)}
	if !s.out.Scan() || s.out.Text() != "ready" {
		s.stop()
		return nil, fmt.Errorf("%s, %s: did not start", name, r)
	}
	return s, nil
}

func (s *side) once() error {
	fmt.Fprintln(s.in)
	var wall, cpu float64
	if !s.out.Scan() {
		return fmt.Errorf("%s ended early", s.cmd.Path)
	}
	if _, err := fmt.Sscan(s.out.Text(), &wall, &cpu); err != nil {
		return fmt.Errorf("%s printed %q: %w", s.cmd.Path, s.out.Text(), err)
	}
	s.wall, s.cpu = append(s.wall, wall), append(s.cpu, cpu)
	return nil
}

// stop ends a worker, ignoring how it ends.
func (s *side) stop() {
	s.in.Close()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}
