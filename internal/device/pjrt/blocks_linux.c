//go:build cgo

// The CPU plugin allocates its buffers anew at every execution, the temporary
// ones in one block of up to gigabytes. Taken from malloc, that is mapped,
// cleared by the kernel page by page and unmapped each time: a quarter of a
// training step. Here a block that is free again is kept for the next request
// that it fits. Only the plugin's own calls come here: its table of imported
// functions is changed, not the process's.
#define _GNU_SOURCE
#include "blocks.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LARGE ((size_t)1 << 20)
#define HUGE ((size_t)2 << 20) // a huge page; every block begins at one
#define WAIT_FOR ((size_t)64 << 20)
#define WAIT_NS 10000000

typedef struct {
  char* at;
  size_t size; // of the mapping
  int used;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t freed = PTHREAD_COND_INITIALIZER;
static block* blocks;
static size_t count, room, used, kept, most; // most: the highest that used ever was
static size_t mapped;                        // how many were ever mapped

static size_t rounded(size_t n) {
  size_t unit = n < 4 * HUGE ? (size_t)1 << 16 : HUGE;
  return (n + unit - 1) / unit * unit;
}

static void unmap(size_t i) {
  munmap(blocks[i].at, blocks[i].size);
  kept -= blocks[i].size;
  blocks[i] = blocks[--count];
}

// shrink gives kept blocks back, the largest first, until at most limit bytes are kept.
static void shrink(size_t limit) {
  while (kept > limit) {
    size_t largest = count;
    for (size_t i = 0; i < count; i++)
      if (!blocks[i].used && (largest == count || blocks[i].size > blocks[largest].size)) largest = i;
    if (largest == count) return;
    unmap(largest);
  }
}

static char* map(size_t size) {
  char* p = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return NULL;
  char* at = (char*)(((uintptr_t)p + HUGE - 1) / HUGE * HUGE);
  if (at > p) munmap(p, (size_t)(at - p));
  if (p + HUGE > at) munmap(at + size, (size_t)(p + HUGE - at));
  madvise(at, size, MADV_HUGEPAGE);
  return at;
}

// fits tells whether n bytes, rounded to size, fill a block to four fifths.
static int fits(const block* b, size_t size) { return b->size >= size && b->size - size <= size / 4; }

// best is the smallest block, used or kept, that size fits; count when there is none.
static size_t best(size_t size, int in_use) {
  size_t k = count;
  for (size_t i = 0; i < count; i++)
    if (blocks[i].used == in_use && fits(&blocks[i], size) && (k == count || blocks[i].size < blocks[k].size)) k = i;
  return k;
}

// soon waits for a block to be freed: an execution frees its memory just after
// it says that it is done, and the next may have begun. Twice the memory would
// stay, for one wait.
static void soon(size_t size) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_nsec += WAIT_NS;
  if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
  while (best(size, 0) == count && !pthread_cond_timedwait(&freed, &lock, &end)) {
  }
}

// take finds a kept block or maps a new one. What is kept never lifts the sum
// above the highest that was in use at once.
static void* take(size_t n) {
  size_t size = rounded(n);
  if (size >= WAIT_FOR && best(size, 0) == count && best(size, 1) < count) soon(size);
  size_t i = best(size, 0);
  if (i == count) {
    if (count == room) {
      size_t more = room ? 2 * room : 64;
      block* b = realloc(blocks, more * sizeof *b);
      if (!b) return NULL;
      blocks = b, room = more;
    }
    shrink(most > used + size ? most - used - size : 0);
    char* at = map(size);
    if (!at && kept) {
      shrink(0);
      at = map(size);
    }
    if (!at) return NULL;
    i = count++;
    blocks[i] = (block){at, size, 0};
    kept += size, mapped++;
  }
  blocks[i].used = 1;
  used += blocks[i].size, kept -= blocks[i].size;
  if (used > most) most = used;
  return blocks[i].at;
}

// may_be tells without the lock, at every free, what cannot be a block.
static int may_be(const void* p) { return p && ((uintptr_t)p & (HUGE - 1)) == 0; }

// find is the block in use that begins at p, or count.
static size_t find(const void* p) {
  size_t i = 0;
  while (i < count && !(blocks[i].used && blocks[i].at == p)) i++;
  return i;
}

static int block_memalign(void** out, size_t align, size_t n) {
  if (n >= LARGE && align <= HUGE && n < SIZE_MAX / 2) {
    pthread_mutex_lock(&lock);
    void* p = take(n);
    pthread_mutex_unlock(&lock);
    if (p) {
      *out = p;
      return 0;
    }
  }
  return posix_memalign(out, align, n);
}

static void block_free(void* p) {
  if (may_be(p)) {
    pthread_mutex_lock(&lock);
    size_t i = find(p);
    int ours = i < count;
    if (ours) {
      blocks[i].used = 0;
      used -= blocks[i].size, kept += blocks[i].size;
      shrink(most - used);
      pthread_cond_broadcast(&freed);
    }
    pthread_mutex_unlock(&lock);
    if (ours) return;
  }
  int e = errno;
  free(p);
  errno = e;
}

