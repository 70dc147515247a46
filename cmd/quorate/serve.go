package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/quorate-db/quorate/internal/server"
	"github.com/quorate-db/quorate/kv"
)

// serveOptions are the flags of `quorate serve`.
type serveOptions struct {
	config        server.Config
	logFormat     string
	logLevel      string
	stopWithStdin bool
	cpuProfile    string
	founding      foundingFlags
}

// foundingFlags are the settings that a new cluster begins with.
type foundingFlags struct {
	deadGrace       time.Duration
	splitSize       sizeFlag
	splitLoad       float64
	mergeSize       sizeFlag
	leaderZone      string
	snapshotRate    sizeFlag
	movesPerNode    int
	movesPerCluster int
}

func (o *foundingFlags) addTo(f *pflag.FlagSet) {
	d := kv.DefaultClusterConfig()
	o.splitSize, o.mergeSize, o.snapshotRate = sizeFlag(d.SplitBytes), sizeFlag(d.MergeBytes), sizeFlag(d.SnapshotRate)
	f.DurationVar(&o.deadGrace, "dead-grace", d.DeadGrace, "new cluster: a node that is silent for so long is replaced")
	f.Var(&o.splitSize, "split-size", "new cluster: a shard larger than this splits; 0 = never by size")
	f.Float64Var(&o.splitLoad, "split-load", d.SplitLoad, "new cluster: a shard with more operations a second may split; 0 = never by load")
	f.Var(&o.mergeSize, "merge-size", "new cluster: neighbours that are smaller than this together merge; 0 = never")
	f.StringVar(&o.leaderZone, "leader-zone", "", "new cluster: zone in which leaders are preferred")
	f.Var(&o.snapshotRate, "snapshot-rate", "new cluster: bytes a second that a node sends in snapshots; 0 = unlimited")
	f.IntVar(&o.movesPerNode, "moves-per-node", d.MovesPerNode, "new cluster: replicas that move at once, in or out of a node")
	f.IntVar(&o.movesPerCluster, "moves-per-cluster", d.MovesPerCluster, "new cluster: replicas that move at once in all")
}

// foundingNames are the names of the flags.
var foundingNames = []string{"dead-grace", "split-size", "split-load", "merge-size", "leader-zone", "snapshot-rate", "moves-per-node", "moves-per-cluster"}

// args gives the flags that are not as serve has them by itself.
func (o *foundingFlags) args(f *pflag.FlagSet) []string {
	serve := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	new(foundingFlags).addTo(serve)
	var args []string
	for _, name := range foundingNames {
		if v := f.Lookup(name).Value.String(); f.Changed(name) || v != serve.Lookup(name).DefValue {
			args = append(args, "--"+name, v)
		}
	}
	return args
}

// settings gives the founding settings as server.Config takes them: never is written
// as -1. A split size that was given takes an unspoken merge size with it.
func (o *foundingFlags) settings(f *pflag.FlagSet) (kv.ClusterConfig, error) {
	c := kv.DefaultClusterConfig()
	c.DeadGrace, c.SplitBytes, c.SplitLoad, c.LeaderZone = o.deadGrace, int64(o.splitSize), o.splitLoad, o.leaderZone
	c.SnapshotRate, c.MovesPerNode, c.MovesPerCluster = int64(o.snapshotRate), o.movesPerNode, o.movesPerCluster
	if c.MergeBytes = int64(o.mergeSize); !f.Changed("merge-size") && c.SplitBytes > 0 {
		c.MergeBytes = min(c.MergeBytes, c.SplitBytes/kv.MergeShare)
	}
	if err := c.Validate(); err != nil {
		return c, err
	}
	never := func(n *int64) {
		if *n == 0 {
			*n = -1
		}
	}
	never(&c.SplitBytes)
	never(&c.MergeBytes)
	never(&c.SnapshotRate)
	if c.SplitLoad == 0 {
		c.SplitLoad = -1
	}
	c.ReplicationFactor, c.AutoBalance = 0, false // not of these flags
	return c, nil
}

// addSecurity declares the flags that say who may do what.
func addSecurity(f *pflag.FlagSet, c *server.Config) {
	f.StringVar(&c.Security.SecretFile, "cluster-secret-file", "", "file with the secret that all nodes share, for its owner alone; several lines: the first is in use, all are accepted")
	addPeerFiles(f, &c.Security.Peer)
	w := &c.Security.Web
	f.BoolVar(&w.Cluster, "tls", false, "serve clients over HTTPS, with a certificate by the cluster's authority ('quorate cert' prints it)")
	f.StringSliceVar(&w.Hosts, "tls-host", nil, "with --tls: more names and addresses that clients use for this node")
	f.StringVar(&w.Cert, "tls-cert", "", "serve clients over HTTPS with the certificate in this file instead, PEM; read again when it changes")
	f.StringVar(&w.Key, "tls-key", "", "its key, PEM")
	f.StringVar(&w.CA, "tls-ca", "", "authorities, PEM: clients have to show a certificate by one of them; read again when it changes")
	f.BoolVar(&c.Security.Insecure, "insecure", false, "allow listening beyond loopback without --auth for clients, or without a cluster secret or certificates for other nodes")
	f.BoolVar(&c.Auth.On, "auth", false, "ask clients for tokens; the first start of the cluster prints its root token, once, to standard output")
	f.StringVar(&c.Auth.RootTokenFile, "root-token-file", "", "write the root token to this file instead, if this node is the one that makes it")
}

// addLog declares the flags that say what is logged, and how.
func (o *serveOptions) addLog(f *pflag.FlagSet) {
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
}

