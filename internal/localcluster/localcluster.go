// Package localcluster runs a whole cluster on one machine, each node a process
// of its own on loopback. `quorate dev` is made of it, and so are the tests that
// kill real processes.
package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options describe a cluster. Ports count up from the first: node i (from 1)
// has HTTPPort+i-1 and PeerPort+i-1; who adds nodes leaves room between them.
type Options struct {
	Binary            string // the quorate binary
	Nodes             int    // that found the cluster; Add adds more
	HTTPPort          int
	PeerPort          int
	DataDir           string // one folder per node below it
	Shards            int
	ReplicationFactor int
	Zones             []string // zone of node i is Zones[(i-1) % len]; empty = none
	HTTPS             bool     // the nodes serve clients over HTTPS, by what ExtraArgs say
	ExtraArgs         []string // appended to every `serve`
	// NodeArgs gives what is appended to the `serve` of node i alone; nil = nothing.
	NodeArgs func(i int) []string
}

// Cluster is a set of processes. Its methods are safe for concurrent use.
type Cluster struct {
	opts Options

	mu      sync.Mutex
	nodes   []*process   // newest life of each node, nil if it never ran; index i-1
	extra   [][]string   // arguments of each node alone; index i-1
	retired map[int]bool // nodes that are no more started or waited for, by i
}

// process is one life of one node.
type process struct {
	cmd      *exec.Cmd
	lifeline io.Closer // closing it tells the child that its parent is gone
	logFile  *os.File
	done     chan struct{} // closed when the process has been waited for
	err      error         // valid after done
}

// New describes a cluster and starts nothing.
func New(opts Options) *Cluster {
	return &Cluster{opts: opts, nodes: make([]*process, opts.Nodes), extra: make([][]string, opts.Nodes), retired: map[int]bool{}}
}

// Add describes one more node, which joins by the addresses of the founders, and
// gives its number. It starts nothing. extra is appended to its command line.
func (c *Cluster) Add(extra ...string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, nil)
	c.extra = append(c.extra, extra)
	return len(c.nodes)
}

// Retire takes node i out: it is not started with the others and not waited for. Its
// number is not used again.
func (c *Cluster) Retire(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired[i] = true
}

// Retired tells whether node i was taken out.
func (c *Cluster) Retired(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired[i]
}

// Founders gives how many nodes found the cluster.
func (c *Cluster) Founders() int { return c.opts.Nodes }

// Count gives how many nodes are described, retired ones too: the highest number.
func (c *Cluster) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.nodes)
}

// HTTPAddress gives host:port of node i, from 1.
func (c *Cluster) HTTPAddress(i int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.opts.HTTPPort+i-1))
}

// Endpoint gives the base URL of node i, from 1.
func (c *Cluster) Endpoint(i int) string {
	if c.opts.HTTPS {
		return "https://" + c.HTTPAddress(i)
	}
	return "http://" + c.HTTPAddress(i)
}

// Endpoints gives the base URLs of all nodes that are not retired.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for i := 1; i <= c.Count(); i++ {
		if !c.Retired(i) {
			urls = append(urls, c.Endpoint(i))
		}
	}
	return urls
}

// PeerAddress gives host:port where node i listens for other nodes.
func (c *Cluster) PeerAddress(i int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.opts.PeerPort+i-1))
}

// Name gives the name of node i.
func Name(i int) string { return "node" + strconv.Itoa(i) }

// LogPath gives the file that node i's log goes to.
func (c *Cluster) LogPath(i int) string { return filepath.Join(c.opts.DataDir, Name(i)+".log") }

