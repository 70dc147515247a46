package sim

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Config is one run. Zero fields take defaults.
type Config struct {
	Seed    uint64
	Nodes   int // 3
	Shards  int // 4
	Groups  int // groups of keys in each shard; 3
	Clients int // 16
	Ops     int // operations to ask for; 20,000

	// Think bounds the pause of a client between two operations. 40 ms
	Think time.Duration
	// FaultEvery is the mean pause between two faults of one kind of nemesis; 2 s.
	// Negative: no faults.
	FaultEvery time.Duration
	// ChangeEvery is the mean pause between two changes of one kind of the cluster's own
	// shape: ranges, replicas, nodes. Zero: none, and the cluster keeps the shape that it
	// is founded with.
	ChangeEvery time.Duration
	// Spares are machines that are not of the cluster when it is founded, and may join
	// it; 0.
	Spares int
	// Zones is how many zones the machines lie in, in turns; 0 = none.
	Zones int

	// SyncLag bounds how long a sync takes; 8 ms. Negative: no time.
	SyncLag time.Duration
	// StaleSlack is what a stale read may be older than its bound (C6).
	StaleSlack time.Duration

	// CheckWithin bounds the search for a linearization of one group, in real time;
	// 2 min.
	CheckWithin time.Duration

	Logger *slog.Logger // of the nodes; nil = none
	Trace  io.Writer    // is told the schedule while it happens; nil = nobody
}

func (c Config) withDefaults() Config {
	orDefault(&c.Nodes, 3)
	orDefault(&c.Shards, 4)
	orDefault(&c.Groups, 3)
	orDefault(&c.Clients, 16)
	orDefault(&c.Ops, 20_000)
	orDefault(&c.Think, 40*time.Millisecond)
	orDefault(&c.FaultEvery, 2*time.Second)
	orDefault(&c.SyncLag, 8*time.Millisecond)
	orDefault(&c.StaleSlack, time.Second)
	orDefault(&c.CheckWithin, 2*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// String gives what is needed to run it again.
func (c Config) String() string {
	return fmt.Sprintf("seed=%d nodes=%d+%d zones=%d shards=%d groups=%d clients=%d ops=%d fault-every=%s change-every=%s sync-lag=%s",
		c.Seed, c.Nodes, c.Spares, c.Zones, c.Shards, c.Groups, c.Clients, c.Ops, c.FaultEvery, c.ChangeEvery, c.SyncLag)
}
