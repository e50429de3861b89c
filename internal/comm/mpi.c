//go:build linux && cgo

#define _GNU_SOURCE
#include "mpi.h"
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void* handle;

// An MPI library may put signal handlers of its own in place of Go's, without
// an alternate stack: MPICH's for SIGUSR1 kills a Go process at the next one.
typedef struct { struct sigaction a[NSIG]; char have[NSIG]; } actions;

static void save(actions* s) {
  for (int i = 1; i < NSIG; i++) s->have[i] = sigaction(i, NULL, &s->a[i]) == 0;
}

static void restore(const actions* s) {
  for (int i = 1; i < NSIG; i++)
    if (s->have[i] && i != SIGKILL && i != SIGSTOP) sigaction(i, &s->a[i], NULL);
}

static int failed(mpi* m, const char* what, int code) {
  int (*text)(int, char*, int*) = (int (*)(int, char*, int*))dlsym(m->lib, "MPI_Error_string");
  char why[1024] = "";
  int n = 0;
  if (text) text(code, why, &n);
  why[sizeof why - 1] = 0;
  snprintf(m->error, sizeof m->error, "%s: %.500s", what, *why ? why : "failed");
  return -1;
}

#define FUNCTION(type, name, args) type(*name) args = (type(*) args)dlsym(m->lib, "MPI_" #name)

int mpi_load(mpi* m, const char* path) {
  actions s;
  save(&s);
  m->lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);  // Open MPI 4 loads parts that need its symbols
  if (!m->lib) snprintf(m->error, sizeof m->error, "%s", dlerror());
  restore(&s);
  if (!m->lib) return -1;

  FUNCTION(int, Get_library_version, (char*, int*));
  if (!Get_library_version || !dlsym(m->lib, "MPI_Init_thread")) {
    snprintf(m->error, sizeof m->error, "%s: not a library of MPI 3 or later", path);
    return -1;
  }
  static char version[16384];  // the standard's largest is 8192
  int n = 0;
  Get_library_version(version, &n);
  snprintf(m->version, sizeof m->version, "%.*s", (int)strcspn(version, "\r\n"), version);
  const char* name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
  m->world = dlsym(m->lib, "ompi_mpi_comm_world");
  m->open_mpi = m->world != NULL;
  if (m->open_mpi) {
    m->byte = dlsym(m->lib, "ompi_mpi_byte");
    m->errors_return = dlsym(m->lib, "ompi_mpi_errors_return");
    m->funneled = 1;
  } else if (strncmp(name, "libmpi_abi.", 11) == 0) {
    m->world = (handle)0x101, m->byte = (handle)0x247, m->errors_return = (handle)0x143;
    m->funneled = 1024;
  } else {
    m->world = (handle)0x44000000, m->byte = (handle)0x4c00010d, m->errors_return = (handle)0x54000001;
    m->funneled = 1;
  }
  return 0;
}

int mpi_init(mpi* m) {
  FUNCTION(int, Init_thread, (void*, void*, int, int*));
  FUNCTION(int, Comm_set_errhandler, (handle, handle));
  FUNCTION(int, Comm_rank, (handle, int*));
  FUNCTION(int, Comm_size, (handle, int*));
  actions s;
  save(&s);
  int e = Init_thread(NULL, NULL, m->funneled, &m->thread);
  restore(&s);
  if (e) return failed(m, "MPI_Init_thread", e);
  if (m->thread < m->funneled) {
    snprintf(m->error, sizeof m->error, "MPI_Init_thread: this MPI allows no threads but its own; use one built with thread support");
    return -1;
  }
  if ((e = Comm_set_errhandler(m->world, m->errors_return))) return failed(m, "MPI_Comm_set_errhandler", e);
  if ((e = Comm_rank(m->world, &m->rank))) return failed(m, "MPI_Comm_rank", e);
  if ((e = Comm_size(m->world, &m->size))) return failed(m, "MPI_Comm_size", e);
  return 0;
}

typedef int (*exchange)(const void*, int, handle, void*, int, handle, handle);

int mpi_allgather(mpi* m, void* dst, const void* src, int bytes) {
  int e = ((exchange)dlsym(m->lib, "MPI_Allgather"))(src, bytes, m->byte, dst, bytes, m->byte, m->world);
  return e ? failed(m, "MPI_Allgather", e) : 0;
}

int mpi_alltoall(mpi* m, void* dst, const void* src, int bytes) {
  int e = ((exchange)dlsym(m->lib, "MPI_Alltoall"))(src, bytes, m->byte, dst, bytes, m->byte, m->world);
  return e ? failed(m, "MPI_Alltoall", e) : 0;
}

typedef struct { int code; } last;

// end ends the process when MPI_Abort does not: a launcher ends the others when
// it sees that.
static void* end(void* arg) {
  sleep(3);
  _exit(((last*)arg)->code);
  return NULL;
}

void mpi_abort(mpi* m, int code) {
  static last l;
  l.code = code;
  pthread_t t;
  if (pthread_create(&t, NULL, end, &l)) _exit(code);
  FUNCTION(int, Abort, (handle, int));
  if (Abort) Abort(m->world, code);
  _exit(code);
}

int mpi_finalize(mpi* m) {
  FUNCTION(int, Finalize, (void));
  actions s;
  save(&s);
  int e = Finalize();
  if (e) failed(m, "MPI_Finalize", e);
  // MPICH 5 takes leave of its launcher in a handler of exit, which a Go
  // process never calls; without, the first rank to end has the others killed.
  // Unloading the library runs it.
  if (!e && !m->open_mpi) dlclose(m->lib);
  restore(&s);
  return e ? -1 : 0;
}
