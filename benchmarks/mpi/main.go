// Mpi measures the cost of the exchanges of a job of several processes.
//
//	go run ./benchmarks/mpi --evatool bin/evatool            rate over loopback, cost of one process under mpirun
//	sudo go run ./benchmarks/mpi --evatool bin/evatool --net 50,200
//	                                                          two network namespaces with that many Mb/s between them
//	go run ./benchmarks/mpi --evatool bin/evatool --kills 50  ranks and launchers killed at random moments
//
// It uses every mpirun in PATH; for namespaces, Open MPI's. Namespaces need root,
// ip and tc (tbf) and are removed at the end.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evatool/evatool/benchmarks/paired"
	"github.com/evatool/evatool/internal/comm"
	"github.com/evatool/evatool/internal/comm/mpitest"
)

// recipe is a small model, so that exchanges dominate.
const recipe = `
model:
  embed_dim: 64
  vision_cfg: {image_size: 32, patch_size: 8, layers: 2, width: 64, head_width: 32, mlp_ratio: 2, eva_model_name: small, rope: true, pt_hw_seq_len: 4, naiveswiglu: true, subln: true}
  text_cfg: {context_length: 16, vocab_size: 49408, width: 32, heads: 2, layers: 2}
data:
  - {source: %q}
batch: 24
lanes: 12
steps: %d
warmup_steps: 2
optimizer: {name: lamb}
lr: {vision: 1.0e-3, text: 1.0e-3, other: 1.0e-3}
patch_dropout: 0.5
checkpoint: {every_steps: %d, keep: 2}
`

func main() {
	tool := flag.String("evatool", "bin/evatool", "the binary")
	data := flag.String("data", "testdata/emoji/train-fxemoji.tar", "a tar of pictures and captions")
	net := flag.String("net", "", "Mb/s between two network namespaces, separated by commas")
	kills := flag.Int("kills", 0, "how often to kill a job")
	rate := flag.Bool("rate", false, "be a rank that measures exchanges (for the benchmark itself)")
	size := flag.Int("bytes", 32<<20, "bytes per exchange, each way")
	rounds := flag.Int("rounds", 8, "exchanges of each kind")
	flag.Parse()
	b := bench{tool: *tool, data: *data, size: *size, rounds: *rounds}
	var err error
	switch {
	case *rate:
		err = b.rank()
	default:
		err = b.run(*net, *kills)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mpi:", err)
		os.Exit(1)
	}
}

type bench struct {
	tool, data   string
	size, rounds int
	dir          string
}

func (b *bench) run(net string, kills int) (err error) {
	for _, p := range []*string{&b.tool, &b.data} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "evatool-bench-mpi-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	list := mpitest.Find()
	if len(list) == 0 {
		return errors.New("no mpirun in PATH")
	}
	switch {
	case net != "":
		return b.namespaces(list, strings.Split(net, ","))
	case kills > 0:
		for _, l := range list {
			for _, n := range []int{2, 3} {
				if err := b.killed(l, n, kills); err != nil {
					return err
				}
			}
		}
		return nil
	}
	fmt.Println("| MPI | ranks | Alltoall GB/s each way | Allgather GB/s each way |\n|---|---|---|---|")
	for _, l := range list {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := l.Command(2, exe, "--rate", "--bytes", fmt.Sprint(b.size), "--rounds", fmt.Sprint(b.rounds))
		// As in real use; the tests turn this off for containers that forbid such copies.
		cmd.Env = slices.DeleteFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "OMPI_MCA_btl_vader") })
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		fmt.Printf("| %s | 2, loopback | %s |\n", l.Name, strings.TrimSpace(string(out)))
	}
	return b.one(list[0])
}

