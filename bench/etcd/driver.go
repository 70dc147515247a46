package main

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/quorate-db/quorate/internal/bench"
)

// etcdDriver drives etcd over gRPC, always at the leader, as Quorate is driven at
// its leaders. Sessions share one connection, so that requests of many clients
// ride in the same packets, or have one each, as clients on different machines do.
type etcdDriver struct {
	leader string
	shared *clientv3.Client // nil: a connection for each session
}

const etcdTimeout = 10 * time.Second

func newEtcdDriver(leader string, share bool) (*etcdDriver, error) {
	d := &etcdDriver{leader: leader}
	if !share {
		return d, nil
	}
	var err error
	d.shared, err = d.connect()
	return d, err
}

func (d *etcdDriver) connect() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{d.leader}, DialTimeout: 5 * time.Second})
}

// Name implements bench.Driver.
func (d *etcdDriver) Name() string { return "etcd" }

// Session implements bench.Driver.
func (d *etcdDriver) Session(context.Context) (bench.Session, error) {
	if d.shared != nil {
		return etcdSession{client: d.shared}, nil
	}
	c, err := d.connect()
	return etcdSession{client: c, own: true}, err
}

// Outcome implements bench.Driver. etcd does not tell, so every failure counts as
// unknown.
func (d *etcdDriver) Outcome(error) string { return "unknown" }

// Close closes the shared connection.
func (d *etcdDriver) Close() error {
	if d.shared == nil {
		return nil
	}
	return d.shared.Close()
}

type etcdSession struct {
	client *clientv3.Client
	own    bool
}

func (s etcdSession) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	_, err := s.client.Put(ctx, key, string(value))
	return err
}

func (s etcdSession) Get(ctx context.Context, key string, stale bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var opts []clientv3.OpOption
	if stale {
		opts = append(opts, clientv3.WithSerializable())
	}
	resp, err := s.client.Get(ctx, key, opts...)
	return err == nil && len(resp.Kvs) > 0, err
}

func (s etcdSession) Scan(ctx context.Context, start string, limit int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, start, clientv3.WithFromKey(), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return 0, err
	}
	return len(resp.Kvs), nil
}

func (s etcdSession) Close() error {
	if s.own {
		return s.client.Close()
	}
	return nil
}
