//go:build linux && cgo

// What Go's runtime cannot report. Under a low limit on address space or open
// files it dies before any Go code runs, or at some moment after that, with
// a hundred lines about itself; this runs before it.
//
// It takes more address space than memory: 0.6 GB for its page summary, 0.5 GB
// for what it may return, the heap, and for each thread a stack and an arena of
// the C library. Measured on two cores: from 1.84 GB on all 52 runs of a command
// succeed, XLA's compiler included; at 1.78 GB one of 20 fails, at 1 GB most do.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define ADDRESS_SPACE 1900000000ULL
#define FILES 5 // poller, its wake-up, two of the control group, and one to work with

static void refuse(const char* text, int n) {
  if (write(2, text, (size_t)n) < 0) _exit(4);
  _exit(4);
}

__attribute__((constructor)) static void check_limits(void) {
  char text[200];
  struct rlimit l;
  if (getrlimit(RLIMIT_AS, &l) == 0 && l.rlim_cur != RLIM_INFINITY && l.rlim_cur < ADDRESS_SPACE)
    refuse(text, snprintf(text, sizeof text, "evatool: the limit on address space is %.2f GB; at least %.1f GB is needed to start: raise it (ulimit -v unlimited)\n",
                          (double)l.rlim_cur / 1e9, ADDRESS_SPACE / 1e9));
  if (getrlimit(RLIMIT_NOFILE, &l) != 0) return;
  struct rlimit most = {l.rlim_max, l.rlim_max}; // Go raises the limit to this
  setrlimit(RLIMIT_NOFILE, &most);
  int open_files[FILES], n = 0, full = 0;
  while (n < FILES && !full) {
    int f = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f >= 0)
      open_files[n++] = f;
    else if (errno == EMFILE)
      full = 1;
    else
      break; // nothing about limits
  }
  for (int i = 0; i < n; i++) close(open_files[i]);
  setrlimit(RLIMIT_NOFILE, &l);
  if (full)
    refuse(text, snprintf(text, sizeof text, "evatool: the limit on open files is %llu, and only %d more can be opened; at least %d are needed to start: raise it (ulimit -n 1024)\n",
                          (unsigned long long)l.rlim_max, n, FILES));
}
