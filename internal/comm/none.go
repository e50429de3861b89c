//go:build !linux || !cgo

package comm

import "github.com/evatool/evatool/internal/fault"

func openMPI(w *world, _ Options) (Comm, error) {
	return nil, fault.Envf("%s started this process, but this build of evatool cannot join the job: MPI needs Linux and a build with cgo; give Options.Hosts off for separate runs", w.launcher)
}
