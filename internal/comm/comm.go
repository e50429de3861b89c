// Package comm joins the processes of one training run. Ranks exchange bytes:
// Allgather and Alltoall are all there is. Sums are the device's (package
// device), in rank order, so that every MPI gives the same bits and every
// element type can travel.
//
// Open joins the world of the launcher that started the process (mpirun, srun,
// a Kubernetes MPIJob); libmpi is loaded at that moment, so a program that runs
// alone needs none. Memory is the twin for tests: its ranks are goroutines.
package comm

import (
	"log/slog"

	"github.com/evatool/evatool/internal/fault"
)

// maxMessage bounds one message of one rank to all others, in bytes: no MPI's
// count overflows, and copies on the host stay small. Tests lower it.
var maxMessage = 64 << 20

// Comm is one rank's place among Size() ranks. An exchange is collective: all
// ranks make the same calls in the same order, with the same lengths. All
// methods but Abort are for one goroutine at a time.
type Comm interface {
	Rank() int
	Size() int
	LocalRank() int // among the ranks of the same host, in rank order

	// Allgather puts every rank's src into dst, in rank order:
	// len(dst) is Size()·len(src).
	Allgather(dst, src []byte) error
	// Alltoall cuts src into Size() equal parts and sends part r to rank r;
	// dst gets the parts meant for this rank, in rank order.
	Alltoall(dst, src []byte) error

	// Abort ends all processes of the job, this one with the exit status code;
	// any goroutine may call it. It returns only if ranks are goroutines.
	Abort(code int)
	// Close leaves the world once all ranks do: it waits for them.
	Close() error
}

// Options say how to join.
type Options struct {
	Hosts   string       // auto (default): the launcher's world, or alone; off: alone
	Library string       // path of a libmpi; "": found automatically
	Log     *slog.Logger // nil: silent
}

// Open joins the launcher's world. A process that no launcher started, or that
// is the only one of its world, is single. If a launcher started several and
// they cannot be joined, that is an error: each would train on its own.
func Open(o Options) (Comm, error) {
	w, err := o.world()
	if err != nil {
		return nil, err
	}
	if w == nil {
		return single{}, nil
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return openMPI(w, o)
}

// Launched says which launcher started this process as one of several, "" for
// none. It joins nothing.
func Launched(o Options) (launcher string, err error) {
	w, err := o.world()
	if w == nil || err != nil {
		return "", err
	}
	return w.launcher, nil
}

func (o *Options) world() (*world, error) {
	switch o.Hosts {
	case "", "auto":
		return launched()
	case "off":
		return nil, nil
	}
	return nil, fault.Usagef("Options.Hosts %q: want auto or off", o.Hosts)
}

// single is a world of one.
type single struct{}

func (single) Rank() int                       { return 0 }
func (single) Size() int                       { return 1 }
func (single) LocalRank() int                  { return 0 }
func (single) Allgather(dst, src []byte) error { return same(dst, src, 1) }
func (single) Alltoall(dst, src []byte) error  { return same(dst, src, 1) }
func (single) Abort(int)                       {}
func (single) Close() error                    { return nil }

func same(dst, src []byte, size int) error {
	if err := lengths("Alltoall", dst, src, size); err != nil {
		return err
	}
	copy(dst, src)
	return nil
}

// lengths checks an exchange's lengths before other ranks see them.
func lengths(what string, dst, src []byte, size int) error {
	want := len(src)
	if what == "Allgather" {
		want *= size
	}
	if len(dst) != want || what == "Alltoall" && len(src)%size != 0 {
		return fault.Envf("%s of %d ranks: %d bytes cannot come from %d", what, size, len(dst), len(src))
	}
	return nil
}
