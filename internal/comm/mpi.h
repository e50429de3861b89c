#ifndef EVATOOL_MPI_H
#define EVATOOL_MPI_H
#include <stddef.h>

// An MPI library and its world. Handles are addresses in Open MPI and in the
// standard ABI, ints in MPICH; either fits a word, and a callee that takes an
// int reads the lower half of it (amd64, arm64).
typedef struct {
  void* lib;
  void *world, *byte, *errors_return;
  int open_mpi;
  int funneled;
  int rank, size, thread;
  char version[256];  // first line
  char error[600];    // of the last call that failed
} mpi;

int mpi_load(mpi* m, const char* path);
int mpi_init(mpi* m);
int mpi_allgather(mpi* m, void* dst, const void* src, int bytes);
int mpi_alltoall(mpi* m, void* dst, const void* src, int bytes);
void mpi_abort(mpi* m, int code);
int mpi_finalize(mpi* m);

#endif
