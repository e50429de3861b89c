// Evatool turns published CLIP checkpoints into safe weights, a zero-shot
// number one can trust, and a better model.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/evatool/evatool/internal/cli"
)

func main() {
	ctx, stop := context.Background(), func() {}
	if asked := interrupts(); len(asked) > 0 {
		ctx, stop = signal.NotifyContext(ctx, asked...)
	}
	// If the reader of a pipe goes away, the write fails, but the process does not
	// end in the middle of its work.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// interrupts are the signals that ask evatool to stop. Clusters send SIGUSR1
// before a job's time runs out, and mpirun passes it on to all processes. A
// signal that was ignored at the start stays ignored: SIGHUP under nohup, SIGINT
// in the background of a script.
func interrupts() (list []os.Signal) {
	for _, s := range stopSignals {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}
