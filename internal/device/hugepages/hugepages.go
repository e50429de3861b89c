// Package hugepages starts the program again with malloc's memory in huge
// pages, when the XLA CPU plugin is going to compute in it. It replaces the
// process: only a command line may use it, never a library.
package hugepages

/*
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

static const char* glibc(void) {
  const char* (*version)(void) = (const char* (*)(void))dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
  return version ? version() : "";
}
*/
import "C"

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"github.com/evatool/evatool/internal/device/plugins"
)

// The tunables that Reexec sets: malloc's memory in transparent huge pages,
// and from one arena, so that it is reused. The CPU plugin allocates its
// temporary buffers anew at every execution; a quarter of a training step
// went into page faults without this. Results are the same to the bit.
const (
	tunablesEnv = "GLIBC_TUNABLES"
	tunables    = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
	reexecEnv   = "EVATOOL_REEXEC" // set in the new process: never a second time
)

// Reexec starts the program again in this process, with the same arguments,
// when the backend is the XLA CPU plugin and its memory would not use huge
// pages: the C library reads the setting only at the start. Then it does not
// return. The caller runs it before it has done anything, and not when the
// user said --huge-pages=off. A reason not to is logged at debug level.
func Reexec(backend string, log *slog.Logger) {
	if os.Getenv(reexecEnv) != "" {
		log.Debug("huge pages: on", tunablesEnv, os.Getenv(tunablesEnv))
		return
	}
	why := whyNotReexec(backend)
	if why == "" {
		value := tunables
		if v := os.Getenv(tunablesEnv); v != "" {
			value = v + ":" + tunables
		}
		os.Setenv(tunablesEnv, value)
		os.Setenv(reexecEnv, "1")
		log.Debug("huge pages: starting again", tunablesEnv, value)
		why = fmt.Sprint(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	log.Debug("huge pages: not set", "reason", why)
}

func whyNotReexec(backend string) string {
	if strings.Contains(os.Getenv(tunablesEnv), "glibc.malloc.hugetlb") {
		return tunablesEnv + " is set"
	}
	var major, minor int
	if _, err := fmt.Sscanf(C.GoString(C.glibc()), "%d.%d", &major, &minor); err != nil || major < 2 || major == 2 && minor < 35 {
		return "the C library is not glibc 2.35 or newer"
	}
	mode, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil || strings.Contains(string(mode), "[never]") {
		return "the kernel has transparent huge pages off"
	}
	if !choosesCPUPlugin(backend) {
		return "the backend is not the CPU plugin"
	}
	return ""
}

// choosesCPUPlugin foretells device.Open, without loading anything.
func choosesCPUPlugin(backend string) bool {
	name, arg, _ := strings.Cut(backend, ":")
	if name == "xla" && arg != "" {
		path, _, _ := strings.Cut(arg, ",")
		return plugins.KindOf(path) == plugins.CPU
	}
	if name != "" && name != "auto" && name != "xla" && name != plugins.CPU {
		return false
	}
	cpu := false
	for _, p := range plugins.Find() {
		if p.Kind == plugins.CUDA && plugins.HasNVIDIA() && name != plugins.CPU {
			return false
		}
		cpu = cpu || p.Kind == plugins.CPU
	}
	return cpu
}
