package comm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/evatool/evatool/internal/comm/mpitest"
	"github.com/evatool/evatool/internal/fault"
)

// conform is what every transport has to do: each rank runs it.
func conform(c Comm) error {
	n, me := c.Size(), c.Rank()
	if me < 0 || me >= n || c.LocalRank() < 0 || c.LocalRank() > me {
		return fmt.Errorf("rank %d, local rank %d of %d", me, c.LocalRank(), n)
	}
	// What rank r sends to rank q in round k is known to all.
	data := func(k, r, q, size int) []byte {
		b := make([]byte, size)
		g := rand.NewPCG(uint64(k), uint64(r*1000+q))
		for i := range b {
			if i%8 == 0 {
				x := g.Uint64()
				for j := i; j < min(i+8, size); j++ {
					b[j] = byte(x >> (8 * (j - i)))
				}
			}
		}
		return b
	}
	sizes := []int{0, 1, 255, 256, 257, 65536, 65537, 1<<20 + 3, 3}
	for k, size := range sizes {
		all := bytes.Repeat([]byte{0xaa}, n*size)
		src := data(k, me, 0, size)
		if err := c.Allgather(all, src); err != nil {
			return fmt.Errorf("Allgather of %d: %w", size, err)
		}
		for r := range n {
			if !bytes.Equal(all[r*size:(r+1)*size], data(k, r, 0, size)) {
				return fmt.Errorf("Allgather of %d bytes: part %d is wrong", size, r)
			}
		}
		if !bytes.Equal(src, data(k, me, 0, size)) {
			return errors.New("Allgather changed what was sent")
		}
		var out []byte
		for q := range n {
			out = append(out, data(k, me, q, size)...)
		}
		in := bytes.Repeat([]byte{0xaa}, n*size)
		if err := c.Alltoall(in, out); err != nil {
			return fmt.Errorf("Alltoall of %d: %w", size, err)
		}
		for r := range n {
			if !bytes.Equal(in[r*size:(r+1)*size], data(k, r, me, size)) {
				return fmt.Errorf("Alltoall of %d bytes: part %d is wrong", size, r)
			}
		}
	}
	// Lengths that cannot be are refused by the rank itself.
	if err := c.Allgather(make([]byte, n+1), make([]byte, 1)); fault.Code(err) != int(fault.Environment) {
		return fmt.Errorf("Allgather of a wrong length: %v", err)
	}
	if err := c.Alltoall(make([]byte, n+1), make([]byte, n+1)); n > 1 && fault.Code(err) != int(fault.Environment) {
		return fmt.Errorf("Alltoall of a wrong length: %v", err)
	}
	return nil
}

// usr1 asks this process for a stop as a cluster does, and sees that it lives
// and hears it: MPICH installs a handler that would kill it.
func usr1() error {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGUSR1)
	defer signal.Stop(heard)
	for range 3 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			return err
		}
		select {
		case <-heard:
		case <-time.After(10 * time.Second):
			return errors.New("SIGUSR1 was not heard")
		}
	}
	return nil
}

func TestSingle(t *testing.T) {
	c, err := Open(Options{Hosts: "off"})
	if err != nil {
		t.Fatal(err)
	}
	if err := conform(c); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Hosts: "on"}); fault.Code(err) != int(fault.Usage) {
		t.Errorf("hosts on: %v", err)
	}
}

// each runs f for every rank of a world of goroutines.
func each(world []Comm, f func(c Comm) error) []error {
	errs := make([]error, len(world))
	var wg sync.WaitGroup
	for i, c := range world {
		wg.Go(func() { errs[i] = f(c) })
	}
	wg.Wait()
	return errs
}

func TestMemory(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5} {
		if err := errors.Join(each(Memory(n), conform)...); err != nil {
			t.Fatalf("%d ranks: %v", n, err)
		}
	}
}

// TestMemoryEnds: a rank that leaves, aborts or gives another length makes the
// others' exchanges fail; nobody waits forever.
func TestMemoryEnds(t *testing.T) {
	for what, do := range map[string]func(c Comm) error{
		"close":  func(c Comm) error { return c.Close() },
		"abort":  func(c Comm) error { c.Abort(4); return nil },
		"length": func(c Comm) error { return c.Allgather(make([]byte, 6), make([]byte, 2)) },
	} {
		errs := each(Memory(3), func(c Comm) error {
			if c.Rank() == 1 {
				return do(c)
			}
			return c.Allgather(make([]byte, 3), make([]byte, 1))
		})
		if errs[0] == nil || errs[2] == nil {
			t.Errorf("%s: %v", what, errs)
		}
	}
}

