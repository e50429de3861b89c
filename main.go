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
	// A reader that goes away is an error of the write, not the end of the
	// process in the middle of its work.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// interrupts are the signals that ask evatool to stop. Clusters send SIGUSR1
// ahead of the end of a job's time; mpirun passes it on to all processes. One that was ignored
// when it was started stays ignored: SIGHUP under nohup, SIGINT in a script's
// background.
func interrupts() (list []os.Signal) {
	for _, s := range stopSignals {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}