// rank measures exchanges; rank 0 prints GB/s of the fastest half, each way.
func (b *bench) rank() error {
	world, err := comm.Open(comm.Options{})
	if err != nil {
		return err
	}
	n := world.Size()
	src, dst := make([]byte, n*b.size), make([]byte, n*b.size)
	var rates []string
	for _, exchange := range []func() error{
		func() error { return world.Alltoall(dst, src) },
		func() error { return world.Allgather(dst, src[:b.size]) },
	} {
		var seconds []float64
		for range b.rounds + 1 {
			start := time.Now()
			if err := exchange(); err != nil {
				return err
			}
			seconds = append(seconds, time.Since(start).Seconds())
		}
		seconds = seconds[1:] // the first opens connections
		slices.Sort(seconds)
		rates = append(rates, fmt.Sprintf("%.3f", float64(b.size*(n-1))/seconds[len(seconds)/2]/1e9))
	}
	if world.Rank() == 0 {
		fmt.Println(strings.Join(rates, " | "))
	}
	return world.Close()
}

// recipeFile writes a recipe.
func (b *bench) recipeFile(steps, every int) (string, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("recipe-%d-%d.yaml", steps, every))
	return path, os.WriteFile(path, fmt.Appendf(nil, recipe, b.data, steps, every), 0o644)
}

// line is one of metrics.jsonl.
type line struct {
	Step     int64   `json:"step"`
	Seconds  float64 `json:"seconds"`
	Exchange float64 `json:"exchange_s"`
	Bytes    int64   `json:"exchange_bytes"`
}

func metrics(out string) (list []line, err error) {
	text, err := os.ReadFile(filepath.Join(out, "metrics.jsonl"))
	if err != nil {
		return nil, err
	}
	for l := range strings.Lines(string(text)) {
		var one line
		if err := json.Unmarshal([]byte(l), &one); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// one compares a process alone with a job of one.
func (b *bench) one(l mpitest.Launcher) error {
	const steps = 60
	file, err := b.recipeFile(steps, 0)
	if err != nil {
		return err
	}
	side := func(cmd *exec.Cmd, out string) (float64, error) {
		if text, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%v: %w\n%s", cmd.Args, err, text)
		}
		list, err := metrics(out)
		if err != nil || len(list) != steps {
			return 0, fmt.Errorf("%d steps of %d: %w", len(list), steps, err)
		}
		var s []float64
		for _, x := range list[steps/4:] {
			s = append(s, x.Seconds)
		}
		slices.Sort(s)
		return s[len(s)/2], nil
	}
	var alone, under []float64
	for i := range 15 {
		for _, s := range []struct {
			to   *[]float64
			name string
		}{{&alone, "alone"}, {&under, "mpirun"}} {
			out := filepath.Join(b.dir, fmt.Sprint(s.name, i))
			args := []string{"train", file, "--backend", "go", "--out", out, "--quiet"}
			cmd := exec.Command(b.tool, append(args, "--hosts", "off")...)
			if s.name == "mpirun" {
				cmd = l.Command(1, b.tool, args...)
				// Open MPI binds a process to one core, or to one socket, unless told not to.
				cmd.Env = append(cmd.Env, "OMPI_MCA_hwloc_base_binding_policy=none", "PRTE_MCA_hwloc_default_binding_policy=none")
			}
			v, err := side(cmd, out)
			if err != nil {
				return err
			}
			*s.to = append(*s.to, v)
		}
	}
	ratio := paired.Over(under, alone)
	fmt.Printf("\none process: %.2f ms a step alone; under %s -n 1 times %s\n", 1e3*paired.Median(alone), filepath.Base(l.Path), ratio)
	return nil
}

// sh runs a shell command.
func sh(format string, args ...any) error {
	text, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", fmt.Sprintf(format, args...), err, bytes.TrimSpace(text))
	}
	return nil
}