// Args gives the command line of node i, without the binary.
func (c *Cluster) Args(i int) []string {
	join := make([]string, c.opts.Nodes)
	for k := range join {
		join[k] = c.PeerAddress(k + 1)
	}
	args := []string{
		"serve",
		"--name", Name(i),
		"--data-dir", filepath.Join(c.opts.DataDir, Name(i)),
		"--http-listen", c.HTTPAddress(i),
		"--peer-listen", c.PeerAddress(i),
		"--join", strings.Join(join, ","),
		"--expect", strconv.Itoa(c.opts.Nodes),
		"--shards", strconv.Itoa(c.opts.Shards),
		"--replication-factor", strconv.Itoa(c.opts.ReplicationFactor),
	}
	if n := len(c.opts.Zones); n > 0 {
		args = append(args, "--zone", c.opts.Zones[(i-1)%n])
	}
	args = append(args, c.opts.ExtraArgs...)
	if c.opts.NodeArgs != nil {
		args = append(args, c.opts.NodeArgs(i)...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(args, c.extra[i-1]...)
}

// Start starts node i. It is an error if it runs already.
func (c *Cluster) Start(i int) error {
	args := append(c.Args(i), "--stop-with-stdin")
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.nodes[i-1]; p != nil && !p.exited() {
		return fmt.Errorf("%s runs already, pid %d", Name(i), p.cmd.Process.Pid)
	}
	if err := os.MkdirAll(filepath.Join(c.opts.DataDir, Name(i)), 0o700); err != nil {
		return err
	}
	logFile, err := os.OpenFile(c.LogPath(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(c.opts.Binary, args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// A group of its own: Ctrl-C in the terminal reaches the parent only, which
	// then stops the nodes in good order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	lifeline, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", Name(i), err), logFile.Close())
	}
	p := &process{cmd: cmd, lifeline: lifeline, logFile: logFile, done: make(chan struct{})}
	c.nodes[i-1] = p
	go p.wait()
	return nil
}

func (p *process) wait() {
	p.err = errors.Join(p.cmd.Wait(), p.logFile.Close())
	close(p.done)
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// endedBy reports whether a signal has ended the process, which has been waited for.
func (p *process) endedBy(sig syscall.Signal) bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == sig
}

// StartAll starts every node that does not run and is not retired.
func (c *Cluster) StartAll() error {
	for i := 1; i <= c.Count(); i++ {
		if c.Running(i) || c.Retired(i) {
			continue
		}
		if err := c.Start(i); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) process(i int) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i-1]
}

// Running tells whether node i's process is there.
func (c *Cluster) Running(i int) bool {
	p := c.process(i)
	return p != nil && !p.exited()
}

// PID gives the process id of node i's newest life, 0 if it never ran.
func (c *Cluster) PID(i int) int {
	if p := c.process(i); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Done gives a channel that is closed when node i's current life has ended, nil
// if it never ran.
func (c *Cluster) Done(i int) <-chan struct{} {
	if p := c.process(i); p != nil {
		return p.done
	}
	return nil
}

// ExitError gives how node i's last life ended, nil for a clean end or while
// it runs.
func (c *Cluster) ExitError(i int) error {
	if p := c.process(i); p != nil && p.exited() {
		return p.err
	}
	return nil
}

// Signal sends a signal to node i.
func (c *Cluster) Signal(i int, sig os.Signal) error {
	p := c.process(i)
	if p == nil || p.exited() {
		return fmt.Errorf("%s does not run", Name(i))
	}
	return p.cmd.Process.Signal(sig)
}

// Kill ends node i as a crash would (SIGKILL) and waits until it is gone.
func (c *Cluster) Kill(i int) error {
	if err := c.Signal(i, os.Kill); err != nil {
		return err
	}
	<-c.Done(i)
	return nil
}

// Stop ends node i in good order (SIGTERM), or by SIGKILL when ctx ends first.
func (c *Cluster) Stop(ctx context.Context, i int) error {
	p := c.process(i)
	if p == nil || p.exited() {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		if p.endedBy(syscall.SIGTERM) {
			return nil // it had not come so far as to listen to signals, nor to write anything
		}
		return p.err
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop in time and was killed: %w", Name(i), ctx.Err())
	}
}

// StopAll stops all nodes side by side and returns when none runs.
func (c *Cluster) StopAll(ctx context.Context) error {
	errs := make([]error, c.Count())
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = c.Stop(ctx, i+1) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// LogTail gives the last lines of node i's log, for error messages.
func (c *Cluster) LogTail(i, lines int) string {
	data, err := os.ReadFile(c.LogPath(i))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Poll calls ready every interval until it says yes, ctx ends, or a node dies. When ctx
// ends, the error says what ready said last before.
func (c *Cluster) Poll(ctx context.Context, interval time.Duration, ready func(context.Context) error) error {
	return poll(ctx, interval, ready, func() error {
		for i := 1; i <= c.Count(); i++ {
			if err := c.dead(i); err != nil && !c.Retired(i) {
				return err
			}
		}
		return nil
	})
}

// PollNode is Poll for who depends on node i alone.
func (c *Cluster) PollNode(ctx context.Context, i int, interval time.Duration, ready func(context.Context) error) error {
	return poll(ctx, interval, ready, func() error { return c.dead(i) })
}

// dead tells how node i died, nil if it has not.
func (c *Cluster) dead(i int) error {
	if p := c.process(i); p != nil && p.exited() {
		return fmt.Errorf("%s ended (%v); its last lines:\n%s", Name(i), p.err, c.LogTail(i, 15))
	}
	return nil
}

func poll(ctx context.Context, interval time.Duration, ready func(context.Context) error, dead func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // or else it says no more than that time is up
			last = err
		}
		if err := dead(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		}
	}
}
