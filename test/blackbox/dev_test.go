//go:build blackbox

package blackbox

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/proc"
)

// devRun is one run of `quorate dev`.
type devRun struct {
	cmd   *exec.Cmd
	port  int
	lines chan string // of standard output; closed at its end
	pids  []int       // of the nodes, as the table says
	temp  string      // its TMPDIR
	https bool        // it was started with --tls

	mu     sync.Mutex
	stderr bytes.Buffer
}

// Write takes what dev says.
func (d *devRun) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.Write(p)
}

func (d *devRun) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.String()
}

// devPeerOffset lies between HTTP and peer ports of dev.
const devPeerOffset = 100

// startDev starts `quorate dev` in a process group of its own, as a shell does.
func startDev(t *testing.T, port int, args ...string) *devRun {
	t.Helper()
	d := &devRun{port: port, lines: make(chan string, 64), temp: t.TempDir(), https: slices.Contains(args, "--tls")}
	d.cmd = exec.Command(binary(t), append([]string{"dev", "--port", strconv.Itoa(port)}, args...)...)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.temp)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.cmd.Stderr = d
	d.cmd.WaitDelay = 5 * time.Second
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		for _, pid := range d.pids {
			if proc.Alive(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	go func() {
		defer close(d.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			d.lines <- s.Text()
		}
	}()
	return d
}

var devRow = regexp.MustCompile(`^node(\d+) +(\d+) +https?://127\.0\.0\.1:(\d+) +\S+/node(\d+)\.log$`)

// waitReady reads the table and the line that says that the cluster is ready, and
// holds both to their form.
func (d *devRun) waitReady(t *testing.T, nodes, shards, factor int) {
	t.Helper()
	timeout := time.NewTimer(proc.WaitMax)
	defer timeout.Stop()
	want := fmt.Sprintf("cluster ready: %d nodes, %d shards, replication factor %d, %s", nodes, shards, factor, d.url(1, ""))
	var read []string
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				t.Fatalf("dev ended:\n%s\n%s", strings.Join(read, "\n"), d.said())
			}
			read = append(read, line)
			if m := devRow.FindStringSubmatch(line); m != nil {
				pid, _ := strconv.Atoi(m[2])
				d.pids = append(d.pids, pid)
				if port := strconv.Itoa(d.port + len(d.pids) - 1); m[1] != m[4] || m[3] != port {
					t.Errorf("row %q, want port %s", line, port)
				}
			}
			if !strings.HasPrefix(line, "cluster ready") {
				continue
			}
			if line != want {
				t.Errorf("dev says %q, want %q", line, want)
			}
			if len(d.pids) != nodes {
				t.Errorf("a table of %d nodes, want %d:\n%s", len(d.pids), nodes, strings.Join(read, "\n"))
			}
			return
		case <-timeout.C:
			t.Fatalf("dev not ready:\n%s\n%s", strings.Join(read, "\n"), d.said())
		}
	}
}

// wait gives dev's exit code and holds it to have left no process behind.
func (d *devRun) wait(t *testing.T) int {
	t.Helper()
	done := make(chan struct{})
	go func() {
		for range d.lines { // or else Wait could close the pipe before all was read
		}
		_ = d.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(proc.WaitMax):
		t.Fatalf("dev does not end:\n%s", d.said())
	}
	for _, pid := range d.pids {
		if proc.Alive(pid) {
			t.Errorf("node with pid %d has outlived dev", pid)
		}
	}
	return d.cmd.ProcessState.ExitCode()
}

func (d *devRun) url(node int, path string) string {
	scheme := "http"
	if d.https {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, d.port+node-1, path)
}

