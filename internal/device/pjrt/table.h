#ifndef EVATOOL_TABLE_H
#define EVATOOL_TABLE_H
#include "abi.h"

#define SLOTS 4 // plugins in one process

// load_plugin loads the plugin file, copies its table of functions with ours
// in place of some, and returns its slot, or -1 with *error (to be freed).
int load_plugin(const char* path, char** error);
// run_ahead has executions of a plugin not wait for their end: right only with
// the go-xla that package pin names.
void run_ahead(int slot);
// keep_memory is reuse_blocks of a plugin.
int keep_memory(int slot);
void* plugin_table(int slot);
void plugin_version(int slot, int* major, int* minor);
// probe_platform creates a client to ask for the platform's name (to be freed); NULL and *error if it cannot.
char* probe_platform(int slot, char** error);
// preload loads a library that a plugin will ask for by name; 0 if it cannot.
int preload(const char* path);

// The plugin's own compiler, and its compiled programs as bytes.
void* compile_program(int slot, client_compile_args* a);
void* load_program(int slot, client_compile_args* a, const void* bytes, size_t n);
void* serialize_program(int slot, void* loaded, executable_serialize_args* s);
void free_serialized(executable_serialize_args* s);
char* error_text(int slot, void* error); // to be freed; destroys error
// memory_stats of a client's first device: bytes in use, peak, limit; 0 when the plugin does not say.
int memory_stats(int slot, void* client, int64_t* in_use, int64_t* peak, int64_t* limit);
#endif
