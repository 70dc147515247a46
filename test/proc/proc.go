// Package proc helps tests that run Quorate as a person does: the built binary,
// free ports, whole clusters of real processes, and plain HTTP.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// WaitMax is how long a test waits for something that takes a second or two on a
// quiet machine.
const WaitMax = 60 * time.Second

// Root gives the repository's top folder.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("find the module: %v", err)
	}
	return filepath.Dir(string(bytes.TrimSpace(out)))
}

// Builder builds the binary once for all tests of a package. Its zero value is ready.
type Builder struct {
	once sync.Once
	path string
	err  error
}

// Binary gives the quorate binary to test: that of QUORATE_BINARY if it is set, or
// else one that is built now. static builds without cgo, for images.
func (b *Builder) Binary(t testing.TB, static bool) string {
	t.Helper()
	b.once.Do(func() { b.path, b.err = build(Root(t), static) })
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// Remove removes what was built.
func (b *Builder) Remove() {
	if b.path != "" && b.path != os.Getenv("QUORATE_BINARY") {
		_ = os.RemoveAll(filepath.Dir(b.path))
	}
}

func build(root string, static bool) (string, error) {
	if path := os.Getenv("QUORATE_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	dir, err := os.MkdirTemp("", "quorate-test-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "quorate")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/quorate")
	cmd.Dir = root
	if static {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return path, nil
}

// Ports of tests lie below those that the kernel gives to outgoing connections, or
// else such a connection may take one between the choice and its use.
const (
	portFirst = 12000
	portLast  = 31000
)

// ports hands out every port at most once in a process.
type ports struct {
	mu   sync.Mutex
	next int
}

var portSource ports

// FreePorts gives the first of n consecutive ports on which nobody listens, such
// that n more from offset above it are free too; offset 0 asks for no others.
func FreePorts(t testing.TB, n, offset int) int {
	t.Helper()
	portSource.mu.Lock()
	defer portSource.mu.Unlock()
	span := n + offset
	if portSource.next == 0 {
		// Test binaries that run side by side begin at different places.
		portSource.next = portFirst + os.Getpid()*131%(portLast-portFirst)
	}
	for range 1000 {
		if portSource.next+span > portLast {
			portSource.next = portFirst
		}
		first := portSource.next
		portSource.next += span
		if free(first, n) && (offset == 0 || free(first+offset, n)) {
			return first
		}
	}
	t.Fatalf("no %d consecutive free ports between %d and %d", n, portFirst, portLast)
	return 0
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// Eventually waits until check gives nil, and ends the test with its last error if
// that takes longer than limit.
func Eventually(t testing.TB, limit time.Duration, what string, check func(ctx context.Context) error) {
	t.Helper()
	if err := Await(t.Context(), limit, check); err != nil {
		t.Fatalf("%s: not within %s: %v", what, limit, err)
	}
}

// pollEvery is how often Await looks.
const pollEvery = 50 * time.Millisecond

// Await is Eventually for those who go on after a failure.
func Await(ctx context.Context, limit time.Duration, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var before error
	for {
		err := check(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && before != nil:
			return fmt.Errorf("%w; before: %w", err, before) // the last try was cut off
		}
		before = err
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Alive tells whether a process exists, a zombie not counting.
func Alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	// "pid (name) state …"; the name may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	return i < 0 || i+2 >= len(stat) || stat[i+2] != 'Z'
}

// Finished is what a command left behind.
type Finished struct {
	Code   int
	Stdout string
	Stderr string
}

// Run runs the binary to its end.
func Run(t testing.TB, binary, stdin string, args ...string) Finished {
	t.Helper()
	return RunFor(t, WaitMax, binary, stdin, args...)
}

// RunFor is Run for what may take longer.
func RunFor(t testing.TB, limit time.Duration, binary, stdin string, args ...string) Finished {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewBufferString(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("quorate %v: %v %v\n%s", args, err, ctx.Err(), stderr.String())
	}
	return Finished{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}
