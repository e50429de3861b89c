// Many scores as many pictures as ImageNet has with a small tower, so that reading
// and decoding dominate. It prints the rate and the memory of each tenth of the run,
// and what the class vectors of 80,000 prompts take.
//
//	go run ./benchmarks/many --evatool bin/evatool
//
// It needs Linux's /proc and some 250 MB in the temporary folder.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/evatool/evatool/benchmarks/made"
	"github.com/evatool/evatool/internal/arch"
)

// tower is the emoji recipe's, with CLIP's length of texts.
const tower = `{"embed_dim": 64,
"vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 4, "width": 128, "head_width": 32, "mlp_ratio": 2.6875,
"eva_model_name": "eva-clip-emoji", "rope": true, "pt_hw_seq_len": 16, "intp_freq": true, "naiveswiglu": true, "subln": true},
"text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}}`

const classes = 1000

func main() {
	tool := flag.String("evatool", "bin/evatool", "the binary")
	data := flag.String("data", "testdata/emoji/test-twemoji.tar", "a tar of pictures, which are repeated")
	backend := flag.String("backend", "xla", "")
	n := flag.Int("n", 50000, "pictures; a multiple of 1,000")
	flag.Parse()
	if err := run(*tool, *data, *backend, *n); err != nil {
		fmt.Fprintln(os.Stderr, "many:", err)
		os.Exit(1)
	}
}

func run(tool, data, backend string, n int) error {
	dir, err := os.MkdirTemp("", "evatool-bench-many-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	set, model, out := filepath.Join(dir, "set.tar"), filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "out")
	cfg, err := arch.Parse([]byte(tower))
	if err != nil {
		return err
	}
	if err := made.Model(cfg, model); err != nil {
		return err
	}
	if err := repeat(data, set, n); err != nil {
		return err
	}
	cmd := exec.Command(tool, "zeroshot", "imagenet", "--model", model, "--data", set, "--backend", backend, "--out", out, "--classifier-cache", "off", "--json", "--quiet")
	var result, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &result, &errs
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tenths, err := watch(cmd.Process.Pid, filepath.Join(out, "journal.jsonl"), n, ended)
	if err != nil {
		return fmt.Errorf("%w: %s", err, errs.String())
	}
	var r struct {
		N       int
		Rate    float64 `json:"images_per_second"`
		Peak    int64   `json:"peak_rss"`
		Seconds struct{ Load, Classifier, Images, Decode, Wait, Device, Total float64 }
	}
	if err := json.Unmarshal(result.Bytes(), &r); err != nil {
		return err
	}
	fmt.Println("| pictures | images/s | resident MB |\n|---|---|---|")
	for _, t := range tenths {
		fmt.Printf("| %d to %d | %.0f | %d |\n", t.from, t.to, float64(t.to-t.from)/t.seconds, t.rss>>20)
	}
	s := r.Seconds
	fmt.Printf("\n%d pictures at %.0f images/s; loading %.1f s, class vectors (%d classes, 80 prompts each) %.1f s, pictures %.1f s, of it %.1f %% waiting for pictures; "+
		"decoding goroutines %.1f s, device %.1f s; all %.1f s, peak %d MB\n",
		r.N, r.Rate, s.Load, classes, s.Classifier, s.Images, 100*s.Wait/s.Images, s.Decode, s.Device, s.Total, r.Peak>>20)
	return nil
}

// tenth is a part of the run.
type tenth struct {
	from, to int
	seconds  float64
	rss      int64 // bytes at its end
}

// watch follows the journal of a running evaluation.
func watch(pid int, journal string, n int, ended <-chan error) ([]tenth, error) {
	var tenths []tenth
	var f *os.File
	rows := -1 // the first line is the header
	from, start := 0, time.Now()
	buf := make([]byte, 1<<16)
	var result error
	for tick, over := time.NewTicker(20*time.Millisecond), false; !over; {
		var rss int64
		select {
		case result = <-ended:
			over = true
			if len(tenths) > 0 {
				rss = tenths[len(tenths)-1].rss // the process is gone
			}
		case <-tick.C:
			rss = resident(pid)
		}
		if f == nil {
			var err error
			if f, err = os.Open(journal); err != nil {
				start = time.Now()
				continue // not started
			}
			defer f.Close()
		}
		for {
			k, err := f.Read(buf)
			rows += bytes.Count(buf[:k], []byte("\n"))
			if err != nil {
				break
			}
		}
		if rows <= 0 {
			start = time.Now()
		}
		if rows >= from+n/10 || over && rows > from {
			tenths = append(tenths, tenth{from, rows, time.Since(start).Seconds(), rss})
			from, start = rows, time.Now()
		}
	}
	return tenths, result
}

// resident is a process's current resident memory.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	if f := strings.Fields(string(b)); len(f) > 1 {
		pages, err := strconv.ParseInt(f[1], 10, 64)
		if err == nil {
			return pages * int64(os.Getpagesize())
		}
	}
	return 0
}

// repeat writes a tar of n pictures, repeating those of another tar, with the classes
// in turn.
func repeat(from, to string, n int) (err error) {
	pictures, ext, err := read(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	put := func(name string, b []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	for i := range n {
		key := fmt.Sprintf("%06d.", i)
		if err := put(key+ext, pictures[i%len(pictures)]); err != nil {
			return err
		}
		if err := put(key+"cls", []byte(strconv.Itoa(i%classes))); err != nil {
			return err
		}
	}
	return w.Close()
}

// read returns the pictures of a tar, all with the same extension.
func read(path string) (pictures [][]byte, ext string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "", err
		}
		if e := strings.TrimPrefix(filepath.Ext(h.Name), "."); e == "png" || e == "jpg" || e == "webp" {
			b, err := io.ReadAll(r)
			if err != nil {
				return nil, "", err
			}
			pictures, ext = append(pictures, b), e
		}
	}
	if pictures == nil {
		return nil, "", fmt.Errorf("%s: no pictures", path)
	}
	return pictures, ext, nil
}
