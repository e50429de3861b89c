// The parts of XLA's interface for calls out of a compiled program (XLA FFI)
// that are used here: a handler's call frame, and the extension of a plugin's
// table where handlers are registered. Layouts as in xla/ffi/api/c_api.h (which
// grows at the end) and xla/pjrt/c/pjrt_c_api_ffi_extension.h.
#ifndef EVATOOL_FFI_H
#define EVATOOL_FFI_H

#include <stddef.h>
#include <stdint.h>

enum { PJRT_EXTENSION_FFI = 5 };

typedef struct pjrt_extension { size_t size; int type; struct pjrt_extension* next; } pjrt_extension;
typedef struct {
  size_t size; const char* name; size_t name_size; void* handler;
  const char* platform; size_t platform_size; int traits;
} ffi_register_args;
typedef struct { pjrt_extension base; void* type_register; void* user_data_add; void* (*register_handler)(ffi_register_args*); } ffi_extension;

enum { FFI_EXTENSION_METADATA = 1, FFI_EXECUTE = 3, FFI_F32 = 11, FFI_INVALID_ARGUMENT = 3 };

typedef struct { size_t size; void* ext; int major, minor; } ffi_version;
typedef struct { size_t size; ffi_version version; uint32_t traits; } ffi_metadata;
typedef struct ffi_extension_base { size_t size; int type; struct ffi_extension_base* next; } ffi_extension_base;
typedef struct { ffi_extension_base base; ffi_metadata* metadata; } ffi_metadata_extension;
typedef struct { size_t size; void* ext; int type; void* data; int64_t rank; const int64_t* dims; } ffi_buffer;
typedef struct { int type; size_t size; const void* data; } ffi_array; // an attribute
typedef struct { size_t size; void* ext; int64_t n; const int* types; void** at; } ffi_values;
typedef struct { size_t size; void* ext; int64_t n; const int* types; void** names; void** at; } ffi_attributes;
typedef struct { size_t size; void* ext; const char* message; int code; } ffi_error_args;
typedef struct { size_t size; void* ext; void* context; void (*task)(void*); void* data; } ffi_schedule_args;
typedef struct { size_t size; void* ext; void* error; } ffi_error_destroy_args;
typedef struct {
  size_t size; void* ext; ffi_version version; const void* internal;
  void* (*error_create)(ffi_error_args*);
  void* error_message;
  void (*error_destroy)(ffi_error_destroy_args*);
  void *handler_register, *stream_get, *type_register, *context_get, *state_set, *state_get, *allocate, *free;
  void* (*schedule)(ffi_schedule_args*);
} ffi_api;
typedef struct {
  size_t size; ffi_extension_base* ext; const ffi_api* api; void* context; int stage;
  ffi_values args, results; ffi_attributes attributes;
} ffi_frame;

#endif
