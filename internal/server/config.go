package server

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Config is everything an operator decides about one node. The flags of
// `quorate serve` fill it.
type Config struct {
	DataDir string
	Name    string // unique in the cluster; "" = the node id
	Zone    string // failure domain; "" = none
	Release string // version of this binary, reported to the cluster

	HTTP Address // clients
	Peer Address // other nodes

	// Join lists peer addresses of the cluster, the same on every node. The owner
	// of the first one founds the cluster once Expect nodes have answered.
	Join   []string
	Expect int

	Initial InitialShards
	// Cluster is what a new cluster's settings begin with; zero fields take the
	// defaults of the control plane, negative sizes, loads and rates mean never or no
	// bound. It has no effect on a cluster that exists. The replication factor is
	// Initial's.
	Cluster kv.ClusterConfig

	Log      string // raft log of data shards: "shared" or "bolt"
	Security Security
	Auth     Auth
	Timing   Timing
	Clients  Clients
}

// Auth says whether clients need tokens.
type Auth struct {
	On bool
	// RootTokenFile is where the cluster's first token is written, if this node makes
	// it. Empty: it is shown.
	RootTokenFile string
	// Show shows the first token to whoever started the node, once. Nil: only a file
	// takes it.
	Show func(token string) error
}

// Address is where a node listens and what it tells others to dial.
type Address struct {
	Listen    string // host:port
	Advertise string // host:port; "" = Listen
}

// The most that a new cluster may be given of each.
const (
	InitialShardsMax     = 1000
	ReplicationFactorMax = 7
)

// InitialShards is how a new cluster cuts the key space. It has no effect on a
// cluster that exists.
type InitialShards struct {
	Count             int      // ignored if SplitPoints are given
	SplitPoints       []string // keys at which shards begin, ascending
	ReplicationFactor int
}

// Timing holds the durations that operators and tests change. Zero values mean
// the defaults of DefaultTiming.
type Timing struct {
	Heartbeat    time.Duration // a follower that hears nothing for this long becomes a candidate
	Election     time.Duration // a candidate that wins nothing for this long tries again
	Commit       time.Duration // how late an idle follower learns of a commit
	WriteStall   time.Duration // a log write that takes longer costs the replica its leadership
	ShutdownWait time.Duration // how long a stopping node waits for requests and transfers
	Retention    time.Duration // how long old versions of a key are kept
}

// DefaultTiming is for real networks and disks.
var DefaultTiming = Timing{
	Heartbeat:    time.Second,
	Election:     time.Second,
	Commit:       500 * time.Millisecond,
	WriteStall:   5 * time.Second,
	ShutdownWait: 10 * time.Second,
	Retention:    kv.RetentionDefault,
}

// Defaulted gives c with empty fields filled in.
func (c Config) Defaulted() Config {
	c.HTTP = c.HTTP.defaulted()
	c.Peer = c.Peer.defaulted()
	if c.Initial.ReplicationFactor == 0 {
		c.Initial.ReplicationFactor = 3
	}
	if c.Initial.Count == 0 {
		c.Initial.Count = 1
	}
	if c.Log == "" {
		c.Log = "shared"
	}
	if c.Expect == 0 {
		c.Expect = 1
	}
	t, d := &c.Timing, DefaultTiming
	for _, field := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&t.Heartbeat, d.Heartbeat}, {&t.Election, d.Election}, {&t.Commit, d.Commit},
		{&t.WriteStall, d.WriteStall}, {&t.ShutdownWait, d.ShutdownWait}, {&t.Retention, d.Retention},
	} {
		if *field.value == 0 {
			*field.value = field.fallback
		}
	}
	return c
}

func (a Address) defaulted() Address {
	if a.Advertise == "" {
		a.Advertise = a.Listen
	}
	return a
}

// Validate checks the whole configuration and reports everything that is wrong
// with it at once.
func (c Config) Validate() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("--data-dir: a data directory is needed"))
	}
	errs = append(errs, c.Security.validate(), c.HTTP.validate("http"), c.Peer.validate("peer"), c.validateExposure())
	errs = append(errs, c.Clients.validate())
	for _, address := range c.Join {
		if _, err := hostPort(address, true); err != nil {
			errs = append(errs, fmt.Errorf("--join: %w", err))
		}
	}
	if c.Expect > 1 && len(c.Join) == 0 {
		errs = append(errs, errors.New("--expect: more than one node is expected, but --join names no address"))
	}
	if c.Expect < 1 {
		errs = append(errs, fmt.Errorf("--expect %d: want at least 1", c.Expect))
	}
	if f := c.Initial.ReplicationFactor; f < 1 || f > ReplicationFactorMax {
		errs = append(errs, fmt.Errorf("--replication-factor %d: want 1 to %d", f, ReplicationFactorMax))
	}
	if n := c.Initial.Count; n < 1 || n > InitialShardsMax {
		errs = append(errs, fmt.Errorf("--shards %d: want 1 to %d", n, InitialShardsMax))
	}
	for i, point := range c.Initial.SplitPoints {
		if point == "" || len(point) > kv.KeyBytesMax || i > 0 && point <= c.Initial.SplitPoints[i-1] {
			errs = append(errs, fmt.Errorf("--split-points: %q: want ascending keys of 1 to %d bytes", point, kv.KeyBytesMax))
		}
	}
	if c.Auth.RootTokenFile != "" && !c.Auth.On {
		errs = append(errs, errors.New("--root-token-file: there is no such token without --auth"))
	}
	if c.Log != "shared" && c.Log != "bolt" {
		errs = append(errs, fmt.Errorf("--log %q: want shared or bolt", c.Log))
	}
	return errors.Join(errs...)
}

// validateExposure refuses ports that others than this machine reach and that ask for
// nothing, unless that is wanted.
func (c Config) validateExposure() error {
	if c.Security.Insecure {
		return nil
	}
	const refused = "--%s-listen %s: anyone who reaches this address could read and write everything: %s, or say --insecure if the network is yours alone"
	var errs []error
	if beyondLoopback(c.HTTP.Listen) && !c.Auth.On {
		errs = append(errs, fmt.Errorf(refused, "http", c.HTTP.Listen, "give every node --auth, so that clients need tokens"))
	}
	if beyondLoopback(c.Peer.Listen) && !c.Security.secured() {
		errs = append(errs, fmt.Errorf(refused, "peer", c.Peer.Listen,
			"give every node the same --cluster-secret-file ('quorate secret new --out FILE' makes it), or --peer-cert, --peer-key and --peer-ca"))
	}
	return errors.Join(errs...)
}

func (a Address) validate(flag string) error {
	if _, err := hostPort(a.Listen, false); err != nil {
		return fmt.Errorf("--%s-listen: %w", flag, err)
	}
	advertised, err := hostPort(a.Advertise, true)
	if err != nil {
		return fmt.Errorf("--%s-advertise: %w", flag, err)
	}
	if ip := net.ParseIP(advertised); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("--%s-advertise %s: others cannot dial this; give an address that they can", flag, a.Advertise)
	}
	return nil
}

// hostPort splits an address and checks its port; hostNeeded refuses ":7001".
func hostPort(address string, hostNeeded bool) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q: want host:port", address)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("%q: want a port from 0 to 65535", address)
	}
	if host == "" && hostNeeded {
		return "", fmt.Errorf("%q: a host is needed", address)
	}
	return host, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
