//go:build unix

// Command stream measures how fast a core reads a stream of tars, in training order,
// without decoding and with it, beside webdataset on the same tars in the same run.
//
//	go run ./benchmarks/stream --peer /path/to/python
//
// The peer's Python needs webdataset. Rounds alternate, each process's
// processor time is measured, system calls included (so that a busy machine disturbs
// little), and medians are reported. The tars are in the page cache: what is measured
// is the work, not the disk.
package main

import (
	"archive/tar"
	"bufio"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/img"
)

//go:embed peer.py
var peerScript string

type bench struct {
	peer, image, dir  string
	tars, each, lanes int
	decoded, rounds   int
	bytes             int64 // of all tars
	data              []byte
	plan              *dataset.Plan
	tensor            []float32
	preprocess        img.Preprocess
}

func main() {
	b := bench{preprocess: img.Preprocess{Size: 224, Mean: arch.CLIPMean, Std: arch.CLIPStd}}
	flag.StringVar(&b.peer, "peer", "", "`PYTHON` with webdataset; empty: no comparison")
	flag.StringVar(&b.image, "image", "testdata/preprocess/photo_500x375.jpg", "the JPEG `FILE` to fill the tars with")
	flag.StringVar(&b.dir, "dir", "", "make the tars in `DIR` (default: a temporary folder)")
	flag.IntVar(&b.tars, "tars", 16, "tars")
	flag.IntVar(&b.each, "each", 1000, "samples per tar")
	flag.IntVar(&b.lanes, "lanes", 8, "lanes")
	flag.IntVar(&b.decoded, "n", 400, "samples per round with decoding")
	flag.IntVar(&b.rounds, "rounds", 7, "rounds for each side")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "stream:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	runtime.GOMAXPROCS(1)
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "evatool-stream"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
	}
	if err := b.write(); err != nil {
		return err
	}
	if b.plan, err = dataset.OpenPlan(ctx, filepath.Join(b.dir, "*.tar"), dataset.Options{Unlabelled: true}); err != nil {
		return err
	}
	b.tensor = make([]float32, 3*224*224)
	ahead := b.open(ctx) // kept for all rounds: a training fills it only once
	defer closeAll(ahead)
	if err := b.take(ctx, ahead, int64(b.lanes), true); err != nil {
		return err
	}
	for { // until it is full
		before := cpuTime()
		if time.Sleep(200 * time.Millisecond); cpuTime()-before < 10*time.Millisecond {
			break
		}
	}
	samples := float64(b.tars * b.each)
	type side struct {
		name  string
		round func() (n float64, d time.Duration, err error)
		rate  []float64
	}
	megabytes := []*side{{name: "evatool", round: func() (float64, time.Duration, error) {
		d, err := timed(func() error {
			lanes := b.open(ctx)
			defer closeAll(lanes)
			return b.take(ctx, lanes, int64(samples), false)
		})
		return float64(b.bytes) / 1e6, d, err
	}}}
	if b.peer != "" {
		peer, stop, err := b.startPeer()
		if err != nil {
			return err
		}
		defer stop()
		megabytes = append(megabytes, &side{name: peer.name, round: func() (float64, time.Duration, error) {
			n, d, err := peer.round()
			if err == nil && n != int(samples) {
				err = fmt.Errorf("%s gave %d samples of %.0f", peer.name, n, samples)
			}
			return float64(b.bytes) / 1e6, d, err
		}})
	}
	images := []*side{
		{name: "the stream, decoded and cropped", round: func() (float64, time.Duration, error) {
			d, err := timed(func() error { return b.take(ctx, ahead, int64(b.decoded), true) })
			return float64(b.decoded), d, err
		}},
		{name: "one picture in memory, decoded and cropped (benchmarks/pixels)", round: func() (float64, time.Duration, error) {
			d, err := timed(func() error {
				for range b.decoded {
					if err := b.crop(b.data); err != nil {
						return err
					}
				}
				return nil
			})
			return float64(b.decoded), d, err
		}},
	}
	for r := range b.rounds + 1 {
		for _, s := range slices.Concat(megabytes, images) {
			n, d, err := s.round()
			if err != nil {
				return err
			}
			if r > 0 { // the first round warms up
				s.rate = append(s.rate, n/d.Seconds())
			}
		}
	}
	fmt.Printf("%d tars of %d samples, %.2f GB, %d lanes; to a second of processor time, %d rounds\n", b.tars, b.each, float64(b.bytes)/1e9, b.lanes, b.rounds)
	for unit, sides := range map[string][]*side{"MB/s": megabytes, "images/s": images} {
		fmt.Printf("\n| what | %s, median | lowest | highest | against the last line |\n|---|---|---|---|---|\n", unit)
		for _, s := range sides {
			slices.Sort(s.rate)
		}
		for _, s := range sides {
			last := sides[len(sides)-1]
			fmt.Printf("| %s | %.0f | %.0f | %.0f | %.2fx |\n", s.name, median(s.rate), s.rate[0], s.rate[len(s.rate)-1], median(s.rate)/median(last.rate))
		}
	}
	return nil
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }

