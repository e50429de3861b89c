// Package mpitest finds the MPI launchers of this machine, for tests.
package mpitest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Launcher is an mpirun.
type Launcher struct {
	Name string // such as "Open MPI 4.1.4"
	Path string
	open bool
}

// Find lists the launchers in PATH, one of each MPI and version.
func Find() (list []Launcher) {
	seen := map[string]bool{}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		for _, name := range []string{"mpirun", "mpiexec", "mpirun.openmpi", "mpirun.mpich", "mpiexec.hydra"} {
			path := filepath.Join(dir, name)
			if real, err := filepath.EvalSymlinks(path); err != nil || seen[real] {
				continue
			} else {
				seen[real] = true
			}
			l, ok := named(path)
			if !ok || seen[l.Name] {
				continue
			}
			seen[l.Name] = true
			list = append(list, l)
		}
	}
	return list
}

func named(path string) (Launcher, bool) {
	text, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return Launcher{}, false
	}
	first, _, _ := strings.Cut(string(text), "\n")
	if _, version, ok := strings.Cut(first, "(Open MPI) "); ok {
		return Launcher{"Open MPI " + version, path, true}, true
	}
	if _, rest, ok := strings.Cut(string(text), "Version:"); ok { // hydra
		return Launcher{"MPICH " + strings.Fields(rest)[0], path, false}, true
	}
	return Launcher{}, false
}

// Need is Find; without any launcher the test is skipped.
func Need(t testing.TB) []Launcher {
	t.Helper()
	list := Find()
	if len(list) == 0 {
		t.Skip("no MPI on this machine: apt-get install openmpi-bin libopenmpi-dev mpich brings two")
	}
	return list
}

// Command starts n copies of a program, also as root and on fewer cores.
func (l Launcher) Command(n int, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(l.Path, append([]string{"-n", strconv.Itoa(n), program}, args...)...)
	cmd.Env = os.Environ()
	if l.open {
		cmd.Env = append(cmd.Env, "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "PRTE_ALLOW_RUN_AS_ROOT=1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1",
			"OMPI_MCA_rmaps_base_oversubscribe=1", "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
			"OMPI_MCA_mpi_yield_when_idle=1", "OMPI_MCA_btl_base_warn_component_unused=0", "OMPI_MCA_btl_vader_single_copy_mechanism=none")
	}
	return cmd
}

// ABI is the library of MPI's standard ABI beside an MPICH; "" for none.
func (l Launcher) ABI() string {
	real, err := filepath.EvalSymlinks(l.Path)
	if err != nil || l.open {
		return ""
	}
	list, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(real)), "lib", "libmpi_abi.so.*"))
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (l Launcher) String() string { return fmt.Sprintf("%s (%s)", l.Name, l.Path) }
