package main

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/quorate-db/quorate/internal/bench"
)

// etcdDriver drives etcd over gRPC. All sessions share one client that talks to
// the leader: the best case for etcd, as routing to leaders is for Quorate.
type etcdDriver struct {
	client  *clientv3.Client
	timeout time.Duration
}

func newEtcdDriver(leader string) (*etcdDriver, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{leader}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	return &etcdDriver{client: c, timeout: 10 * time.Second}, nil
}

// Name implements bench.Driver.
func (d *etcdDriver) Name() string { return "etcd" }

// Session implements bench.Driver.
func (d *etcdDriver) Session(context.Context) (bench.Session, error) { return etcdSession{d}, nil }

// Outcome implements bench.Driver. etcd does not tell, so every failure counts as
// unknown.
func (d *etcdDriver) Outcome(error) string { return "unknown" }

// Close closes the connection.
func (d *etcdDriver) Close() error { return d.client.Close() }

type etcdSession struct{ d *etcdDriver }

func (s etcdSession) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.timeout)
	defer cancel()
	_, err := s.d.client.Put(ctx, key, string(value))
	return err
}

func (s etcdSession) Get(ctx context.Context, key string, stale bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.d.timeout)
	defer cancel()
	var opts []clientv3.OpOption
	if stale {
		opts = append(opts, clientv3.WithSerializable())
	}
	resp, err := s.d.client.Get(ctx, key, opts...)
	return err == nil && len(resp.Kvs) > 0, err
}

func (s etcdSession) Scan(ctx context.Context, start string, limit int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.d.timeout)
	defer cancel()
	resp, err := s.d.client.Get(ctx, start, clientv3.WithFromKey(), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return 0, err
	}
	return len(resp.Kvs), nil
}

func (s etcdSession) Close() error { return nil }