// namespaces runs exchanges and a training between two hosts, each a network
// namespace, over a link of so many Mb/s each way.
func (b *bench) namespaces(list []mpitest.Launcher, rates []string) error {
	at := slices.IndexFunc(list, func(l mpitest.Launcher) bool { return strings.HasPrefix(l.Name, "Open MPI") })
	if at < 0 {
		return errors.New("no Open MPI in PATH")
	}
	l := list[at]
	agent := filepath.Join(b.dir, "agent.sh")
	script := `#!/bin/sh
ns=evatool-a; [ "$1" = 10.99.0.2 ] && ns=evatool-b
shift
exec ip netns exec $ns unshare -u sh -c 'hostname "$0"; exec sh -c "$1"' $ns "$*"
`
	if err := os.WriteFile(agent, []byte(script), 0o755); err != nil {
		return err
	}
	drop := func() {
		_ = sh("ip netns del evatool-a; ip netns del evatool-b")
	}
	drop()
	defer drop()
	if err := sh(`ip netns add evatool-a && ip netns add evatool-b && ip link add eva netns evatool-a type veth peer name evb netns evatool-b
		ip -n evatool-a addr add 10.99.0.1/24 dev eva && ip -n evatool-b addr add 10.99.0.2/24 dev evb
		ip -n evatool-a link set lo up; ip -n evatool-b link set lo up; ip -n evatool-a link set eva up; ip -n evatool-b link set evb up`); err != nil {
		return err
	}
	job := func(args ...string) ([]byte, error) {
		pre := []string{"netns", "exec", "evatool-a", "unshare", "-u", "sh", "-c", `hostname evatool-a; exec "$@"`, "-", l.Path, "-n", "2",
			"--host", "10.99.0.1,10.99.0.2", "--map-by", "node", "--mca", "plm_rsh_agent", agent, "--mca", "btl", "tcp,self", "--mca", "btl_tcp_links", "2",
			"--mca", "btl_tcp_if_include", "10.99.0.0/24", "--mca", "oob_tcp_if_include", "10.99.0.0/24"}
		cmd := exec.Command("ip", append(pre, args...)...)
		cmd.Env = l.Command(1, "true").Env
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%v: %w\n%s", cmd.Args, err, errs.Bytes())
		}
		return out, err
	}
	sent := func() (bytes, packets int64, err error) {
		for name, to := range map[string]*int64{"tx_bytes": &bytes, "tx_packets": &packets} {
			text, err := exec.Command("ip", "netns", "exec", "evatool-a", "cat", "/sys/class/net/eva/statistics/"+name).Output()
			if err == nil {
				*to, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			}
			if err != nil {
				return 0, 0, err
			}
		}
		return bytes, packets, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	const steps = 10
	file, err := b.recipeFile(steps, 0)
	if err != nil {
		return err
	}
	fmt.Println("| Mb/s | Alltoall, Allgather: share of 95 % of the link | bytes of a training: said, on the wire without headers, ratio | seconds a step: exchange, bytes over 95 % of the link, ratio |\n|---|---|---|---|")
	for _, rate := range rates {
		mbit, err := strconv.ParseFloat(rate, 64)
		if err != nil {
			return err
		}
		for _, e := range []string{"evatool-a tc qdisc replace dev eva", "evatool-b tc qdisc replace dev evb"} {
			if err := sh("ip netns exec %s root tbf rate %smbit burst 64kb latency 50ms", e, rate); err != nil {
				return err
			}
		}
		link := 0.95 * mbit * 1e6 / 8
		out, err := job(exe, "--rate", "--bytes", fmt.Sprint(int(mbit*1e6/8)), "--rounds", "3")
		if err != nil {
			return err
		}
		var shares []string
		for f := range strings.SplitSeq(strings.TrimSpace(string(out)), " | ") {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil {
				return fmt.Errorf("%q: %w", out, err)
			}
			shares = append(shares, fmt.Sprintf("%.2f", v*1e9/link))
		}
		run := filepath.Join(b.dir, "net"+rate)
		b0, p0, err := sent()
		if err != nil {
			return err
		}
		if _, err := job(b.tool, "train", file, "--backend", "go", "--threads", "1", "--out", run, "--quiet"); err != nil {
			return err
		}
		b1, p1, err := sent()
		if err != nil {
			return err
		}
		list, err := metrics(run)
		if err != nil {
			return err
		}
		var said int64
		var seconds []float64
		for _, x := range list {
			said += x.Bytes
			seconds = append(seconds, x.Exchange)
		}
		const header = 14 + 20 + 32 // Ethernet, IP, TCP with time stamps
		wire := b1 - b0 - header*(p1-p0)
		ideal := float64(list[0].Bytes) / link
		fmt.Printf("| %s | %s | %d, %d, %.3f | %.3f, %.3f, %.2f |\n", rate, strings.Join(shares, ", "),
			said, wire, float64(wire)/float64(said), paired.Median(seconds[1:]), ideal, paired.Median(seconds[1:])/ideal)
	}
	return nil
}
