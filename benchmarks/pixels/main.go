//go:build unix

// Command pixels times the way from JPEG file to normalised 224 x 224 tensor on one
// core, beside PIL and torchvision on the same bytes in the same run, or the largest
// pictures that are accepted.
//
//	go run ./benchmarks/pixels --peer /path/to/python
//	go run ./benchmarks/pixels --peer /path/to/python -large
//
// The peer's Python needs Pillow, torch and torchvision. Rounds alternate, each
// process's processor time is measured (so that a busy machine disturbs little),
// medians are reported, and the tensors are compared.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/img"
)

//go:embed peer.py
var peerScript string

func main() {
	peer := flag.String("peer", "", "`PYTHON` with Pillow, torch and torchvision; empty: no comparison")
	file := flag.String("image", "testdata/preprocess/photo_500x375.jpg", "the JPEG `FILE`")
	n := flag.Int("n", 200, "images per round")
	rounds := flag.Int("rounds", 7, "rounds for each side")
	large := flag.Bool("large", false, "instead, measure the largest pictures that are accepted: seconds and peak memory, each in a process of its own")
	dir := flag.String("dir", "", "keep the files of -large in `DIR`")
	single := flag.String("one", "", "for -large's own use: crop one `FILE`")
	flag.Parse()
	if *large || *single != "" {
		run := func() error { return one(*single) }
		if *large {
			run = func() error { return runLarge(*peer, *dir) }
		}
		err := run()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(*peer, *file, *n, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// contender processes n images and returns how long that took.
type contender struct {
	name  string
	round func(n int) (time.Duration, error)
	hash  string // of the tensor
	rate  []float64
}

func run(python, file string, n, rounds int) error {
	runtime.GOMAXPROCS(1)
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	all := []*contender{ours("evatool", data)}
	if python != "" {
		p, stop, err := startPeer(python, file)
		if err != nil {
			return err
		}
		defer stop()
		all = append(all, p)
	}
	for r := range rounds + 1 {
		for _, c := range all {
			d, err := c.round(n)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if r > 0 { // the first round warms up
				c.rate = append(c.rate, float64(n)/d.Seconds())
			}
		}
	}
	last := all[len(all)-1]
	fmt.Printf("%s (%d bytes) to 1x3x224x224, images to a second of processor time, %d rounds of %d\n\n", file, len(data), rounds, n)
	fmt.Printf("| who | images/s, median (range) | of the last line, a round's median (95 %%) | tensor |\n|---|---|---|---|\n")
	for _, c := range all {
		same := "equal"
		if c.hash != last.hash {
			same = "DIFFERS"
		}
		fmt.Printf("| %s | %.0f (%.0f–%.0f) | %v | %s |\n", c.name, paired.Median(c.rate), slices.Min(c.rate), slices.Max(c.rate),
			paired.Over(c.rate, last.rate), same)
	}
	return nil
}

// cpuTime is the processor time of this process, garbage collection included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func ours(name string, data []byte) *contender {
	p := img.Preprocess{Size: 224, Mean: arch.CLIPMean, Std: arch.CLIPStd}
	tensor := make([]float32, 3*p.Size*p.Size)
	c := &contender{name: name}
	c.round = func(n int) (time.Duration, error) {
		start := cpuTime()
		for range n {
			im, err := img.Parse(data)
			if err != nil {
				return 0, err
			}
			c, err := im.Crop(p)
			if err != nil {
				return 0, err
			}
			img.ToCHW(tensor, c, p.Mean, p.Std)
		}
		d := cpuTime() - start
		if c.hash == "" {
			var b bytes.Buffer
			if err := binary.Write(&b, binary.LittleEndian, tensor); err != nil {
				return 0, err
			}
			s := sha256.Sum256(b.Bytes())
			c.hash = hex.EncodeToString(s[:])
		}
		return d, nil
	}
	return c
}

// startPeer runs peer.py, which runs a round for every line that it reads.
func startPeer(python, file string) (*contender, func(), error) {
	cmd := exec.Command(python, "-c", peerScript, file)
	cmd.Stderr = os.Stderr
	// A Go program's OpenBLAS setting is not the peer's.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "OPENBLAS_CORETYPE=") })
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	lines := bufio.NewReader(out)
	c := &contender{}
	if c.name, err = lines.ReadString('\n'); err != nil {
		return nil, nil, fmt.Errorf("%s did not start: %w", python, err)
	}
	c.name = strings.TrimSpace(c.name)
	c.round = func(n int) (time.Duration, error) {
		if _, err := fmt.Fprintln(in, n); err != nil {
			return 0, err
		}
		var seconds float64
		_, err := fmt.Fscan(lines, &seconds, &c.hash)
		return time.Duration(seconds * float64(time.Second)), err
	}
	stop := func() {
		in.(io.Closer).Close()
		cmd.Wait()
	}
	return c, stop, nil
}
