#ifndef EVATOOL_BLOCKS_H
#define EVATOOL_BLOCKS_H
#include <stddef.h>

// reuse_blocks has a loaded plugin take its large blocks of memory (1 MB and
// more) from here, not from malloc: in huge pages, and kept for the next
// execution. 0 when the plugin's calls cannot be redirected; then nothing is
// changed. Only on Linux.
int reuse_blocks(void* plugin);
// drop_blocks gives back what is kept.
void drop_blocks(void);
// block_bytes says how much is in use and kept, and how many blocks were ever mapped.
void block_bytes(size_t* used, size_t* kept, size_t* mapped);

// What the plugin calls, for tests.
int block_take(void** out, size_t n);
void block_give(void* p);
#endif
