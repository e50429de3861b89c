//go:build cgo && !linux

#include "blocks.h"

#include <stdlib.h>

int reuse_blocks(void* plugin) { return (void)plugin, 0; }
void drop_blocks(void) {}
void block_bytes(size_t* used, size_t* kept, size_t* mapped) { *used = *kept = *mapped = 0; }
int block_take(void** out, size_t n) { return (*out = malloc(n)) ? 0 : 1; }
void block_give(void* p) { free(p); }