// TestMPI runs the conformance under every MPI of this machine. Its children
// are the ranks.
func TestMPI(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "mpi" {
		os.Exit(mpiChild())
	}
	for _, l := range mpitest.Need(t) {
		libraries := []string{""}
		if abi := l.ABI(); abi != "" {
			libraries = append(libraries, abi)
		}
		for _, library := range libraries {
			name := l.Name
			if library != "" {
				name += ", MPI 5 ABI"
			}
			t.Run(name, func(t *testing.T) {
				cmd := l.Command(3, os.Args[0], "-test.run=^TestMPI$")
				cmd.Env = append(cmd.Env, "EVATOOL_TEST_CHILD=mpi", "EVATOOL_TEST_LIBRARY="+library)
				text := output(t, cmd)
				for r := range 3 {
					if want := fmt.Sprintf("rank %d of 3: ok", r); !strings.Contains(text, want) {
						t.Errorf("no %q in: %s", want, text)
					}
				}
			})
		}
	}
}

// output runs a job; a minute is far more than it needs.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, &text)
	}
	return text.String()
}

func mpiChild() int {
	err := func() error {
		c, err := Open(Options{Library: os.Getenv("EVATOOL_TEST_LIBRARY")})
		if err != nil {
			return err
		}
		maxMessage = 1 << 16 // in pieces, too
		for _, f := range []func(c Comm) error{conform, func(Comm) error { return usr1() }, conform} {
			if err := f(c); err != nil {
				fmt.Println(err)
				c.Abort(1)
			}
		}
		fmt.Printf("rank %d of %d: ok\n", c.Rank(), c.Size())
		return errors.Join(c.Close(), usr1())
	}()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestMPIAbort: a rank that aborts ends the job, with its status, although the
// others wait in an exchange.
func TestMPIAbort(t *testing.T) {
	if os.Getenv("EVATOOL_TEST_CHILD") == "abort" {
		c, err := Open(Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if c.Rank() == 1 {
			go c.Abort(4) // as a watchdog does
		}
		c.Allgather(make([]byte, 2*c.Size()), make([]byte, 2))
		c.Allgather(make([]byte, 2*c.Size()), make([]byte, 2))
		time.Sleep(30 * time.Second)
		os.Exit(5)
	}
	for _, l := range mpitest.Need(t) {
		cmd := l.Command(2, os.Args[0], "-test.run=^TestMPIAbort$")
		cmd.Env = append(cmd.Env, "EVATOOL_TEST_CHILD=abort")
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
		start := time.Now()
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() == 5 {
			t.Errorf("%s: %v", l, err)
		}
		t.Logf("%s: %v after %v", l, err, time.Since(start).Round(time.Millisecond))
	}
}

// TestLaunched: what the environment of each launcher means.
func TestLaunched(t *testing.T) {
	for _, c := range []struct {
		env  string
		want string // launcher, size, the first family; "": alone
		code int
	}{
		{env: ""},
		{env: "OMPI_COMM_WORLD_SIZE=4 PMIX_RANK=1", want: "Open MPI's mpirun 4 Open MPI"},
		{env: "OMPI_COMM_WORLD_SIZE=1 PMIX_RANK=0"},
		{env: "PMI_SIZE=3 PMI_RANK=0 PMI_FD=6", want: "MPICH's mpiexec 3 MPICH"},
		{env: "PMI_SIZE=1 PMI_RANK=0"},
		{env: "PMIX_RANK=0 SLURM_STEP_NUM_TASKS=8", want: "a launcher with PMIx 8 Open MPI"},
		{env: "PMIX_RANK=0 SLURM_STEP_NUM_TASKS=1"},
		{env: "PMIX_RANK=5", want: "a launcher with PMIx 0 Open MPI"},
		{env: "SLURM_NTASKS=8 SLURM_PROCID=0"}, // inside sbatch, without srun
		{env: "SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=3", code: int(fault.Usage)},
	} {
		w, err := launchedBy(func(key string) string {
			for _, v := range strings.Fields(c.env) {
				if k, v, _ := strings.Cut(v, "="); k == key {
					return v
				}
			}
			return ""
		})
		if fault.Code(err) != c.code && err != nil || c.code != 0 && err == nil {
			t.Errorf("%s: %v", c.env, err)
		}
		got := ""
		if w != nil {
			got = fmt.Sprint(w.launcher, " ", w.size, " ", w.families[0])
		}
		if got != c.want {
			t.Errorf("%s: %q, not %q", c.env, got, c.want)
		}
	}
}

// TestMissing: a launcher whose library is nowhere is an error that says how to
// get it, never a run alone.
func TestMissing(t *testing.T) {
	for _, family := range []string{openMPIFamily, mpichFamily} {
		w := &world{"a launcher", 2, []string{family}}
		_, err := openMPI(w, Options{Library: "/nowhere/libmpi.so"})
		if fault.Code(err) != int(fault.Environment) || !strings.Contains(err.Error(), "/nowhere/libmpi.so") {
			t.Errorf("%v", err)
		}
	}
}
