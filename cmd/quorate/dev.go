package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/localcluster"
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
}

const (
	devStartTimeout = 90 * time.Second
	devStopTimeout  = 20 * time.Second
	// devPeerPortOffset lies between a node's HTTP port and its peer port.
	devPeerPortOffset = 100
)

func devCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine",
		Long: `Run a whole cluster on this machine, each node a process of its own on loopback.

Ctrl-C stops it. The data is temporary unless --data-dir is given; with it, the
next start finds the data again. Kill a node to see the others go on; the table
names the command that starts it again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDev(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 5, "number of nodes, 1 to 50")
	f.IntVar(&o.port, "port", 7001, "HTTP port of the first node; peers use the ports 100 above")
	f.IntVar(&o.shards, "shards", 8, "number of shards of a new cluster")
	f.IntVar(&o.replicationFactor, "replication-factor", 0, "copies of each shard (default: 3, or as many as there are nodes)")
	f.StringVar(&o.dataDir, "data-dir", "", "folder to keep the data in (default: a temporary one)")
	f.StringSliceVar(&o.zones, "zones", nil, "zones to spread the nodes over, in turn")
	return cmd
}

func (o *devOptions) complete() error {
	if o.nodes < 1 || o.nodes > 50 {
		return usageError{fmt.Errorf("--nodes %d: want 1 to 50", o.nodes)}
	}
	if o.port < 1 || o.port+devPeerPortOffset+o.nodes > 65536 {
		return usageError{fmt.Errorf("--port %d: want a port that leaves room for %d nodes and their peer ports %d above", o.port, o.nodes, devPeerPortOffset)}
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
	cluster := localcluster.New(localcluster.Options{
		Binary:            binary,
		Nodes:             o.nodes,
		HTTPPort:          o.port,
		PeerPort:          o.port + devPeerPortOffset,
		DataDir:           dir,
		Shards:            o.shards,
		ReplicationFactor: o.replicationFactor,
		Zones:             o.zones,
	})
	runErr := superviseDev(ctx, cluster, o, binary, stdout, stderr)
	// The signal has ended ctx; stopping gets time of its own.
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), devStopTimeout)
	defer cancel()
	fmt.Fprintln(stderr, "stopping")
	return errors.Join(runErr, cluster.StopAll(stopCtx))
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

func superviseDev(ctx context.Context, cluster *localcluster.Cluster, o devOptions, binary string, stdout, stderr io.Writer) error {
	if err := cluster.StartAll(); err != nil {
		return err
	}
	if err := printDevTable(cluster, o.nodes, stdout); err != nil {
		return err
	}
	summary, err := waitDevReady(ctx, cluster, o)
	if ctx.Err() != nil {
		return nil // stopped while it was starting
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "cluster ready: %d nodes, %d shards, replication factor %d, http://%s\n",
		summary.Nodes, summary.Shards, summary.ReplicationFactor, cluster.HTTPAddress(1))
	tellDevDeaths(ctx, cluster, o.nodes, binary, stderr)
	return nil
}

func printDevTable(cluster *localcluster.Cluster, nodes int, stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tPID\tHTTP\tLOG")
	for i := 1; i <= nodes; i++ {
		fmt.Fprintf(w, "%s\t%d\thttp://%s\t%s\n", localcluster.Name(i), cluster.PID(i), cluster.HTTPAddress(i), cluster.LogPath(i))
	}
	return w.Flush()
}

// waitDevReady waits until every node is ready and every shard has a leader.
func waitDevReady(ctx context.Context, cluster *localcluster.Cluster, o devOptions) (client.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, devStartTimeout)
	defer cancel()
	c, err := client.New(client.Config{Endpoints: cluster.Endpoints()})
	if err != nil {
		return client.Cluster{}, err
	}
	defer c.Close()
	var summary client.Cluster
	err = cluster.Poll(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		for _, endpoint := range cluster.Endpoints() {
			if err := c.Ready(ctx, endpoint); err != nil {
				return fmt.Errorf("%s: %w", endpoint, err)
			}
		}
		summary, err = c.Cluster(ctx)
		if err != nil {
			return err
		}
		if summary.NodesAlive < o.nodes || summary.Shards == 0 || summary.ShardsWithLeader < summary.Shards {
			return fmt.Errorf("%d of %d nodes alive, %d of %d shards have a leader",
				summary.NodesAlive, o.nodes, summary.ShardsWithLeader, summary.Shards)
		}
		return nil
	})
	return summary, err
}

// tellDevDeaths says, until ctx ends, when a node has died and how to start it
// again.
func tellDevDeaths(ctx context.Context, cluster *localcluster.Cluster, nodes int, binary string, stderr io.Writer) {
	deaths := make(chan int)
	for i := 1; i <= nodes; i++ {
		go func() {
			select {
			case <-cluster.Done(i):
			case <-ctx.Done():
				return
			}
			select {
			case deaths <- i:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case i := <-deaths:
			fmt.Fprintf(stderr, "%s ended: %v. Start it again with:\n  %s %s\n",
				localcluster.Name(i), cluster.ExitError(i), binary, strings.Join(cluster.Args(i), " "))
		}
	}
}
