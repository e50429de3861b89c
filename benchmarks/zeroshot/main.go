// Zeroshot compares the end-to-end speed of zero-shot evaluation, decoding
// included, with open_clip on the same images and the same random weights.
//
//	go run ./benchmarks/zeroshot --data PHOTOS --python /path/of/python
//
// PHOTOS is a folder with one sub-folder per class. The Python needs torch,
// torchvision and open_clip. The sides take turns, every other round in the
// opposite order; the table has medians. The answers are compared too.
package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/benchmarks/paired"
)

type bench struct {
	evatool, python, peer, data, config, peerConfig, work string
	backend                                               string
	rounds                                                int
	batch                                                 int
	half, peerHalf                                        bool
}

// side is one program at one precision.
type side struct {
	name string
	run  func() (outcome, error)
}

// outcome is one run of one side.
type outcome struct {
	Rate float64 `json:"images_per_second"`
	Top1 []int   `json:"top1"`
	wait float64 // share of the time that the model waited for images
}

func main() {
	var b bench
	flag.StringVar(&b.evatool, "evatool", "./evatool", "the binary")
	flag.StringVar(&b.python, "python", "python3", "a Python with torch, torchvision and open_clip")
	flag.StringVar(&b.peer, "peer", "benchmarks/zeroshot/peer.py", "the peer's script")
	flag.StringVar(&b.data, "data", "", "a folder of images with one sub-folder per class")
	flag.StringVar(&b.config, "config", "EVA02-CLIP-B-16", "architecture here")
	flag.StringVar(&b.peerConfig, "peer-config", "EVA02-B-16", "the same architecture in open_clip")
	flag.StringVar(&b.backend, "backend", "xla", "")
	flag.StringVar(&b.work, "work", filepath.Join(os.TempDir(), "evatool-bench-zeroshot"), "folder of the random weights")
	flag.IntVar(&b.rounds, "rounds", 3, "runs of each side")
	flag.IntVar(&b.batch, "batch", 0, "images per call here (0: the default)")
	flag.BoolVar(&b.half, "bf16", false, "run evatool in bf16 too")
	flag.BoolVar(&b.peerHalf, "peer-bf16", false, "run open_clip in bf16 too")
	flag.Parse()
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (b *bench) run() error {
	if err := os.MkdirAll(b.work, 0o755); err != nil {
		return err
	}
	model := filepath.Join(b.work, b.config+".pt")
	if _, err := os.Stat(model); err != nil {
		if _, err := output(b.python, b.peer, "make", b.peerConfig, model); err != nil {
			return err
		}
	}
	sides := []side{
		{"evatool fp32", func() (outcome, error) { return b.ours(model, "fp32") }},
		{"open_clip fp32", func() (outcome, error) { return b.theirs(model, "fp32") }},
	}
	if b.half {
		sides = append(sides, side{"evatool bf16", func() (outcome, error) { return b.ours(model, "bf16") }})
	}
	if b.peerHalf {
		sides = append(sides, side{"open_clip bf16", func() (outcome, error) { return b.theirs(model, "bf16") }})
	}
	all := make([][]outcome, len(sides))
	for round := range b.rounds {
		for i := range sides {
			if round%2 == 1 {
				i = len(sides) - 1 - i
			}
			o, err := sides[i].run()
			if err != nil {
				return fmt.Errorf("%s: %w", sides[i].name, err)
			}
			fmt.Fprintf(os.Stderr, "%s: %.2f images/s\n", sides[i].name, o.Rate)
			all[i] = append(all[i], o)
		}
	}
	reference := all[1]
	fmt.Println("| side | images/s, median (range) | of open_clip fp32, a round's median (95 %) | same top-1 as it | waiting for images |")
	fmt.Println("|---|---|---|---|---|")
	for i, s := range sides {
		var rates, base, waits []float64
		for round, o := range all[i] {
			rates, waits = append(rates, o.Rate), append(waits, o.wait)
			base = append(base, reference[round].Rate)
		}
		same := 0
		for k, c := range all[i][0].Top1 {
			if c == reference[0].Top1[k] {
				same++
			}
		}
		wait := fmt.Sprintf("%.1f %%", 100*paired.Median(waits))
		if !strings.HasPrefix(s.name, "evatool") {
			wait = ""
		}
		fmt.Printf("| %s | %.2f (%.2f–%.2f) | %v | %d of %d | %s |\n", s.name, paired.Median(rates), slices.Min(rates), slices.Max(rates),
			paired.Over(rates, base), same, len(reference[0].Top1), wait)
	}
	return nil
}

func (b *bench) ours(model, dtype string) (outcome, error) {
	table := filepath.Join(b.work, "predictions.csv")
	out, err := output(b.evatool, "zeroshot", "folder", "--model", model, "--config", b.config, "--data", b.data,
		"--dtype", dtype, "--backend", b.backend, "--batch", strconv.Itoa(b.batch), "--predictions", table, "--json", "--quiet")
	if err != nil {
		return outcome{}, err
	}
	var r struct {
		Rate    float64 `json:"images_per_second"`
		Seconds struct{ Images, Wait float64 }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return outcome{}, err
	}
	f, err := os.Open(table)
	if err != nil {
		return outcome{}, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return outcome{}, err
	}
	o := outcome{Rate: r.Rate, wait: r.Seconds.Wait / r.Seconds.Images}
	column := slices.Index(rows[0], "top1")
	for _, row := range rows[1:] {
		c, err := strconv.Atoi(row[column])
		if err != nil {
			return outcome{}, err
		}
		o.Top1 = append(o.Top1, c)
	}
	return o, nil
}

func (b *bench) theirs(model, dtype string) (o outcome, err error) {
	out, err := output(b.python, b.peer, "score", b.peerConfig, model, b.data, dtype)
	if err != nil {
		return o, err
	}
	return o, json.Unmarshal(out, &o)
}

// output runs a command and returns what it printed; stderr is shown on failure.
func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, errs.String())
	}
	return out.Bytes(), nil
}
