package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func nodesCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withClient(func(c *client.Client) error {
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				return f.show(cmd.OutOrStdout(), nodes, nodesTable(nodes))
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	cmd.AddCommand(nodesRemoveCommand(env))
	return cmd
}

func nodesTable(nodes []client.Node) table {
	t := table{heading: []string{"NAME", "ID", "ZONE", "HTTP", "PEER", "STATE", "META", "REPLICAS", "LEADERS", "DATA", "DISK", "FREE", "READS/S", "WRITES/S", "RELEASE"}}
	for i := range nodes {
		n := &nodes[i]
		t.add(text(shown(n.Name)), text(n.ID), text(dash(shown(n.Zone))), text(n.HTTPAddress), text(n.PeerAddress), nodeState(n),
			text(dash(string(n.MetaRole))), number(n.Replicas), number(n.Leaders), size(n.Bytes), size(n.DiskBytes), freeShown(n),
			perSecond(n.ReadsPerSecond), perSecond(n.WritesPerSecond), text(dash(shown(n.Release))))
	}
	return t
}

// nodeState gives whether a node lives and what is to become of it.
func nodeState(n *client.Node) cell {
	switch {
	case !n.Alive && n.State == kv.NodeRemoving:
		return cell{text: "dead, removing", colour: red}
	case !n.Alive:
		return cell{text: "dead", colour: red}
	case n.State == kv.NodeRemoving:
		return cell{text: "removing", colour: yellow}
	case n.Draining || n.State == kv.NodeDraining:
		return cell{text: "draining", colour: yellow}
	}
	return cell{text: "alive", colour: green}
}

func size(n int64) cell { return cell{text: bytesShown(n), right: true} }

func freeShown(n *client.Node) cell {
	if n.DiskFree == 0 { // not reported
		return cell{text: "-", right: true}
	}
	return size(n.DiskFree)
}

func perSecond(f float64) cell {
	precision := 0
	if f > 0 && f < 10 {
		precision = 1
	}
	return cell{text: strconv.FormatFloat(f, 'f', precision, 64), right: true}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func nodesRemoveCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster for ever",
		Long: `Move all replicas off a node, named by name or id, and then forget it for ever. Its
process ends; its data directory is of no use any more.

It is refused where too few nodes would be left for the replication factor. The
work is an operation that goes on when this command is interrupted, and can be
cancelled until the node is forgotten.`,
		Example: "  quorate nodes remove node5\n  quorate nodes remove node5 --no-wait",
		Args:    cobra.ExactArgs(1),
	}
	return beginsOperation(env, cmd, &f, func(cmd *cobra.Command, c *client.Client, args []string) (client.Operation, error) {
		return c.RemoveNode(cmd.Context(), args[0])
	})
}

func drainCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var w waitFlag
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Take the leaders away from a node, for a restart",
		Long: `Take the leaders of all shards away from a node, named by name or id. It keeps its
replicas and goes on serving. Made for a restart: nobody waits for an election. It
lasts, also over the restart, until 'quorate drain NODE --undo'.`,
		Example: "  quorate drain node2\n  quorate drain node2 --undo",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.withClient(func(c *client.Client) error {
				if err := c.Drain(cmd.Context(), args[0], !undo); err != nil {
					return err
				}
				n, err := f.drained(cmd, c, args[0], undo || w.noWait)
				if err != nil {
					return err
				}
				return f.show(cmd.OutOrStdout(), n, nodesTable([]client.Node{n}))
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	w.addTo(cmd)
	cmd.Flags().BoolVar(&undo, "undo", false, "let the node lead again")
	return cmd
}

// drained waits until a node leads nothing, and gives the node.
func (f *clientFlags) drained(cmd *cobra.Command, c *client.Client, node string, noWait bool) (client.Node, error) {
	ctx := cmd.Context()
	tick := time.NewTicker(operationPoll)
	defer tick.Stop()
	last := -1
	for {
		n, err := c.Node(ctx, node)
		if err != nil && !client.IsUnavailable(err) || err == nil && (noWait || n.Leaders == 0 || !n.Alive) {
			return n, err
		}
		if err == nil && n.Leaders != last {
			last = n.Leaders
			fmt.Fprintf(cmd.ErrOrStderr(), "%s leads %d shards yet\n", shown(n.Name), n.Leaders)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, exitError{exitFailure, fmt.Sprintf("interrupted; the node drains on, until 'quorate drain %s --undo'", node)}
		}
	}
}
