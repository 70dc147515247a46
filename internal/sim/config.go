package sim

import (
	"fmt"
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
	// SyncLag bounds how long a sync takes; 8 ms. Negative: no time.
	SyncLag time.Duration
	// StaleSlack is what a stale read may be older than its bound (C6).
	StaleSlack time.Duration

	// CheckWithin bounds the search for a linearization of one group, in real time;
	// 2 min.
	CheckWithin time.Duration

	Logger *slog.Logger // of the nodes; nil = none
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
	return fmt.Sprintf("seed=%d nodes=%d shards=%d groups=%d clients=%d ops=%d fault-every=%s sync-lag=%s",
		c.Seed, c.Nodes, c.Shards, c.Groups, c.Clients, c.Ops, c.FaultEvery, c.SyncLag)
}
