package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/internal/server"
)

// devOptions are the flags of `quorate dev`.
type devOptions struct {
	nodes             int
	port              int
	shards            int
	replicationFactor int
	dataDir           string
	zones             []string
	founding          foundingFlags
	foundingArgs      []string // for serve
	nodesGiven        bool     // --nodes was
	insecure          bool
	auth              bool
	tls               bool
	ownAuthority      []byte // PEM, with tls: that of the environment's secret
	ownSecret         bool   // the environment has one
}

const (
	devPort         = 7001
	devStartTimeout = 90 * time.Second
	devStopTimeout  = 20 * time.Second
	// devDeadGrace is short: who kills a node here wants to see what happens.
	devDeadGrace = 10 * time.Second
	// devPeerPortOffset lies between a node's HTTP port and its peer port.
	devPeerPortOffset = 100
)

func devCommand(env lookupEnv) *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine",
		Long: `Run a whole cluster on this machine, each node a process of its own on loopback.

Ctrl-C stops it. The data is temporary unless --data-dir is given; with it, the
next start finds the data again, with all nodes that were added meanwhile. Kill a node
to see the others go on; you are told the command that starts it again. Add one
with 'quorate dev add-node', take one away with 'quorate nodes remove'.

Traffic between the nodes is encrypted, with a secret that is made in the data
directory; --insecure leaves that out. With --tls clients are served over HTTPS with a
certificate by the same secret; you are told how to trust it. With --auth clients need
tokens: the root token is printed once, and kept in the data directory for you alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.founding.settings(cmd.Flags()); err != nil {
				return usageError{err}
			}
			o.foundingArgs = o.founding.args(cmd.Flags())
			o.nodesGiven = cmd.Flags().Changed("nodes")
			secret, _ := env(secretEnv)
			o.ownSecret = secret != "" // which the nodes inherit
			var err error
			if o.ownAuthority, err = authorities(env, ""); err != nil {
				return usageError{err}
			}
			return runDev(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 5, "number of nodes, 1 to 50")
	f.IntVar(&o.port, "port", devPort, "HTTP port of the first node; peers use the ports 100 above")
	f.IntVar(&o.shards, "shards", 8, "number of shards of a new cluster")
	f.IntVar(&o.replicationFactor, "replication-factor", 0, "copies of each shard (default: 3, or as many as there are nodes)")
	f.StringVar(&o.dataDir, "data-dir", "", "folder to keep the data in (default: a temporary one)")
	f.StringSliceVar(&o.zones, "zones", nil, "zones to spread the nodes over, in turn")
	f.BoolVar(&o.insecure, "insecure", false, "do not secure the traffic between the nodes")
	f.BoolVar(&o.auth, "auth", false, "ask clients for tokens, and print the root token when it is made")
	f.BoolVar(&o.tls, "tls", false, "serve clients over HTTPS, with certificates by the cluster's authority")
	o.founding.addTo(f)
	o.founding.deadGrace = devDeadGrace
	f.Lookup("dead-grace").DefValue = devDeadGrace.String()
	cmd.AddCommand(devAddNodeCommand(env))
	return cmd
}

func (o *devOptions) complete() error {
	if o.nodes < 1 || o.nodes > 50 {
		return usageError{fmt.Errorf("--nodes %d: want 1 to 50", o.nodes)}
	}
	if o.port < 1 || o.port+devPeerPortOffset+o.nodes > 65536 {
		return usageError{fmt.Errorf("--port %d: want a port that leaves room for %d nodes and their peer ports %d above", o.port, o.nodes, devPeerPortOffset)}
	}
	if o.tls && o.insecure {
		return usageError{errors.New("--tls: the certificates are derived from the cluster secret, which --insecure leaves out")}
	}
	if o.shards < 1 || o.shards > server.InitialShardsMax {
		return usageError{fmt.Errorf("--shards %d: want 1 to %d", o.shards, server.InitialShardsMax)}
	}
	if o.replicationFactor == 0 {
		o.replicationFactor = min(3, o.nodes)
	}
	if o.replicationFactor < 1 || o.replicationFactor > server.ReplicationFactorMax {
		return usageError{fmt.Errorf("--replication-factor %d: want 1 to %d", o.replicationFactor, server.ReplicationFactorMax)}
	}
	if o.replicationFactor > o.nodes {
		return usageError{fmt.Errorf("--replication-factor %d: there are only %d nodes", o.replicationFactor, o.nodes)}
	}
	return nil
}

// runDev runs the cluster until a signal. Data goes to stdout, talk to stderr.
func runDev(ctx context.Context, o devOptions, stdout, stderr io.Writer) error {
	if err := o.complete(); err != nil {
		return err
	}
	dir, cleanup, err := devDataDir(o.dataDir)
	if err != nil {
		return err
	}
	defer cleanup()
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	d, err := newDevCluster(o, dir, binary, stdout, stderr)
	if err != nil {
		return err
	}
	runErr := d.run(ctx)
	// The signal has ended ctx; stopping gets time of its own.
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), devStopTimeout)
	defer cancel()
	fmt.Fprintln(stderr, "stopping")
	return errors.Join(runErr, d.cluster.StopAll(stopCtx))
}

// devDataDir gives the folder to use and what removes it if it is temporary.
func devDataDir(wanted string) (string, func(), error) {
	if wanted != "" {
		dir, err := filepath.Abs(wanted)
		return dir, func() {}, err
	}
	dir, err := os.MkdirTemp("", "quorate-dev-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}
