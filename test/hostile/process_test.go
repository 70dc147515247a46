//go:build blackbox

package hostile

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/proc"
)

// An army is a process of its own: this test's binary, run again with its orders in the
// environment. It says that it is ready, begins when it is told to, and writes its
// report when it has ended; it ends at once when its parent does.
const (
	ordersIn = "QUORATE_HOSTILE_ORDERS"
	classIn  = "QUORATE_HOSTILE_CLASS" // the scheduling class, once it has one
)

// orders are what an army is to do.
type orders struct {
	Kind       int // among kinds
	HTTP, Peer []string
	Lasts      time.Duration // at least
	LastsMax   time.Duration // until there were enough strikes, and an answer
}

// report is what it did.
type report struct {
	Strikes  int64
	Statuses map[int]int
	Took     time.Duration
	Class    string // how its threads were scheduled
	Above    int    // threads that were not
}

// obey is the main function of an army's process.
func obey(text string) error {
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	class := os.Getenv(classIn)
	if class == "" {
		return yieldAndRunAgain()
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(1)
	}()
	a := newArmy(o)
	begin := time.Now()
	a.fight(kinds[o.Kind])
	r := report{Strikes: a.strikes.Load(), Took: time.Since(begin), Class: class}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Statuses = a.statuses
	var err error
	if r.Above, err = threadsAbove(class); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// camp is an army's process, seen from the test.
type camp struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// muster starts the army of a kind; it waits for its order to begin.
func muster(t *testing.T, c *proc.Cluster, number int) *camp {
	t.Helper()
	o := orders{Kind: number, Lasts: duration(t), LastsMax: duration(t) + enoughMax}
	for i := 1; i <= c.Size; i++ {
		o.HTTP, o.Peer = append(o.HTTP, c.HTTPAddress(i)), append(o.Peer, c.PeerAddress(i))
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &camp{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), ordersIn+"="+string(text))
	p.cmd.Stderr = os.Stderr
	// In the nodes' session it would be below them, but not below the kernel's threads,
	// which the nodes' disk writes wait for.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	t.Cleanup(func() { _ = in.Close() })
	if line, err := p.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("an army says %q: %v", line, errors.Join(err, p.end()))
	}
	return p
}

// fight lets it begin, and waits for its report.
func (p *camp) fight() (report, error) {
	var r report
	if _, err := io.WriteString(p.in, "go\n"); err != nil {
		return r, err
	}
	if err := json.NewDecoder(p.out).Decode(&r); err != nil {
		return r, errors.Join(err, p.end())
	}
	return r, p.end()
}

// end waits for the process, which ends by itself, or because nobody speaks to it.
func (p *camp) end() error { return p.cmd.Wait() }

// answers gives how many there were of each status.
func (r *report) answers() string { return strings.TrimPrefix(fmt.Sprint(r.Statuses), "map") }
