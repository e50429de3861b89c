// Package cli is evatool's command line: one file per command, each thin:
// flags to options, run, print.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/evatool/evatool/internal/device"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/internal/runlog"
)

// exitStatus closes the long help of every command.
const exitStatus = `

EXIT STATUS
  0    done
  1    a requested check failed (diff, zeroshot verify, --expect)
  2    usage: a flag or a recipe key
  3    bad input: a file or a dataset
  4    environment: no such backend, no space, no permission
  130  interrupted`

// App holds what the commands share: the streams, the common flags, the log.
type App struct {
	In       io.Reader
	Out, Err io.Writer

	screen *runlog.Screen // which Err writes to, log and progress alike

	Backend     string
	DeviceCount int
	HugePages   string
	Threads     int
	JSON        bool
	Verbose     bool
	Quiet       bool
	Offline     bool

	Log *slog.Logger

	args []string // the command line
}

// PrintJSON writes the JSON value of --json.
func (a *App) PrintJSON(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Printf writes to stdout for people; with --json it writes nothing. Strings among
// the arguments may come from files and servers, so they are escaped: they cannot
// control the terminal or pretend to be lines of their own.
func (a *App) Printf(format string, args ...any) {
	if !a.JSON {
		for i, v := range args {
			switch v := v.(type) {
			case string:
				args[i] = fault.Name(v)
			case error:
				args[i] = fault.Line(v)
			case fmt.Stringer:
				args[i] = fault.Name(v.String())
			case []string:
				args[i] = quoted(v)
			}
		}
		fmt.Fprintf(a.Out, format, args...)
	}
}

func quoted(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fault.Name(s)
	}
	return out
}

// Progress starts a progress display on stderr.
func (a *App) Progress(label string, total int64, unit string) *runlog.Progress {
	if a.Quiet {
		return runlog.NewProgress(nil, label, total, unit)
	}
	return runlog.NewProgress(a.screen, label, total, unit)
}

// commands lists every command's constructor, in the order of the help.
var commands = []func(*App) *cobra.Command{
	newConvert, newInspect, newDiff, newInit,
	newZeroshot, newProbe, newRetrieval, newEmbed, newModels, newFetch, newPreprocess, newTokenize,
	newTrain, newCompare, newBackend, newCache, newDemo, newVersion,
}

func newRoot(app *App) *cobra.Command {
	root := &cobra.Command{
		Use:   "evatool",
		Short: "CLIP checkpoints in; safe weights, a trusted number, a better model out",
		Long: `evatool takes CLIP checkpoints as their authors published them (EVA-01, EVA-02,
OpenAI, OpenCLIP) and gives back, without Python: safe weights (convert), a
number you can trust (zeroshot), and a better model (train).` + exitStatus,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noCommand,
		Version:       runlog.Versions()["evatool"],
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := notEmpty(cmd, args); err != nil {
				return err
			}
			if !slices.Contains([]string{"auto", "off"}, app.HugePages) {
				return fault.Usagef("--huge-pages %q: want auto or off", app.HugePages)
			}
			if app.Threads < 0 {
				return fault.Usagef("--threads %d: want a positive number, or 0 for all cores", app.Threads)
			}
			app.Log = slog.New(flaggedLog{runlog.NewLogger(app.Err, app.Verbose, app.Quiet).Handler(), cmd})
			device.QuietLibraries()
			cmd.SetContext(hub.Show(cmd.Context(), app.Progress))
			if app.Threads > 0 {
				runtime.GOMAXPROCS(app.Threads)
			}
			if app.HugePages == "off" {
				device.PlainMemory()
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(app.In)
	root.SetOut(app.Out)
	root.SetErr(app.Err)
	// Every command writes to -o or --out; --output is the same.
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "output" {
			name = "out"
		}
		return pflag.NormalizedName(name)
	})
	f := root.PersistentFlags()
	f.StringVar(&app.Backend, "backend", "auto", "auto, go, xla, xla-cpu, xla-cuda or xla:/path/plugin.so[,option...]")
	f.IntVar(&app.DeviceCount, "device-count", 0, "use `N` devices (0: all of a GPU backend, one of a CPU backend)")
	f.IntVar(&app.Threads, "threads", 0, "use at most `N` threads (0: all cores)")
	f.BoolVar(&app.JSON, "json", false, "print one JSON value, and nothing else, on stdout")
	f.BoolVarP(&app.Verbose, "verbose", "v", false, "log more")
	f.BoolVar(&app.Offline, "offline", false, "look for named models in the cache only (as with HF_HUB_OFFLINE=1)")
	f.BoolVar(&app.Quiet, "quiet", false, "log errors only, no progress")
	f.StringVar(&app.HugePages, "huge-pages", "auto", "auto or off: keep large blocks of the CPU plugin's memory, in huge pages, from one execution to the next (Linux; faster, same bits)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if hint := hint(cmd, err); hint != "" {
			return fault.Usagef("%s; %s", err, hint)
		}
		return fault.Usagef("%s; see %s --help", plain(err), cmd.CommandPath())
	})
	for _, c := range commands {
		cmd := c(app)
		root.AddCommand(cmd)
	}
	strict(root)
	complete(root)
	return root
}

