#include "table.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "_cgo_export.h"
#include "blocks.h"

static const pjrt_api* real[SLOTS];
static pjrt_api* ours[SLOTS];
static void* handles[SLOTS];
static int loaded_plugins;

static void* call(int slot, int fn, void* args) { return real[slot]->fn[fn](args); }

// go-xla waits for the end of every execution: one C call of it executes and
// then awaits the events of that execution. The Execute below tells the next
// waits of this thread, which are those, not to: the caller goes on, and reading
// a result waits for it. TestVersions (package pin) says what to check in
// another go-xla; a program that is linked with one waits (no run_ahead).
static __thread size_t skip_waits;

static void* execute(int slot, loaded_execute_args* a) {
  void* e = call(slot, FN_LOADED_EXECUTE, a);
  if (!e && a->complete) skip_waits = a->num_devices;
  return e;
}

static void* await(int slot, void* a) {
  if (skip_waits) {
    skip_waits--;
    return NULL;
  }
  return call(slot, FN_EVENT_AWAIT, a);
}

// A table entry does not know which plugin it belongs to: one set for each slot.
#define SET(n)                                                        \
  static void* compile_##n(void* a) { return evatoolCompile(n, a); }  \
  static void* execute_##n(void* a) { return execute(n, a); }         \
  static void* await_##n(void* a) { return await(n, a); }
SET(0) SET(1) SET(2) SET(3)
#define ENTRY(n) {compile_##n, execute_##n, await_##n}
static pjrt_fn sets[SLOTS][3] = {ENTRY(0), ENTRY(1), ENTRY(2), ENTRY(3)};

int load_plugin(const char* path, char** error) {
  if (loaded_plugins == SLOTS) {
    *error = strdup("too many different plugins in one process");
    return -1;
  }
  void* h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!h) {
    *error = strdup(dlerror());
    return -1;
  }
  const pjrt_api* (*get)(void) = (const pjrt_api* (*)(void))dlsym(h, "GetPjrtApi");
  const pjrt_api* api = get ? get() : NULL;
  if (!api) {
    *error = strdup("not a PJRT plugin: it has no GetPjrtApi");
    return -1;
  }
  size_t need = offsetof(pjrt_api, fn) + (FN_EXECUTABLE_MEMORY_STATS + 1) * sizeof(pjrt_fn);
  if (api->size < need || api->major != 0) {
    *error = strdup("its PJRT version is not supported by this evatool");
    return -1;
  }
  int slot = loaded_plugins++;
  real[slot] = api;
  // go-xla reads the table up to the end of its own header's: a plugin that
  // is older than that gets null entries instead of foreign memory.
  ours[slot] = calloc(1, api->size + 4096);
  memcpy(ours[slot], api, api->size);
  ours[slot]->fn[FN_CLIENT_COMPILE] = sets[slot][0];
  handles[slot] = h;
  return slot;
}

void run_ahead(int slot) {
  ours[slot]->fn[FN_LOADED_EXECUTE] = sets[slot][1];
  ours[slot]->fn[FN_EVENT_AWAIT] = sets[slot][2];
}

int keep_memory(int slot) { return reuse_blocks(handles[slot]); }

void* plugin_table(int slot) { return ours[slot]; }

void plugin_version(int slot, int* major, int* minor) {
  *major = real[slot]->major;
  *minor = real[slot]->minor;
}

int preload(const char* path) { return dlopen(path, RTLD_NOW | RTLD_GLOBAL) != NULL; }

char* error_text(int slot, void* error) {
  error_message_args m = {sizeof m, NULL, error};
  call(slot, FN_ERROR_MESSAGE, &m);
  char* text = strndup(m.message, m.message_size);
  error_destroy_args d = {sizeof d, NULL, error};
  call(slot, FN_ERROR_DESTROY, &d);
  return text;
}

char* probe_platform(int slot, char** error) {
  client_create_args c = {sizeof c};
  void* e = call(slot, FN_CLIENT_CREATE, &c);
  if (e) {
    *error = error_text(slot, e);
    return NULL;
  }
  client_platform_name_args p = {sizeof p, NULL, c.client};
  e = call(slot, FN_CLIENT_PLATFORM_NAME, &p);
  char* name = e ? NULL : strndup(p.name, p.name_size);
  if (e) *error = error_text(slot, e);
  client_destroy_args d = {sizeof d, NULL, c.client};
  e = call(slot, FN_CLIENT_DESTROY, &d);
  if (e) free(error_text(slot, e));
  return name;
}

void* compile_program(int slot, client_compile_args* a) {
  drop_blocks(); // the compiler needs memory, too
  void* e = call(slot, FN_CLIENT_COMPILE, a);
#ifdef __GLIBC__
  malloc_trim(0); // what the compiler needed, hundreds of MB, is free but not given back
#endif
  return e;
}

void* load_program(int slot, client_compile_args* a, const void* bytes, size_t n) {
  executable_load_args l = {sizeof l, NULL, a->client, bytes, n};
  void* e = call(slot, FN_EXECUTABLE_LOAD, &l);
  if (!e) a->executable = l.loaded;
  return e;
}

void* serialize_program(int slot, void* loaded, executable_serialize_args* s) {
  loaded_get_executable_args g = {sizeof g, NULL, loaded};
  void* e = call(slot, FN_LOADED_GET_EXECUTABLE, &g);
  if (e) return e;
  memset(s, 0, sizeof *s);
  s->size = sizeof *s;
  s->executable = g.executable;
  e = call(slot, FN_EXECUTABLE_SERIALIZE, s);
  executable_destroy_args d = {sizeof d, NULL, g.executable};
  void* e2 = call(slot, FN_EXECUTABLE_DESTROY, &d);
  if (e2) free(error_text(slot, e2));
  return e;
}

void free_serialized(executable_serialize_args* s) { s->deleter(s->serialized); }

int memory_stats(int slot, void* client, int64_t* in_use, int64_t* peak, int64_t* limit) {
  client_addressable_devices_args a = {sizeof a, NULL, client};
  void* e = call(slot, FN_CLIENT_ADDRESSABLE_DEVICES, &a);
  if (!e && a.num_devices > 0) {
    device_memory_stats_args m = {sizeof m, NULL, a.devices[0]};
    e = call(slot, FN_DEVICE_MEMORY_STATS, &m);
    if (!e) {
      *in_use = m.in_use;
      *peak = m.peak_set ? m.peak : 0;
      *limit = m.limit_set ? m.limit : 0;
      return 1;
    }
  }
  if (e) free(error_text(slot, e));
  return 0;
}
