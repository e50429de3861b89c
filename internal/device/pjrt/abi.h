// The few parts of the PJRT C interface that this package calls or replaces.
// The interface only ever grows at the end, so positions and layouts are
// fixed; TestABI compares them with the header that go-xla was built with.
#ifndef EVATOOL_PJRT_ABI_H
#define EVATOOL_PJRT_ABI_H

#include <stddef.h>
#include <stdint.h>

enum {
  FN_ERROR_DESTROY = 0,
  FN_ERROR_MESSAGE = 1,
  FN_EVENT_AWAIT = 8,
  FN_CLIENT_CREATE = 10,
  FN_CLIENT_DESTROY = 11,
  FN_CLIENT_PLATFORM_NAME = 12,
  FN_CLIENT_ADDRESSABLE_DEVICES = 16,
  FN_CLIENT_COMPILE = 20,
  FN_DEVICE_MEMORY_STATS = 34,
  FN_EXECUTABLE_DESTROY = 40,
  FN_EXECUTABLE_SERIALIZE = 49,
  FN_LOADED_GET_EXECUTABLE = 51,
  FN_LOADED_EXECUTE = 55,
  FN_EXECUTABLE_LOAD = 56,
  FN_EXECUTABLE_MEMORY_STATS = 96, // the last one that go-xla calls
};

typedef void* (*pjrt_fn)(void* args); // returns an error or NULL

typedef struct {
  size_t size;
  void* extensions;
  size_t version_size;
  void* version_extensions;
  int major, minor;
  pjrt_fn fn[];
} pjrt_api;

// Every argument struct begins with its size and an extension list.
typedef struct { size_t size; void* ext; void* error; } error_destroy_args;
typedef struct { size_t size; void* ext; const void* error; const char* message; size_t message_size; } error_message_args;
typedef struct { size_t size; void* ext; void* event; } event_await_args;
typedef struct {
  size_t size; void* ext; const void* options; size_t num_options;
  void* kv_get; void* kv_get_arg; void* kv_put; void* kv_put_arg;
  void* client; void* kv_try_get; void* kv_try_get_arg;
} client_create_args;
typedef struct { size_t size; void* ext; void* client; } client_destroy_args;
typedef struct { size_t size; void* ext; void* client; const char* name; size_t name_size; } client_platform_name_args;
typedef struct { size_t size; void* ext; void* client; void* const* devices; size_t num_devices; } client_addressable_devices_args;
typedef struct { size_t size; void* ext; char* code; size_t code_size; const char* format; size_t format_size; } program;
typedef struct {
  size_t size; void* ext; void* client; const program* program;
  const char* options; size_t options_size; void* executable;
} client_compile_args;
typedef struct { size_t size; void* ext; void* executable; } executable_destroy_args;
typedef struct {
  size_t size; void* ext; const void* executable; const char* bytes; size_t bytes_size;
  void* serialized; void (*deleter)(void*);
} executable_serialize_args;
typedef struct { size_t size; void* ext; void* loaded; void* executable; } loaded_get_executable_args;
typedef struct {
  size_t size; void* ext; void* client; const char* bytes; size_t bytes_size;
  void* loaded; const char* options; size_t options_size;
} executable_load_args;
typedef struct {
  size_t size; void* ext; void* executable; void* options; void* arguments; size_t num_devices; size_t num_args;
  void* outputs; void** complete; void* device;
} loaded_execute_args;
typedef struct {
  size_t size; void* ext; void* device; int64_t in_use; int64_t peak; _Bool peak_set;
  int64_t num_allocs; _Bool num_allocs_set; int64_t largest; _Bool largest_set; int64_t limit; _Bool limit_set;
  int64_t rest[16];
} device_memory_stats_args;

#endif
