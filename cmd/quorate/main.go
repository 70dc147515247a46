// Command quorate is the whole of Quorate in one binary: the server, a local
// cluster, the command line and the benchmark.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// release is the version of this binary; the linker sets it.
var release = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the second one kills, should stopping take too long.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, os.LookupEnv)
	stop()
	os.Exit(code)
}
