#include "depthwise.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "ffi.h"
#include "table.h"

// LANES channels are computed at a time. Maps of ImageNet's sizes are multiples
// of WIDE, those of powers of two of NARROW.
enum { LANES = 16, WIDE = 7, NARROW = 4, BAND = 96 << 10 };
#define UNROLL _Pragma("GCC unroll 16")
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, KIND)

#define KIND plain
#define VL 4
#define TARGET
#include "depthwise_rows.h"
#undef KIND
#undef VL
#undef TARGET
#ifdef __x86_64__
#define KIND avx2
#define VL 8
#define TARGET __attribute__((target("avx2,fma")))
#include "depthwise_rows.h"
#undef KIND
#undef VL
#undef TARGET
#define KIND avx512
#define VL 16
#define TARGET __attribute__((target("avx512f")))
#include "depthwise_rows.h"
#endif

int depthwise_simd(void) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

typedef void row_fn(int tile, const float* in, size_t in_row, const float* w, int kh, int kw,
                    size_t sx, float* out, size_t out_step, int n, int lanes);

// A job is cut into pieces: a band of rows of LANES channels of one map. Whoever
// is free takes the next one. A helper may come when all is done, so the last of
// all that know the job frees it.
typedef struct {
  depthwise_geometry g;
  row_fn* row;
  int tile;
  int64_t band_rows, bands, blocks, pieces, threads;
  int64_t columns; // of a band, with its zeros
  float* scratch;   // of each that works at the job
  atomic_int seats; // how many have theirs
  atomic_llong next, done;
  atomic_int users;
} job;

static size_t scratch_floats(const job* j) {
  return LANES * (((j->band_rows - 1) * j->g.sy + j->g.kh) * j->columns + j->g.kh * j->g.kw);
}

// plan makes a job for at most so many threads; NULL when there is no memory.
static job* plan(const depthwise_geometry* g, int simd, int64_t threads) {
  job* j = calloc(1, sizeof *j);
  if (!j) return NULL;
  j->g = *g;
  j->row = row_plain;
#ifdef __x86_64__
  if (simd == 2) j->row = row_avx512;
  if (simd == 1) j->row = row_avx2;
#endif
  int64_t wide = (g->out_width + WIDE - 1) / WIDE * WIDE, narrow = (g->out_width + NARROW - 1) / NARROW * NARROW;
  // A narrow tile reads its taps for fewer results.
  j->tile = wide * 7 <= narrow * 8 ? WIDE : NARROW;
  j->columns = ((j->tile == WIDE ? wide : narrow) - 1) * g->sx + g->kw;
  int64_t fit = BAND / (int64_t)sizeof(float) / LANES / j->columns; // rows that stay in the cache
  j->band_rows = fit > g->kh ? (fit - g->kh) / g->sy + 1 : 1;
  if (j->band_rows > g->out_height) j->band_rows = g->out_height;
  j->bands = (g->out_height + j->band_rows - 1) / j->band_rows;
  j->blocks = (g->channels + LANES - 1) / LANES;
  j->pieces = g->batch * j->blocks * j->bands;
  j->threads = threads < j->pieces ? threads : j->pieces;
  j->users = 1;
  j->scratch = malloc(j->threads * scratch_floats(j) * sizeof(float));
  if (!j->scratch && j->pieces > 0) {
    free(j);
    return NULL;
  }
  return j;
}

static void leave(job* j) {
  if (atomic_fetch_sub(&j->users, 1) > 1) return;
  free(j->scratch);
  free(j);
}

static void copy_lanes(float* to, const float* from, int lanes) {
  if (lanes == LANES) memcpy(to, from, LANES * sizeof(float));
  else {
    memset(to, 0, LANES * sizeof(float));
    memcpy(to, from, lanes * sizeof(float));
  }
}

static void piece(const job* j, int64_t i, float* scratch) {
  const depthwise_geometry* g = &j->g;
  int64_t first = i % j->bands * j->band_rows, block = i / j->bands % j->blocks, image = i / j->bands / j->blocks;
  int64_t rows = g->out_height - first < j->band_rows ? g->out_height - first : j->band_rows;
  int64_t c = block * LANES;
  int lanes = g->channels - c < LANES ? g->channels - c : LANES;

  float* taps = scratch;
  for (int64_t t = 0; t < g->kh * g->kw; t++) copy_lanes(taps + t * LANES, g->w + t * g->channels + c, lanes);
  float* band = taps + g->kh * g->kw * LANES;
  int64_t in_rows = (rows - 1) * g->sy + g->kh;
  int64_t from = g->left < j->columns ? g->left : j->columns; // columns [from,to) are the map's
  int64_t to = g->left + g->width < j->columns ? g->left + g->width : j->columns;
  for (int64_t r = 0; r < in_rows; r++) {
    float* row = band + r * j->columns * LANES;
    int64_t y = first * g->sy + r - g->top;
    if (y < 0 || y >= g->height) {
      memset(row, 0, j->columns * LANES * sizeof(float));
      continue;
    }
    memset(row, 0, from * LANES * sizeof(float));
    const float* x = g->x + ((image * g->height + y) * g->width - g->left) * g->channels + c;
    for (int64_t col = from; col < to; col++) copy_lanes(row + col * LANES, x + col * g->channels, lanes);
    memset(row + to * LANES, 0, (j->columns - to) * LANES * sizeof(float));
  }
  for (int64_t r = 0; r < rows; r++)
    j->row(j->tile, band + r * g->sy * j->columns * LANES, j->columns * LANES, taps, g->kh, g->kw, g->sx,
           g->y + ((image * g->out_height + first + r) * g->out_width) * g->channels + c, g->channels, g->out_width, lanes);
}

