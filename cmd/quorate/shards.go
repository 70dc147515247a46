package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

func shardsCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var k keyFlag
	var key string
	cmd := &cobra.Command{
		Use:   "shards",
		Short: "List the shards",
		Long: `List the shards in the order of their ranges, or with --key the one that holds a key.

A replica's name is followed by + while it is catching up and by ! when it has failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := k.decodeAll(&key); err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				shards, err := shardsOf(cmd, c, key)
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				if f.output == formatJSON {
					return printJSON(out, shards)
				}
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				t := shardsTable(shards, namesOf(nodes))
				return t.print(out, f.output, colours(out, env))
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	k.addTo(cmd)
	cmd.Flags().StringVar(&key, "key", "", "only the shard that holds this key")
	cmd.AddCommand(shardsSplitCommand(env), shardsMergeCommand(env), shardsMoveCommand(env), shardsTransferCommand(env))
	return cmd
}

func shardsOf(cmd *cobra.Command, c *client.Client, key string) ([]client.Shard, error) {
	if key == "" {
		return c.Shards(cmd.Context())
	}
	shard, err := c.ShardOf(cmd.Context(), key)
	return []client.Shard{shard}, err
}

func shardsTable(shards []client.Shard, name func(id string) string) table {
	t := table{heading: []string{"SHARD", "START", "END", "LEADER", "TERM", "REPLICAS", "KEYS", "SIZE", "READS/S", "WRITES/S", "NOW"}}
	for i := range shards {
		s := &shards[i]
		leader := text(name(s.Leader))
		if s.Leader == "" {
			leader = cell{text: "none", colour: red}
		}
		start, end := shown(s.Start), shown(s.End)
		if s.ID == kv.MetaShard {
			start, end = "(meta)", "(meta)"
		}
		t.add(text(s.ID.String()), text(dash(start)), text(dash(end)), leader, number(s.Term), text(replicasShown(s, name)),
			number(s.Keys), size(s.Bytes), perSecond(s.ReadsPerSecond), perSecond(s.WritesPerSecond), text(changeShown(s.Change, name)))
	}
	return t
}

func replicasShown(s *client.Shard, name func(id string) string) string {
	var replicas []string
	for _, r := range s.Replicas {
		mark := ""
		if r.Failure != "" {
			mark = "!"
		} else if r.Role == kv.RoleLearner {
			mark = "+"
		}
		replicas = append(replicas, name(r.Node)+mark)
	}
	return dash(strings.Join(replicas, ","))
}

// changeShown gives what is being done to a shard.
func changeShown(c *client.ShardChange, name func(id string) string) string {
	if c == nil {
		return "-"
	}
	out := string(c.Kind)
	switch {
	case c.From != "" && c.To != "":
		out += " " + name(c.From) + " to " + name(c.To)
	case c.To != "":
		out = "add " + name(c.To)
	case c.From != "":
		out = "remove " + name(c.From)
	}
	if c.Detail != "" {
		out += ": " + shown(c.Detail)
	}
	return out
}

func shardID(arg string) (kv.ShardID, error) {
	id, err := idArg("shard", arg)
	return kv.ShardID(id), err
}

func shardsSplitCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	var k keyFlag
	var shard string
	cmd := &cobra.Command{
		Use:   "split [KEY]",
		Short: "Split a shard",
		Long: `Split the shard that holds KEY, so that KEY is the first of the right half; or with
--shard and no KEY that shard where its leader likes, in the middle by size or by load.
Nothing is copied, and writes are held up for milliseconds.`,
		Example: "  quorate shards split user/m\n  quorate shards split --shard 7",
		Args:    cobra.MaximumNArgs(1),
	}
	beginsOperation(env, cmd, &f, func(cmd *cobra.Command, c *client.Client, args []string) (client.Operation, error) {
		if len(args) == 0 && shard == "" {
			return client.Operation{}, usagef("which shard? Give a KEY or --shard")
		}
		key := ""
		if len(args) > 0 {
			if key = args[0]; key == "" {
				return client.Operation{}, usagef("KEY: a key has at least one byte")
			}
		}
		if err := k.decodeAll(&key); err != nil {
			return client.Operation{}, err
		}
		if shard == "" {
			s, err := c.ShardOf(cmd.Context(), key)
			if err != nil {
				return client.Operation{}, err
			}
			shard = s.ID.String()
		}
		id, err := shardID(shard)
		if err != nil {
			return client.Operation{}, err
		}
		return c.SplitShard(cmd.Context(), id, key)
	})
	k.addTo(cmd)
	cmd.Flags().StringVar(&shard, "shard", "", "the shard to split (default: the one that holds KEY)")
	return cmd
}

func shardsMergeCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "merge SHARD",
		Short:   "Merge a shard with its right neighbour",
		Long:    "Merge a shard with its right neighbour, which is gone then. Replicas move first until both are on the same nodes.",
		Example: "  quorate shards merge 7",
		Args:    cobra.ExactArgs(1),
	}
	return beginsOperation(env, cmd, &f, func(cmd *cobra.Command, c *client.Client, args []string) (client.Operation, error) {
		id, err := shardID(args[0])
		if err != nil {
			return client.Operation{}, err
		}
		return c.MergeShard(cmd.Context(), id)
	})
}

func shardsMoveCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "move SHARD FROM TO",
		Short:   "Move a shard's replica to another node",
		Long:    "Move a shard's replica from one node to another: it is added, catches up, becomes a voter, and the old one is removed.",
		Example: "  quorate shards move 7 node1 node4",
		Args:    cobra.ExactArgs(3),
	}
	return beginsOperation(env, cmd, &f, func(cmd *cobra.Command, c *client.Client, args []string) (client.Operation, error) {
		id, err := shardID(args[0])
		if err != nil {
			return client.Operation{}, err
		}
		return c.MoveReplica(cmd.Context(), id, args[1], args[2])
	})
}

func shardsTransferCommand(env lookupEnv) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:     "transfer SHARD NODE",
		Short:   "Hand a shard's leadership to another replica",
		Example: "  quorate shards transfer 7 node2",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := shardID(args[0])
			if err != nil {
				return err
			}
			return f.withClient(func(c *client.Client) error {
				if err := c.TransferLeader(cmd.Context(), id, args[1]); err != nil {
					return err
				}
				if f.output == formatJSON {
					return printJSON(cmd.OutOrStdout(), map[string]any{"shard": id, "leader": args[1]})
				}
				cmd.PrintErrf("shard %s is led by %s\n", id, shown(args[1]))
				return nil
			})
		},
	}
	f.addTo(cmd, env, formatTable)
	return cmd
}
