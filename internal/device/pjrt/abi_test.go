//go:build cgo

package pjrt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestABI compiles abi.h together with the PJRT header that go-xla ships
// and lets the C compiler compare positions, sizes and offsets.
func TestABI(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gomlx/go-xla").Output()
	cc, ccErr := exec.LookPath("cc")
	if err != nil || ccErr != nil {
		t.Skip("needs the go command and a C compiler")
	}
	header := filepath.Join(strings.TrimSpace(string(out)), "pjrt", "pjrt_c_api.h")
	ours, err := filepath.Abs("abi.h")
	if err != nil {
		t.Fatal(err)
	}
	var c strings.Builder
	c.WriteString("#include \"" + header + "\"\n#include \"" + ours + "\"\n#define same(a, b) _Static_assert((a) == (b), #a \" is not \" #b)\n")
	for fn, name := range map[string]string{
		"ERROR_DESTROY": "PJRT_Error_Destroy", "ERROR_MESSAGE": "PJRT_Error_Message", "EVENT_AWAIT": "PJRT_Event_Await",
		"CLIENT_CREATE": "PJRT_Client_Create", "CLIENT_DESTROY": "PJRT_Client_Destroy",
		"CLIENT_PLATFORM_NAME": "PJRT_Client_PlatformName", "CLIENT_ADDRESSABLE_DEVICES": "PJRT_Client_AddressableDevices",
		"CLIENT_COMPILE": "PJRT_Client_Compile", "DEVICE_MEMORY_STATS": "PJRT_Device_MemoryStats",
		"EXECUTABLE_DESTROY": "PJRT_Executable_Destroy", "EXECUTABLE_SERIALIZE": "PJRT_Executable_Serialize",
		"LOADED_GET_EXECUTABLE": "PJRT_LoadedExecutable_GetExecutable", "LOADED_EXECUTE": "PJRT_LoadedExecutable_Execute",
		"EXECUTABLE_LOAD":         "PJRT_Executable_DeserializeAndLoad",
		"EXECUTABLE_MEMORY_STATS": "PJRT_Executable_GetCompiledMemoryStats",
	} {
		c.WriteString("same(offsetof(pjrt_api, fn) + FN_" + fn + " * sizeof(pjrt_fn), offsetof(PJRT_Api, " + name + "));\n")
	}
	c.WriteString("same(offsetof(pjrt_api, major), offsetof(PJRT_Api, pjrt_api_version.major_version));\n")
	for ours, theirs := range map[string]string{ // struct and last field that we use
		"error_destroy_args.error": "PJRT_Error_Destroy_Args.error", "error_message_args.message_size": "PJRT_Error_Message_Args.message_size",
		"event_await_args.event": "PJRT_Event_Await_Args.event", "client_create_args.client": "PJRT_Client_Create_Args.client",
		"client_destroy_args.client": "PJRT_Client_Destroy_Args.client", "client_platform_name_args.name_size": "PJRT_Client_PlatformName_Args.platform_name_size",
		"client_addressable_devices_args.num_devices": "PJRT_Client_AddressableDevices_Args.num_addressable_devices",
		"program.format_size":                         "PJRT_Program.format_size", "client_compile_args.executable": "PJRT_Client_Compile_Args.executable",
		"executable_destroy_args.executable": "PJRT_Executable_Destroy_Args.executable", "executable_serialize_args.deleter": "PJRT_Executable_Serialize_Args.serialized_executable_deleter",
		"loaded_get_executable_args.executable": "PJRT_LoadedExecutable_GetExecutable_Args.executable",
		"executable_load_args.options_size":     "PJRT_Executable_DeserializeAndLoad_Args.overridden_serialized_compile_options_size",
		"loaded_execute_args.device":            "PJRT_LoadedExecutable_Execute_Args.execute_device", "loaded_execute_args.complete": "PJRT_LoadedExecutable_Execute_Args.device_complete_events",
		"device_memory_stats_args.limit_set": "PJRT_Device_MemoryStats_Args.bytes_limit_is_set",
	} {
		a, af, _ := strings.Cut(ours, ".")
		b, bf, _ := strings.Cut(theirs, ".")
		c.WriteString("same(offsetof(" + a + ", " + af + "), offsetof(struct " + b + ", " + bf + "));\n")
		c.WriteString("_Static_assert(sizeof(" + a + ") >= sizeof(struct " + b + "), \"" + a + " is too short\");\n")
	}
	file := filepath.Join(t.TempDir(), "abi.c")
	if err := os.WriteFile(file, []byte(c.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-fsyntax-only", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
