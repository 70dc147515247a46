package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
	"github.com/quorate-db/quorate/raftnode/raftlog"
)

// nullMachine answers and keeps nothing, so that what is measured is this package.
type nullMachine struct {
	mu      sync.Mutex
	applied kv.Applied
}

func (m *nullMachine) Apply(entries []kv.Entry) ([]kv.EntryResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	results := make([]kv.EntryResult, len(entries))
	a := &m.applied
	for i, e := range entries {
		a.Index, a.Term = e.Index, e.Term
		switch {
		case e.Config != nil:
			a.Config, a.ConfigIndex = e.Config, e.Index
		case e.Stale():
			results[i].Rejected = true
		default:
			if len(e.Commands) == 0 {
				a.LastVersion = max(a.LastVersion, a.Ceiling)
			} else {
				a.LastVersion = e.Stamp.Version + kv.Version(len(e.Commands)) - 1
			}
			a.Ceiling = max(a.Ceiling, e.Stamp.Ceiling)
			results[i].Results = make([][]byte, len(e.Commands))
		}
	}
	return results, nil
}

func (m *nullMachine) Applied() kv.Applied {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied
}
func (m *nullMachine) Flush() error { return nil }
func (m *nullMachine) Image() (Image, error) {
	return &testImage{applied: m.Applied()}, nil
}

// benchCluster is three hosts in this process, joined by TCP over loopback, with
// their logs on the real disk or in memory.
type benchCluster struct {
	hosts []*Host
	stop  func()
}

func newBenchCluster(b *testing.B, shards int, onDisk bool) *benchCluster {
	b.Helper()
	c := &benchCluster{}
	var stops []func()
	var listeners []net.Listener
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	for i := range 3 {
		mesh, err := peer.New(peer.Options{
			Self: kv.NodeID(i + 1), ClusterID: func() string { return "bench" }, Listener: listeners[i],
			Directory: func(id kv.NodeID) (string, bool) { return listeners[id-1].Addr().String(), true },
		})
		if err != nil {
			b.Fatal(err)
		}
		fs, dir := vfs.FS(vfs.NewMem()), "log"
		if onDisk {
			fs, dir = vfs.Default, b.TempDir()
		}
		shared, err := raftlog.OpenShared(fs, dir, raftlog.Options{})
		if err != nil {
			b.Fatal(err)
		}
		host, err := Open(context.Background(), Options{
			Node: kv.NodeID(i + 1), Dir: dir + "/raft", FS: fs, Mesh: mesh, Logs: NewNodeLogs(shared, dir),
			Machine: func(Record) (StateMachine, error) { return &benchMachine{}, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := mesh.Start(); err != nil {
			b.Fatal(err)
		}
		c.hosts = append(c.hosts, host)
		stops = append(stops, func() {
			ctx, cancel := within(20 * time.Second)
			defer cancel()
			if err := host.Close(ctx); err != nil {
				b.Error(err)
			}
			mesh.Close()
			if err := shared.Close(); err != nil {
				b.Error(err)
			}
		})
	}
	c.stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for s := range shards {
		var members []kv.Member
		for n := range 3 {
			members = append(members, kv.Member{ID: kv.ServerID{Node: kv.NodeID(n + 1), Shard: kv.ShardID(s + 2), Incarnation: 1}, Voter: true})
		}
		for n, h := range c.hosts {
			if err := h.Create(context.Background(), Record{ID: members[n].ID, Kind: Durable, Log: SharedLog, Members: members}); err != nil {
				b.Fatal(err)
			}
		}
	}
	return c
}

// benchMachine is nullMachine with the rest of the interface.
type benchMachine struct{ nullMachine }

func (m *benchMachine) Stage(io.Reader) (Staged, error) { return nil, errors.ErrUnsupported }

// leaders waits until every shard has one.
func (c *benchCluster) leaders(shards int) []*Replica {
	all := make([]*Replica, 0, shards)
	for s := range shards {
		for found := false; !found; <-time.After(10 * time.Millisecond) {
			for _, h := range c.hosts {
				if r, ok := h.Replica(kv.ShardID(s + 2)); ok && r.Status().LeaderReady {
					all, found = append(all, r), true
					break
				}
			}
		}
	}
	return all
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (c *benchCluster) run(b *testing.B, clients int, replicas []*Replica, op func(*Replica) error) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	start := cpuTime()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := op(replicas[rand.IntN(len(replicas))]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkPropose(b *testing.B) {
	value := make([]byte, 120)
	for _, onDisk := range []bool{false, true} {
		for _, shards := range []int{1, 16} {
			for _, clients := range []int{1, 64, 512} {
				b.Run(fmt.Sprintf("disk=%t/shards=%d/clients=%d", onDisk, shards, clients), func(b *testing.B) {
					c := newBenchCluster(b, shards, onDisk)
					defer c.stop()
					c.run(b, clients, c.leaders(shards), func(r *Replica) error {
						ctx, cancel := within(10 * time.Second)
						defer cancel()
						_, err := r.Propose(ctx, value, 1)
						return err
					})
				})
			}
		}
	}
}

func BenchmarkReadIndex(b *testing.B) {
	for _, at := range []string{"leader", "anywhere"} {
		for _, shards := range []int{1, 16} {
			for _, clients := range []int{1, 64, 512} {
				b.Run(fmt.Sprintf("%s/shards=%d/clients=%d", at, shards, clients), func(b *testing.B) {
					c := newBenchCluster(b, shards, false)
					defer c.stop()
					replicas := c.leaders(shards)
					if at == "anywhere" {
						replicas = nil
						for _, h := range c.hosts {
							replicas = append(replicas, h.Replicas()...)
						}
					}
					c.run(b, clients, replicas, func(r *Replica) error {
						ctx, cancel := within(10 * time.Second)
						defer cancel()
						return r.ReadIndex(ctx)
					})
				})
			}
		}
	}
}

// BenchmarkIdle reports what three nodes with 16 shards cost while nothing
// happens, in per cent of a core per node.
func BenchmarkIdle(b *testing.B) {
	c := newBenchCluster(b, 16, false)
	defer c.stop()
	c.leaders(16)
	<-time.After(2 * time.Second)
	start, began := cpuTime(), time.Now()
	<-time.After(5 * time.Second)
	b.ReportMetric(100*float64(cpuTime()-start)/float64(time.Since(began))/3, "%core/node")
}
