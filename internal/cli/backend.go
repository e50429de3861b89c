package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/device/plugins"
	"github.com/evatool/evatool/internal/fault"
)

func newBackend(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backend",
		Short: "List, install and remove compute backends",
		Long: `List, install and remove the compute backends of this machine.

The Go backend is built in. XLA plugins are faster: one for CPUs, one for NVIDIA
GPUs. --backend auto (the default of every command) takes the CUDA plugin if
there is a GPU, else the CPU plugin, else the Go backend.` + exitStatus,
		Example: `  evatool backend list
  evatool backend install cpu`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBackendList(app), newBackendInstall(app), newBackendRemove(app))
	return cmd
}

func newBackendList(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the backends, their speeds, and which one --backend auto chooses and why",
		Long: `Open every backend of this machine and measure a float32 matrix product on it.
The line with * is what --backend auto chooses.

A plugin is code that runs with your rights. Its line says what is known about
its SHA-256: "pinned" is the one that this program names and was tested with,
"given" is one that you vouched for at installation, "unknown" one that was
installed in another way, and "changed" one that differs from what was installed.

Plugins are searched for in the user's cache folder, in the packages of a Python
on PATH (which is not run), and in go-xla's folder. A backend that does not work is
listed with the reason; the exit status stays 0.` + exitStatus,
		Example: `  evatool backend list
  evatool backend list --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, chosen, err := device.List(cmd.Context(), device.Options{
				DeviceCount: app.DeviceCount, Threads: app.Threads, CompileCache: "off", Log: app.Log,
			})
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(map[string]any{"backends": list, "chosen": list[chosen].Info, "simd": device.SIMD()})
			}
			for i, l := range list {
				app.Printf("%s\n", flagged(cmd, backendLine(l, i == chosen)))
			}
			for _, kind := range []string{device.KindCPU, device.KindCUDA} {
				if !hasKind(list, kind) {
					app.Printf("  %-9s not installed: evatool backend install %s\n", kind, strings.TrimPrefix(kind, "xla-"))
				}
			}
			return nil
		},
	}
}

func hasKind(list []device.Listed, kind string) bool {
	for _, l := range list {
		if l.Kind == kind {
			return true
		}
	}
	return false
}

func backendLine(l device.Listed, chosen bool) string {
	var b strings.Builder
	mark := " "
	if chosen {
		mark = "*"
	}
	fmt.Fprintf(&b, "%s %-9s", mark, l.Kind)
	if l.Error != "" {
		fmt.Fprintf(&b, " does not work: %s", l.Error)
	} else {
		fmt.Fprintf(&b, " %6.0f GFLOP/s, %d device(s)", l.GFLOPS, l.Devices)
		if l.Version != "" {
			fmt.Fprintf(&b, ", %s", l.Version)
		}
	}
	if l.Kind == device.KindGo {
		simd := "on"
		if !l.SIMD {
			simd = "off (" + device.WithoutSIMD() + ")"
		}
		fmt.Fprintf(&b, ", SIMD %s", simd)
	}
	if l.Plugin != "" {
		fmt.Fprintf(&b, ", %s", l.Plugin)
	}
	if l.Trust != "" {
		fmt.Fprintf(&b, ", hash %s", l.Trust)
	}
	if chosen {
		fmt.Fprintf(&b, " (%s)", l.Why)
	}
	return b.String()
}

func newBackendInstall(app *App) *cobra.Command {
	var o plugins.InstallOptions
	cmd := &cobra.Command{
		Use:   "install cpu|cuda",
		Short: "Install an XLA plugin into the user's cache folder",
		Long: `Install the XLA plugin for CPUs or for NVIDIA GPUs into the user's cache folder.

The version and the SHA-256 are fixed in this program. The plugin is downloaded
from the Python package index, directly or with pip if that is on PATH; on a
machine without a network, give the wheel with --wheel. No Python is needed.
Installing what is already there does nothing.

A wheel other than the fixed one is installed only if you vouch for it, by its
hash (--sha256) or without (--trust): it is code that runs with your rights. It
takes precedence over the fixed one; backend list says so, and backend remove
undoes it.

The CUDA plugin also needs NVIDIA's libraries: they are found in the packages of
a Python on PATH, in a CUDA folder, or in LD_LIBRARY_PATH; anything missing is
named when the plugin is opened.` + exitStatus,
		Example: `  evatool backend install cpu
  evatool backend install cuda --wheel jax_cuda13_pjrt-0.12.0.1-py3-none-manylinux_2_27_x86_64.whl`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fault.Usagef("backend install: want cpu or cuda")
			}
			return nil
		},
		ValidArgs: []string{"cpu", "cuda"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Log = app.Log
			in, err := plugins.Install(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(in)
			}
			if !device.XLA() {
				app.Log.Warn("this evatool was built without cgo and cannot load the plugin; build it with CGO_ENABLED=1 and a C compiler")
			}
			done := "installed"
			if in.Already {
				done = "already installed"
			}
			app.Printf("%s %s: %s (hash %s): %s\n", in.Package, cmp.Or(in.Version, "of your own choice"), done, in.Trust, in.Path)
			switch {
			case in.Before != "":
				app.Printf("%s takes precedence over it; evatool backend remove %s removes it\n", in.Before, in.Before)
			case in.Own:
				app.Printf("it takes precedence over the one that evatool was tested with; evatool backend remove %s undoes this\n", in.Name)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Wheel, "wheel", "", "take the plugin from this wheel `FILE` instead of downloading it")
	f.StringVar(&o.SHA256, "sha256", "", "SHA-256 of a wheel other than the fixed one, 64 `HEX` digits")
	f.BoolVar(&o.Trust, "trust", false, "install the wheel whatever its hash")
	cmd.MarkFlagsMutuallyExclusive("sha256", "trust")
	return cmd
}

func newBackendRemove(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove an installed XLA plugin",
		Long: `Remove a plugin that backend install put into the user's cache folder: by its
name, the last folder of the path that backend list shows, or with cpu or cuda
all plugins of that kind. Remove plugins elsewhere with the tool that
installed them (pip, for a Python's).` + exitStatus,
		Example: `  evatool backend remove cpu
  evatool backend remove cuda13-0.12.0.1`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fault.Usagef("backend remove: want one name; evatool backend list shows the names")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			removed, err := plugins.Remove(args[0])
			if err != nil {
				return err
			}
			if app.JSON {
				return app.PrintJSON(map[string]any{"removed": removed})
			}
			for _, path := range removed {
				app.Printf("removed: %s\n", path)
			}
			return nil
		},
	}
}
