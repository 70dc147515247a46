package server

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/raftnode/peer"
	"github.com/quorate-db/quorate/router"
)

// Hooks are told what a node does, for metrics. Any may be nil.
type Hooks struct {
	HTTP      httpd.Hooks
	Router    router.Hooks
	Raft      raftnode.Hooks
	Peer      peer.Hooks
	Placement placement.Hooks
	LogSync   func(took time.Duration)
}

func (n *Node) hostOptions() raftnode.Options {
	hooks := n.world.Hooks.Raft
	failed := hooks.Failed
	hooks.Failed = func(id kv.ServerID, err error, storage bool) {
		if failed != nil {
			failed(id, err, storage)
		}
		if storage { // otherwise the node's other replicas go on
			n.die(fmt.Errorf("replica %s: %w", id, err))
		}
	}
	c, t := n.config.Timing, n.world.Timing
	t.Heartbeat, t.Election, t.Commit, t.WriteDeadline = c.Heartbeat, c.Election, c.Commit, c.WriteStall
	return raftnode.Options{
		Node:    n.identity.Node(),
		Dir:     n.world.FS.PathJoin(n.config.DataDir, "snapshots"),
		FS:      n.world.FS,
		Mesh:    n.mesh,
		Logs:    n.logs,
		Machine: n.machineOf,
		Now:     n.world.Now,
		Timing:  t,
		Logger:  n.log,
		Hooks:   hooks,
		Drop: func(id kv.ServerID) error {
			if id.Shard == kv.MetaShard {
				return nil // in memory, and in the host's own files
			}
			return n.db.DropReplica(id.Shard)
		},
		SnapshotRate: n.snapshotRate,
	}
}

// machineOf gives the state machine of a replica.
func (n *Node) machineOf(r raftnode.Record) (raftnode.StateMachine, error) {
	if r.ID.Shard == kv.MetaShard {
		return metaMachine{n.machine}, nil
	}
	var initial kvpb.ShardDescriptor
	if err := proto.Unmarshal(r.Payload, &initial); err != nil {
		return nil, fmt.Errorf("record of %s: %w", r.ID, err)
	}
	var config []byte
	if len(r.Members) > 0 {
		config = raftnode.EncodeMembers(slices.SortedFunc(slices.Values(r.Members), func(a, b kv.Member) int {
			return cmp.Compare(a.ID.Node, b.ID.Node)
		}))
	}
	replica, err := n.db.OpenInitial(r.ID.Shard, &initial, config)
	if err != nil {
		return nil, err
	}
	return dataMachine{replica}, nil
}

// diskUsed tells the control plane what the disk holds, in bytes.
func (n *Node) diskUsed() (used, free int64) {
	d := n.disk.usage()
	return d.UsedBytes, d.FreeBytes
}

// dataLog says where new replicas of data shards keep their logs.
func (n *Node) dataLog() raftnode.LogKind {
	if n.config.Log == "bolt" {
		return raftnode.BoltLog
	}
	return raftnode.SharedLog
}

func (n *Node) controlOptions() placement.Options {
	c := n.config
	points := make([][]byte, 0, len(c.Initial.SplitPoints))
	for _, p := range c.Initial.SplitPoints {
		points = append(points, []byte(p))
	}
	if len(points) == 0 {
		points = placement.EvenSplitPoints(c.Initial.Count)
	}
	return placement.Options{
		Self: placement.Self{
			Name:        c.Name,
			Zone:        c.Zone,
			HTTPAddress: c.HTTP.Advertise,
			PeerAddress: c.Peer.Advertise,
			Release:     c.Release,
		},
		Join:              c.Join,
		Expect:            c.Expect,
		Machine:           n.machine,
		Identity:          n.identity,
		Meta:              metaReplica{n.host},
		Replicas:          controlReplicas{host: n.host, logs: n.logs, log: n.dataLog(), loads: n.loads},
		Actions:           controlActions{n},
		Peers:             controlPeers{routerPeers{n.mesh}},
		ReplicationFactor: c.Initial.ReplicationFactor,
		SplitPoints:       points,
		Config:            c.Cluster,
		LearnAddresses:    n.book.learn,
		Disk:              n.diskUsed,
		Now:               n.world.steady(),
		Logger:            n.log,
		Hooks:             n.world.Hooks.Placement,
	}
}

// steady gives the clock for intervals.
func (w World) steady() func() time.Time {
	if w.Steady != nil {
		return w.Steady
	}
	return w.Now
}
