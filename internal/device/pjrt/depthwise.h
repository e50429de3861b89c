#ifndef EVATOOL_DEPTHWISE_H
#define EVATOOL_DEPTHWISE_H
#include <stdint.h>

// register_depthwise lets programs of a CPU plugin call "evatool_depthwise":
// a convolution of x [B,H,W,C] with w [kh,kw,1,C], all float32, that keeps the
// channels apart. Its attribute is the array {zeros above, zeros on the left,
// vertical stride, horizontal stride, threads}; the result's size says how many
// zeros are below and on the right. 0 when the plugin has no such calls.
int register_depthwise(int slot);

// What the call computes, for tests (0: no memory); simd is 0 (none), 1 (AVX2) or 2 (AVX-512),
// at most what depthwise_simd says that the processor has.
typedef struct {
  const float *x, *w;
  float* y;
  int64_t batch, height, width, channels, kh, kw, out_height, out_width, top, left, sy, sx;
} depthwise_geometry;
int depthwise(const depthwise_geometry* g, int simd);
int depthwise_simd(void);
#endif