// strict makes cobra's own commands refuse what they do not know: they would print
// some help with status 0.
func strict(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args = noCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				topic, rest, err := root.Find(args)
				if err != nil || len(rest) == 0 || !topic.HasSubCommands() {
					return err
				}
				return topic.ValidateArgs(rest)
			}
		}
	}
}

// Command is the whole command tree, from which man pages and completions are made.
func Command() *cobra.Command { return newRoot(&App{}) }

// noCommand checks the arguments of a command that has only subcommands: any argument
// is a subcommand that does not exist.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	near := ""
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		near = "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return fault.Usagef("unknown command %q for %q%s; %s --help lists them", args[0], cmd.CommandPath(), near, cmd.CommandPath())
}

// notEmpty refuses an empty argument, and an empty model or data, as that of a variable
// that is not set: joined to the name of a file it would mean the current folder. An
// empty text is a text, and a shell that completes a word may have none yet.
func notEmpty(cmd *cobra.Command, args []string) (err error) {
	if i := slices.Index(args, ""); i >= 0 && !slices.Contains([]string{"tokenize", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}, cmd.Name()) {
		return fault.Usagef("argument %d of %s is empty; see %s --help", i+1, cmd.CommandPath(), cmd.CommandPath())
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		given := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			given = list.GetSlice()
		}
		if (f.Name == "model" || f.Name == "data") && slices.Contains(given, "") {
			err = fault.Usagef("--%s is empty; see %s --help", f.Name, cmd.CommandPath())
		}
	})
	return err
}

// plain says what is wrong with a flag's value without naming Go's functions.
func plain(err error) string {
	var bad *pflag.InvalidValueError
	var number *strconv.NumError
	if !errors.As(err, &bad) || !errors.As(err, &number) {
		return err.Error()
	}
	want := map[string]string{"ParseInt": "a whole number", "ParseUint": "a whole number of 0 or more", "ParseFloat": "a number", "ParseBool": "true or false"}[number.Func]
	if want == "" || errors.Is(err, strconv.ErrRange) {
		return fmt.Sprintf("--%s %q: %s", bad.GetFlag().Name, bad.GetValue(), number.Err)
	}
	return fmt.Sprintf("--%s %q: want %s", bad.GetFlag().Name, bad.GetValue(), want)
}

// Main runs the command line and returns the exit status. It prints any error
// as one line on stderr.
func Main(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) (code int) {
	stdout := &output{w: out}
	screen := runlog.NewScreen(errw)
	app := &App{In: in, Out: stdout, Err: screen, screen: screen, Log: runlog.NewLogger(screen, false, false), args: args}
	root := newRoot(app)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err = stdout.result(err); err == nil {
		return 0
	}
	var other interface{ Said() bool }
	if errors.As(err, &other) && other.Said() { // another process of the job reports it
		return fault.Code(err)
	}
	// A command stopped by Ctrl-C may report the call that was interrupted.
	if ctx.Err() != nil {
		what := strings.TrimSuffix(strings.TrimSuffix(flagged(cmd, fault.Line(err)), "context canceled"), ": ")
		fmt.Fprintln(errw, strings.TrimSuffix("evatool: interrupted: "+what, ": "))
		return int(fault.Interrupted)
	}
	err = usageOf(cmd, err)
	fmt.Fprintln(errw, "evatool:", flagged(cmd, fault.Line(err)))
	return fault.Code(err)
}

// usageOf gives cobra's own errors (unknown command, missing argument) the usage
// status and a next step. Unlike our errors they carry no kind.
func usageOf(cmd *cobra.Command, err error) error {
	var e *fault.Error
	if errors.As(err, &e) {
		return err
	}
	s := err.Error()
	for _, p := range []string{"unknown command", "unknown flag", "accepts ", "requires ", "required flag", "invalid argument", "if any flags in the group", "at least one of the flags"} {
		if strings.HasPrefix(s, p) {
			return fault.Usagef("%w; see %s --help", err, cmd.CommandPath())
		}
	}
	return err
}
