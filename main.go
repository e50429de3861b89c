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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
