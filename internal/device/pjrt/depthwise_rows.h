// One row of a depthwise convolution, for the vectors of VL floats of one kind of
// processor: included by depthwise.c once for each. in is a band of rows with
// LANES channels and its zeros around it, w the kernel's taps; each tile of T
// results stays in registers while all taps are added.

typedef float NAME(vec) __attribute__((vector_size(VL * 4), aligned(4)));

TARGET static inline __attribute__((always_inline)) void NAME(tiles)(const int T, const float* in, size_t in_row, const float* w, int kh, int kw,
                                                              size_t sx, float* out, size_t out_step, int n, int lanes) {
  typedef NAME(vec) vec;
  for (int o = 0; o < n; o += T) {
    vec sum[T][LANES / VL];
    UNROLL for (int t = 0; t < T; t++)
      UNROLL for (int v = 0; v < LANES / VL; v++) sum[t][v] = (vec){0};
    const float* tap = w;
    for (int dy = 0; dy < kh; dy++)
      for (int dx = 0; dx < kw; dx++, tap += LANES) {
        const float* at = in + dy * in_row + (o * sx + dx) * LANES;
        UNROLL for (int v = 0; v < LANES / VL; v++) {
          vec weight = ((const vec*)tap)[v];
          UNROLL for (int t = 0; t < T; t++) sum[t][v] += weight * ((const vec*)(at + t * sx * LANES))[v];
        }
      }
    UNROLL for (int t = 0; t < T; t++) {
      if (o + t >= n) break;
      float* y = out + (o + t) * out_step;
      if (lanes == LANES)
        UNROLL for (int v = 0; v < LANES / VL; v++) ((vec*)y)[v] = sum[t][v];
      else
        memcpy(y, sum[t], lanes * sizeof(float));
    }
  }
}

TARGET static void NAME(row)(int tile, const float* in, size_t in_row, const float* w, int kh, int kw,
                      size_t sx, float* out, size_t out_step, int n, int lanes) {
  if (tile == WIDE) NAME(tiles)(WIDE, in, in_row, w, kh, kw, sx, out, out_step, n, lanes);
  else NAME(tiles)(NARROW, in, in_row, w, kh, kw, sx, out, out_step, n, lanes);
}