func serveCommand(env lookupEnv) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long: `Run one node of a cluster.

The first time, start every node with the same --join (peer addresses of all of them)
and --expect (how many there are): the owner of the first address founds the cluster when
all have answered. Later, the same command line starts the node again; a new node needs
--join with any member's address.

Give every node of a cluster the same --cluster-secret-file, made once with 'quorate
secret new --out FILE': all traffic between nodes is encrypted then, and nodes without the
secret are refused. It may also be in QUORATE_CLUSTER_SECRET, several separated by commas.
The file is read again when it changes and at SIGHUP. Certificates of one's own do the
same: --peer-cert, --peer-key and --peer-ca.

With --auth, which is to be given to all nodes, clients need tokens ('quorate token').
The node that leads when the cluster starts for the first time makes the root token, with
which the others are made. Beyond loopback a node listens only with it, and for other
nodes only with a secret or certificates, unless --insecure allows it.

Flags that begin with "new cluster" count only where this node founds it; later 'quorate
config set' changes the same settings.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.config.Cluster, err = o.founding.settings(cmd.Flags()); err != nil {
				return usageError{err}
			}
			if o.config.Security.Secrets, err = secretsFromEnv(env); err != nil {
				return usageError{err}
			}
			out := cmd.OutOrStdout()
			o.config.Auth.Show = func(token string) error {
				_, err := fmt.Fprintln(out, token)
				return err
			}
			return runServe(cmd.Context(), o, cmd.InOrStdin(), cmd.ErrOrStderr())
		},
	}
	f, c := cmd.Flags(), &o.config
	f.StringVar(&c.DataDir, "data-dir", "", "folder that holds everything this node keeps (required)")
	f.StringVar(&c.Name, "name", "", "name of this node, unique in the cluster (default: its id)")
	f.StringVar(&c.Zone, "zone", "", "failure domain, such as a rack; replicas of a shard are spread over zones")
	f.StringVar(&c.HTTP.Listen, "http-listen", "127.0.0.1:7001", "address for clients")
	f.StringVar(&c.HTTP.Advertise, "http-advertise", "", "address that clients are told (default: --http-listen)")
	f.StringVar(&c.Peer.Listen, "peer-listen", "127.0.0.1:7101", "address for other nodes")
	f.StringVar(&c.Peer.Advertise, "peer-advertise", "", "address that other nodes are told (default: --peer-listen)")
	f.StringSliceVar(&c.Join, "join", nil, "peer addresses of the cluster, the founder's first")
	f.IntVar(&c.Expect, "expect", 1, "found a new cluster only when this many nodes have answered")
	f.IntVar(&c.Initial.Count, "shards", 1, "new cluster: number of shards, cut evenly over [0-9A-Za-z]")
	f.StringSliceVar(&c.Initial.SplitPoints, "split-points", nil, "new cluster: keys at which shards begin, instead of --shards")
	f.IntVar(&c.Initial.ReplicationFactor, "replication-factor", 3, "new cluster: copies of each shard, 1 to 7")
	o.founding.addTo(f)
	addClientFlags(f, &c.Clients)
	f.StringVar(&c.Log, "log", "shared", "raft log of data shards: shared (one store for all) or bolt (a file for each)")
	addSecurity(f, c)
	f.DurationVar(&c.Timing.Heartbeat, "heartbeat-timeout", server.DefaultTiming.Heartbeat, "a follower that hears nothing for this long starts an election")
	f.DurationVar(&c.Timing.Election, "election-timeout", server.DefaultTiming.Election, "an election that is not won in this time starts anew")
	f.DurationVar(&c.Timing.Retention, "retention", server.DefaultTiming.Retention, "how long old versions of a key are kept")
	f.DurationVar(&c.Timing.ShutdownWait, "shutdown-wait", server.DefaultTiming.ShutdownWait, "how long a stopping node waits for requests and leadership transfers")
	o.addLog(f)
	f.BoolVar(&o.stopWithStdin, "stop-with-stdin", false, "stop when standard input ends")
	f.StringVar(&o.cpuProfile, "cpu-profile-dir", "", "write a processor profile of the whole run to this folder, named after the node")
	_ = f.MarkHidden("cpu-profile-dir") // for developers
	_ = f.MarkHidden("stop-with-stdin") // for a parent process that must not leave orphans
	return cmd
}

// runServe runs a node until ctx ends (a signal), the end of standard input (if asked for)
// or a failure that a node must not survive.
func runServe(ctx context.Context, o serveOptions, stdin io.Reader, stderr io.Writer) error {
	log, err := newLogger(stderr, o.logFormat, o.logLevel)
	if err != nil {
		return usageError{err}
	}
	config := o.config.Defaulted()
	config.Release = thisVersion()["release"]
	if err := config.Validate(); err != nil {
		return usageError{err}
	}
	if o.cpuProfile != "" {
		stop, err := startProfile(filepath.Join(o.cpuProfile, config.Name+".cpu.pprof"))
		if err != nil {
			return err
		}
		defer stop()
	}
	if o.stopWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		// Ends with the process: a read of standard input cannot be interrupted.
		go func() {
			_, _ = io.Copy(io.Discard, stdin)
			cancel()
		}()
	}
	return server.Run(ctx, config, log)
}

// startProfile profiles the process until stop is called.
func startProfile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // a profile that is cut short is seen when it is read
	}, nil
}

// newLogger makes the process's logger.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch strings.ToLower(format) {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, fmt.Errorf("--log-format %q: want text or json", format)
	}
}