// TestDev runs the default cluster, and ends it as Ctrl-C does: the whole
// foreground process group gets SIGINT.
func TestDev(t *testing.T) {
	d := startDev(t, proc.FreePorts(t, 5, devPeerOffset))
	d.waitReady(t, 5, 8, 3)
	for node := 1; node <= 5; node++ {
		if a := proc.MustDo(t, http.MethodGet, d.url(node, "/readyz"), "", limit); a.Status != http.StatusOK {
			t.Errorf("node %d: %d %s", node, a.Status, a.Body)
		}
	}
	if a := proc.MustDo(t, http.MethodPut, d.url(3, "/v1/kv/any/key"), "v", limit); a.Status != http.StatusCreated {
		t.Errorf("PUT: %d %s", a.Status, a.Body)
	}
	testDevDeath(t, d)
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(t); code != 0 {
		t.Errorf("exit code %d after Ctrl-C:\n%s", code, d.said())
	}
	if left, err := os.ReadDir(d.temp); err != nil || len(left) > 0 {
		t.Errorf("temporary data is left: %v %v", left, err)
	}
}

var devRestart = regexp.MustCompile(`Start it again with:\n  (.*)\n`)

// testDevDeath kills a node and starts it again with the command that dev names.
func testDevDeath(t *testing.T, d *devRun) {
	if err := syscall.Kill(d.pids[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var command string
	proc.Eventually(t, proc.WaitMax, "dev tells of the death", func(context.Context) error {
		m := devRestart.FindStringSubmatch(d.said())
		if m == nil {
			return fmt.Errorf("%q", d.said())
		}
		command = m[1]
		return nil
	})
	if a := proc.MustDo(t, http.MethodGet, d.url(1, "/v1/kv/any/key"), "", limit); a.Status != http.StatusOK {
		t.Errorf("GET with a node down: %d %s", a.Status, a.Body)
	}
	again := exec.Command("sh", "-c", "exec "+command)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = again.Process.Signal(syscall.SIGTERM)
		if err := again.Wait(); err != nil {
			t.Errorf("the node that was started again: %v", err)
		}
	}()
	proc.Eventually(t, proc.WaitMax, "node started again", func(ctx context.Context) error {
		a, err := proc.Do(ctx, http.MethodGet, d.url(2, "/readyz"), "", limit)
		if err == nil && a.Status != http.StatusOK {
			err = fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return err
	})
}

// TestDevKeepsData starts dev twice on one folder; SIGTERM ends it.
func TestDevKeepsData(t *testing.T) {
	dir, port := t.TempDir(), proc.FreePorts(t, 3, devPeerOffset)
	for round := range 2 {
		d := startDev(t, port, "--nodes", "3", "--shards", "4", "--data-dir", dir)
		d.waitReady(t, 3, 4, 3)
		key := d.url(2, "/v1/kv/kept")
		if round == 1 {
			if a := proc.MustDo(t, http.MethodGet, key, "", limit); a.Status != http.StatusOK || a.Body != "v" {
				t.Errorf("GET after the second start: %d %q", a.Status, a.Body)
			}
		} else if a := proc.MustDo(t, http.MethodPut, key, "v", limit); a.Status != http.StatusCreated {
			t.Errorf("PUT: %d %s", a.Status, a.Body)
		}
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := d.wait(t); code != 0 {
			t.Errorf("exit code %d after SIGTERM:\n%s", code, d.said())
		}
	}
}

// TestDevKilled kills dev itself, which then cannot stop anybody: its nodes have to
// notice. It serves HTTPS meanwhile, and says how to trust that.
func TestDevKilled(t *testing.T) {
	d := startDev(t, proc.FreePorts(t, 1, devPeerOffset), "--nodes", "1", "--shards", "1", "--tls")
	d.waitReady(t, 1, 1, 1)
	testDevTrust(t, d)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	proc.Eventually(t, proc.WaitMax, "nodes end", func(context.Context) error {
		for _, pid := range d.pids {
			if proc.Alive(pid) {
				return fmt.Errorf("pid %d is alive", pid)
			}
		}
		return nil
	})
}

var devCert = regexp.MustCompile(`quorate (cert .*) > ca\.pem\n`)

// testDevTrust does what dev says to be trusted.
func testDevTrust(t *testing.T, d *devRun) {
	proc.Eventually(t, proc.WaitMax, "dev says how to trust it", func(context.Context) error {
		if !devCert.MatchString(d.said()) {
			return fmt.Errorf("%q", d.said())
		}
		return nil
	})
	f := proc.Run(t, binary(t), "", strings.Fields(devCert.FindStringSubmatch(d.said())[1])...)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(f.Stdout), 0o600); err != nil || f.Code != 0 {
		t.Fatalf("%+v, %v", f, err)
	}
	if f := proc.Run(t, binary(t), "", "health", "--endpoint", d.url(1, ""), "--ca-file", ca); f.Code != 0 {
		t.Errorf("health: %+v", f)
	}
}

// TestDevStoppedEarly ends dev before it is ready.
func TestDevStoppedEarly(t *testing.T) {
	d := startDev(t, proc.FreePorts(t, 3, devPeerOffset), "--nodes", "3")
	<-d.lines // the heading of the table: all processes are started
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, d.said())
	}
	if left, err := os.ReadDir(d.temp); err != nil || len(left) > 0 {
		t.Errorf("temporary data is left: %v %v", left, err)
	}
}