static void work(job* j) {
  if (atomic_load(&j->next) >= j->pieces) return;
  float* scratch = j->scratch + atomic_fetch_add(&j->seats, 1) * scratch_floats(j);
  for (int64_t i; (i = atomic_fetch_add(&j->next, 1)) < j->pieces;) {
    piece(j, i, scratch);
    atomic_fetch_add(&j->done, 1);
  }
}

int depthwise(const depthwise_geometry* g, int simd) {
  job* j = plan(g, simd, 1);
  if (!j) return 0;
  work(j);
  leave(j);
  return 1;
}

static void help(void* data) {
  work(data);
  leave(data);
}

static void* refuse(const ffi_frame* f, const char* why) {
  ffi_error_args e = {sizeof e, NULL, why, FFI_INVALID_ARGUMENT};
  return f->api->error_create(&e);
}

static void* handler(ffi_frame* f) {
  if (f->ext && f->ext->type == FFI_EXTENSION_METADATA) { // asked when registered
    ffi_metadata* m = ((ffi_metadata_extension*)f->ext)->metadata;
    m->version.major = f->api ? f->api->version.major : 0;
    m->version.minor = f->api ? f->api->version.minor : 1;
    m->traits = 0;
    return NULL;
  }
  if (f->stage != FFI_EXECUTE) return NULL;
  if (f->args.n != 2 || f->results.n != 1 || f->attributes.n != 1) return refuse(f, "evatool_depthwise: not two arguments, a result and an attribute");
  const ffi_buffer *x = f->args.at[0], *w = f->args.at[1], *y = f->results.at[0];
  const ffi_array* a = f->attributes.at[0];
  if (x->type != FFI_F32 || w->type != FFI_F32 || y->type != FFI_F32 || x->rank != 4 || w->rank != 4 || y->rank != 4 || a->size != 5)
    return refuse(f, "evatool_depthwise: not float32 of rank 4, or not five numbers");
  const int64_t* n = a->data;
  depthwise_geometry g = {x->data, w->data, y->data, x->dims[0], x->dims[1], x->dims[2], x->dims[3], w->dims[0], w->dims[1],
                          y->dims[1], y->dims[2], n[0], n[1], n[2], n[3]};
  if (w->dims[2] != 1 || w->dims[3] != g.channels || y->dims[3] != g.channels || y->dims[0] != g.batch || g.top < 0 || g.left < 0 ||
      g.sy < 1 || g.sx < 1)
    return refuse(f, "evatool_depthwise: shapes that do not fit");
  job* j = plan(&g, depthwise_simd(), n[4] > 1 ? n[4] : 1);
  if (!j) return refuse(f, "evatool_depthwise: no memory");
  for (int64_t i = 1; i < j->threads; i++) {
    ffi_schedule_args s = {sizeof s, NULL, f->context, help, j};
    atomic_fetch_add(&j->users, 1);
    void* e = f->api->schedule(&s);
    if (e) { // no pool
      ffi_error_destroy_args d = {sizeof d, NULL, e};
      f->api->error_destroy(&d);
      leave(j);
      break;
    }
  }
  work(j);
  while (atomic_load(&j->done) < j->pieces) sched_yield(); // a piece is a fraction of a millisecond
  leave(j);
  return NULL;
}

int register_depthwise(int slot) {
  const pjrt_api* api = plugin_table(slot);
  for (pjrt_extension* e = api->extensions; e; e = e->next) {
    if (e->type != PJRT_EXTENSION_FFI || e->size < sizeof(ffi_extension)) continue;
    ffi_register_args r = {sizeof r, "evatool_depthwise", strlen("evatool_depthwise"), handler, "Host", 4};
    void* error = ((ffi_extension*)e)->register_handler(&r);
    if (error) free(error_text(slot, error));
    return !error;
  }
  return 0;
}