// timed is the processor time of f, including that of its goroutines.
func timed(f func() error) (time.Duration, error) {
	runtime.GC()
	start := cpuTime()
	err := f()
	return cpuTime() - start, err
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// write writes the tars; each picture ends in its own number.
func (b *bench) write() (err error) {
	if b.data, err = os.ReadFile(b.image); err != nil {
		return err
	}
	for i := range b.tars {
		f, err := os.Create(filepath.Join(b.dir, fmt.Sprintf("%05d.tar", i)))
		if err != nil {
			return err
		}
		out := bufio.NewWriterSize(f, 1<<20)
		w := tar.NewWriter(out)
		for k := range b.each {
			key := fmt.Sprintf("%05d%04d", i, k)
			for _, m := range []struct {
				ext  string
				data []byte
			}{{".jpg", append(slices.Clone(b.data), key...)}, {".json", []byte(`{"key": "` + key + `", "width": 500, "height": 375}`)}, {".txt", []byte("a photo, number " + key)}} {
				if err := w.WriteHeader(&tar.Header{Name: key + m.ext, Mode: 0o644, Size: int64(len(m.data))}); err != nil {
					return err
				}
				if _, err := w.Write(m.data); err != nil {
					return err
				}
			}
		}
		if err := errors.Join(w.Close(), out.Flush(), f.Close()); err != nil {
			return err
		}
		st, err := os.Stat(f.Name())
		if err != nil {
			return err
		}
		b.bytes += st.Size()
	}
	return nil
}

// open starts to read all lanes of a pass.
func (b *bench) open(ctx context.Context) (lanes []*dataset.LaneReader) {
	for i := range b.lanes {
		lanes = append(lanes, b.plan.Read(ctx, b.plan.Lane(1, i, b.lanes), 0, dataset.LaneOptions{Attempts: 1}))
	}
	return lanes
}

func closeAll(lanes []*dataset.LaneReader) {
	for _, r := range lanes {
		r.Close()
	}
}

// take reads n samples from the lanes in turn, as the rows of batches do.
func (b *bench) take(ctx context.Context, lanes []*dataset.LaneReader, n int64, decode bool) error {
	for i := range n {
		s, err := lanes[i%int64(len(lanes))].Next(ctx)
		if err == nil {
			err = s.Err
		}
		if err == nil && decode {
			err = b.crop(s.Example.Image)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) crop(data []byte) error {
	im, err := img.Parse(data)
	if err != nil {
		return err
	}
	c, err := im.Crop(b.preprocess)
	if err != nil {
		return err
	}
	img.ToCHW(b.tensor, c, b.preprocess.Mean, b.preprocess.Std)
	return nil
}

type peer struct {
	name  string
	round func() (n int, d time.Duration, err error)
}

// startPeer runs peer.py, which reads all tars for every line that it reads.
func (b *bench) startPeer() (*peer, func(), error) {
	cmd := exec.Command(b.peer, "-c", peerScript, filepath.Join(b.dir, fmt.Sprintf("{00000..%05d}.tar", b.tars-1)))
	cmd.Stderr = os.Stderr
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
	p := &peer{}
	if p.name, err = lines.ReadString('\n'); err != nil {
		return nil, nil, fmt.Errorf("%s did not start: %w", b.peer, err)
	}
	p.name = strings.TrimSpace(p.name)
	p.round = func() (n int, d time.Duration, err error) {
		if _, err := fmt.Fprintln(in); err != nil {
			return 0, 0, err
		}
		var seconds float64
		_, err = fmt.Fscan(lines, &n, &seconds)
		return n, time.Duration(seconds * float64(time.Second)), err
	}
	stop := func() {
		in.(io.Closer).Close()
		cmd.Wait()
	}
	return p, stop, nil
}