func TestDevUsage(t *testing.T) {
	for _, test := range [][]string{
		{"--nodes", "0"}, {"--nodes", "51"}, {"--nodes", "x"}, {"--port", "0"}, {"--port", "65500"},
		{"--shards", "0"}, {"--shards", "-1"}, {"--shards", "100000"}, {"--nodes", "2", "--replication-factor", "3"},
		{"--replication-factor", "-1"}, {"--tls", "--insecure"}, {"--no-such-flag"}, {"word"},
	} {
		t.Run(strings.Join(test, " "), func(t *testing.T) {
			got := proc.Run(t, binary(t), "", append([]string{"dev", "--port", "1"}, test...)...)
			if got.Code != 2 || got.Stdout != "" || !strings.Contains(got.Stderr, "quorate: ") {
				t.Errorf("exit code %d, want 2\nstdout: %s\nstderr: %s", got.Code, got.Stdout, got.Stderr)
			}
		})
	}
}

// TestDevPortInUse takes a port that dev needs.
func TestDevPortInUse(t *testing.T) {
	port := proc.FreePorts(t, 3, devPeerOffset)
	for _, taken := range []int{port + 1, port + devPeerOffset + 2} {
		t.Run(strconv.Itoa(taken), func(t *testing.T) {
			address := fmt.Sprintf("127.0.0.1:%d", taken)
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			d := startDev(t, port, "--nodes", "3")
			if code := d.wait(t); code != 1 || !strings.Contains(d.said(), address) || !strings.Contains(d.said(), "address already in use") {
				t.Errorf("exit code %d, want 1 and %s named:\n%s", code, address, d.said())
			}
		})
	}
}

// TestDevAddNode adds a node to a running dev, which stops it with the others and
// starts it again with them.
func TestDevAddNode(t *testing.T) {
	port := proc.FreePorts(t, 4, devPeerOffset)
	dir := t.TempDir()
	for round := range 2 {
		d := startDev(t, port, "--nodes", "3", "--shards", "1", "--data-dir", dir)
		nodes := 3 + round
		d.waitReady(t, nodes, 1, 3)
		if round == 0 {
			d.addNode(t, 4)
		}
		if a := proc.MustDo(t, http.MethodGet, d.url(4, "/readyz"), "", limit); a.Status != http.StatusOK {
			t.Errorf("node 4: %d %s", a.Status, a.Body)
		}
		if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if code := d.wait(t); code != 0 {
			t.Errorf("exit code %d:\n%s", code, d.said())
		}
		for _, pid := range d.pids {
			if proc.Alive(pid) {
				t.Errorf("pid %d is alive", pid)
			}
		}
	}
}
