package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/bench"
	"github.com/quorate-db/quorate/internal/bench/quoratedriver"
	"github.com/quorate-db/quorate/internal/localcluster"
)

const (
	nodes        = 3
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// system is one database under test.
type system struct {
	name  string
	start func(ctx context.Context, dir string) (*running, error)
}

// benchDriver is a driver with an end.
type benchDriver interface {
	bench.Driver
	Close() error
}

// running is a system's three processes and a way in.
type running struct {
	driver benchDriver
	pids   []int
	stop   func() error
}

// quorate gives Quorate with a number of shards.
func quorate(binary string, shards int, args ...string) system {
	name := fmt.Sprintf("quorate, %d shard", shards)
	if shards > 1 {
		name += "s"
	}
	return system{name, func(ctx context.Context, dir string) (*running, error) {
		ports, err := freePorts(2 * nodes)
		if err != nil {
			return nil, err
		}
		c := localcluster.New(localcluster.Options{
			Binary: binary, Nodes: nodes, HTTPPort: ports, PeerPort: ports + nodes, DataDir: dir,
			Shards: shards, ReplicationFactor: nodes, ExtraArgs: args,
		})
		stop := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
			defer cancel()
			return c.StopAll(ctx)
		}
		if err := startQuorate(ctx, c, shards); err != nil {
			return nil, fmt.Errorf("%w (stopping: %v)", err, stop())
		}
		d, err := quoratedriver.New(quoratedriver.Options{
			Endpoints: c.Endpoints(), Timeout: 10 * time.Second, RouteToLeader: true, Clients: bench.ClientsMax,
		})
		if err != nil {
			return nil, fmt.Errorf("%w (stopping: %v)", err, stop())
		}
		r := &running{driver: d, stop: func() error { return firstError(d.Close(), stop()) }}
		for i := 1; i <= nodes; i++ {
			r.pids = append(r.pids, c.PID(i))
		}
		return r, nil
	}}
}

func startQuorate(ctx context.Context, c *localcluster.Cluster, shards int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.StartAll(); err != nil {
		return err
	}
	api, err := client.New(client.Config{Endpoints: c.Endpoints()})
	if err != nil {
		return err
	}
	defer api.Close()
	return c.Poll(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		for _, endpoint := range c.Endpoints() {
			if err := api.Ready(ctx, endpoint); err != nil {
				return err
			}
		}
		sum, err := api.Cluster(ctx)
		if err == nil && sum.ShardsWithLeader < shards {
			err = fmt.Errorf("%d of %d shards have a leader", sum.ShardsWithLeader, shards)
		}
		return err
	})
}

// etcd gives etcd from a binary, whose clients share a connection or not.
func etcd(name, binary string, share bool) system {
	return system{name, func(ctx context.Context, dir string) (*running, error) {
		base, err := freePorts(2 * nodes)
		if err != nil {
			return nil, err
		}
		var peers []string
		for i := range nodes {
			peers = append(peers, fmt.Sprintf("n%d=http://127.0.0.1:%d", i, base+nodes+i))
		}
		var cmds []*exec.Cmd
		stop := func() error { return stopAll(cmds) }
		var endpoints []string
		for i := range nodes {
			url := fmt.Sprintf("http://127.0.0.1:%d", base+i)
			endpoints = append(endpoints, url)
			peer := fmt.Sprintf("http://127.0.0.1:%d", base+nodes+i)
			cmd := exec.Command(binary, "--name", "n"+strconv.Itoa(i), "--data-dir", filepath.Join(dir, "n"+strconv.Itoa(i)),
				"--listen-client-urls", url, "--advertise-client-urls", url,
				"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
				"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-state", "new")
			log, err := os.Create(filepath.Join(dir, fmt.Sprintf("n%d.log", i)))
			if err != nil {
				return nil, err
			}
			cmd.Stdout, cmd.Stderr = log, log
			err = cmd.Start()
			_ = log.Close() // the child has it
			if err != nil {
				return nil, firstError(err, stop())
			}
			cmds = append(cmds, cmd)
		}
		leader, err := etcdLeader(ctx, endpoints)
		if err != nil {
			return nil, fmt.Errorf("%w (stopping: %v)", err, stop())
		}
		d, err := newEtcdDriver(leader, share)
		if err != nil {
			return nil, fmt.Errorf("%w (stopping: %v)", err, stop())
		}
		r := &running{driver: d, stop: func() error { return firstError(d.Close(), stop()) }}
		for _, cmd := range cmds {
			r.pids = append(r.pids, cmd.Process.Pid)
		}
		return r, nil
	}}
}

// etcdLeader waits for a leader and gives its endpoint.
func etcdLeader(ctx context.Context, endpoints []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: startTimeout})
	if err != nil {
		return "", err
	}
	defer c.Close()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		for _, e := range endpoints {
			attempt, done := context.WithTimeout(ctx, time.Second)
			status, err := c.Status(attempt, e)
			done()
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				tick.Stop()
				return e, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return "", fmt.Errorf("etcd has no leader: %w", ctx.Err())
		}
	}
}

// stopAll ends processes that this program started.
func stopAll(cmds []*exec.Cmd) error {
	for _, cmd := range cmds {
		_ = cmd.Process.Signal(os.Interrupt)
	}
	var first error
	for _, cmd := range cmds {
		timer := time.AfterFunc(stopTimeout, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // ends by a signal, which Wait reports as an error
		if !timer.Stop() {
			first = firstError(first, fmt.Errorf("pid %d had to be killed", cmd.Process.Pid))
		}
	}
	return first
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// freePorts finds n consecutive ports on loopback that nobody listens on.
func freePorts(n int) (int, error) {
	for base := 21000; base < 30000; base += n {
		free := true
		for p := base; p < base+n && free; p++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return base, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row", n)
}