static void* block_realloc(void* p, size_t n) {
  if (may_be(p)) {
    pthread_mutex_lock(&lock);
    size_t i = find(p), old = i < count ? blocks[i].size : 0;
    pthread_mutex_unlock(&lock);
    if (old) {
      void* q = n ? malloc(n) : NULL;
      if (q) memcpy(q, p, old < n ? old : n);
      if (q || !n) block_free(p);
      return q;
    }
  }
  return realloc(p, n);
}

void drop_blocks(void) {
  pthread_mutex_lock(&lock);
  shrink(0);
  most = used;
  pthread_mutex_unlock(&lock);
}

void block_bytes(size_t* u, size_t* k, size_t* m) {
  pthread_mutex_lock(&lock);
  *u = used, *k = kept, *m = mapped;
  pthread_mutex_unlock(&lock);
}

#if defined(__x86_64__)
#define IS_SLOT(t) ((t) == R_X86_64_JUMP_SLOT || (t) == R_X86_64_GLOB_DAT || (t) == R_X86_64_64)
#elif defined(__aarch64__)
#define IS_SLOT(t) ((t) == R_AARCH64_JUMP_SLOT || (t) == R_AARCH64_GLOB_DAT || (t) == R_AARCH64_ABS64)
#else
#define IS_SLOT(t) 0
#endif

typedef struct {
  const char* name;
  void* to;
  int found;
} import;

// redirect writes the address of to into every place of m that holds the address of the function name.
static int redirect(struct link_map* m, import* list, size_t n, int write) {
  const ElfW(Sym)* symbols = NULL;
  const char* names = NULL;
  const ElfW(Rela)* tables[2] = {0};
  size_t bytes[2] = {0};
  for (const ElfW(Dyn)* d = m->l_ld; d->d_tag != DT_NULL; d++) {
    uintptr_t at = d->d_un.d_ptr;
    if (at < m->l_addr) at += m->l_addr; // musl leaves it as it is in the file
    switch (d->d_tag) {
      case DT_SYMTAB: symbols = (void*)at; break;
      case DT_STRTAB: names = (void*)at; break;
      case DT_RELA: tables[0] = (void*)at; break;
      case DT_RELASZ: bytes[0] = d->d_un.d_val; break;
      case DT_JMPREL: tables[1] = (void*)at; break;
      case DT_PLTRELSZ: bytes[1] = d->d_un.d_val; break;
      case DT_PLTREL:
        if (d->d_un.d_val != DT_RELA) return 0;
    }
  }
  if (!symbols || !names) return 0;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (int t = 0; t < 2; t++) {
    for (size_t i = 0; tables[t] && i < bytes[t] / sizeof *tables[t]; i++) {
      const ElfW(Rela)* r = &tables[t][i];
      if (!IS_SLOT(ELF64_R_TYPE(r->r_info)) || r->r_addend) continue;
      const char* name = names + symbols[ELF64_R_SYM(r->r_info)].st_name;
      for (size_t k = 0; k < n; k++) {
        if (strcmp(name, list[k].name)) continue;
        list[k].found++;
        if (!write) continue;
        void** slot = (void**)(m->l_addr + r->r_offset);
        char* from = (char*)((uintptr_t)slot / page * page);
        if (mprotect(from, page, PROT_READ | PROT_WRITE)) return 0;
        *slot = list[k].to;
      }
    }
  }
  return 1;
}

// again makes what the loader had made read-only (PT_GNU_RELRO) read-only once more.
static int again(struct dl_phdr_info* o, size_t size, void* m) {
  (void)size;
  if (o->dlpi_addr != ((struct link_map*)m)->l_addr) return 0;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (int i = 0; i < o->dlpi_phnum; i++) {
    const ElfW(Phdr)* p = &o->dlpi_phdr[i];
    if (p->p_type != PT_GNU_RELRO) continue;
    uintptr_t from = (o->dlpi_addr + p->p_vaddr) / page * page, to = (o->dlpi_addr + p->p_vaddr + p->p_memsz) / page * page;
    if (to > from) mprotect((void*)from, to - from, PROT_READ);
  }
  return 1;
}

int reuse_blocks(void* plugin) {
  struct link_map* m;
  if (dlinfo(plugin, RTLD_DI_LINKMAP, &m)) return 0;
  import list[] = {{"free", (void*)block_free, 0}, {"realloc", (void*)block_realloc, 0}, {"posix_memalign", (void*)block_memalign, 0}};
  if (!redirect(m, list, 3, 0) || !list[0].found || !list[2].found) return 0;
  // What frees before what allocates: a block must not reach malloc's free.
  int done = redirect(m, list, 2, 1) && redirect(m, list + 2, 1, 1);
  dl_iterate_phdr(again, m);
  return done;
}

int block_take(void** out, size_t n) { return block_memalign(out, 64, n); }
void block_give(void* p) { block_free(p); }
