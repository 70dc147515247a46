package placement

import (
	"fmt"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/placement/metapb"
)

// StepKind names what a step does.
type StepKind string

const (
	// StepAddNonvoter makes Server follow the meta shard.
	StepAddNonvoter StepKind = "add-nonvoter"
	// StepPromote gives Server a vote in the meta shard.
	StepPromote StepKind = "promote"
	// StepRemoveMember takes Server out of the meta shard.
	StepRemoveMember StepKind = "remove-member"
	// StepCreateShards proposes the initial Shards.
	StepCreateShards StepKind = "create-shards"
	// StepReport proposes what shards said of themselves.
	StepReport StepKind = "report-descriptors"
	// StepTransfer tells From to hand the leadership of Shard to To.
	StepTransfer StepKind = "transfer-leader"

	// These propose Command.
	StepBeginMove    StepKind = "begin-move"
	StepCancelMove   StepKind = "cancel-move"
	StepBeginSplit   StepKind = "begin-split"
	StepEndSplit     StepKind = "end-split"
	StepBeginMerge   StepKind = "begin-merge"
	StepAdvanceMerge StepKind = "advance-merge"
	StepNodeRemoved  StepKind = "forget-node"
	StepEndOperation StepKind = "end-operation"
	StepEvents       StepKind = "append-events"

	// StepAddReplica, StepPromoteReplica and StepRemoveReplica ask From, which leads
	// Shard, to change its configuration by Server.
	StepAddReplica     StepKind = "add-replica"
	StepPromoteReplica StepKind = "promote-replica"
	StepRemoveReplica  StepKind = "remove-replica"

	// StepSplit asks From, which leads Shard, to split it.
	StepSplit StepKind = "split"
	// StepFreeze, StepAbsorb, StepRefuse and StepUnfreeze take Merge one stage on;
	// From leads the shard that is asked.
	StepFreeze   StepKind = "freeze"
	StepAbsorb   StepKind = "absorb"
	StepRefuse   StepKind = "refuse-absorb"
	StepUnfreeze StepKind = "unfreeze"
)

// Step is one small change, safe to repeat and safe to fail.
type Step struct {
	Kind    StepKind
	Server  kv.ServerID
	Shards  []*kvpb.ShardDescriptor
	Reports []*metapb.DescriptorReport
	Shard   kv.ShardID
	From    kv.NodeID
	To      kv.NodeID
	Command *metapb.Command
	Split   *metapb.Split
	Merge   *metapb.Merge
	Right   *kvpb.ShardDescriptor // StepAbsorb
	Bytes   int64                 // that a move copies
	Why     string                // in words; of what begins something
	Text    string                // what it does, in words; "" = by its kind
}

// Key names what a step works on. Steps with the same key exclude one another.
func (s Step) Key() string {
	switch s.Kind {
	case StepAddNonvoter, StepPromote, StepRemoveMember:
		return "meta members"
	case StepTransfer:
		return "leader of " + s.Shard.String()
	case StepBeginSplit:
		return "split of " + s.Shard.String() // rests by itself after a split that was refused
	case StepCreateShards, StepReport, StepEvents:
		return string(s.Kind)
	case StepNodeRemoved:
		return "node " + s.From.String()
	case StepEndOperation:
		return s.Text
	default:
		return "shard " + s.Shard.String()
	}
}

// timeout bounds the step. What takes a shard's whole content into account, or
// waits for replicas, takes longer.
func (s Step) timeout(t Tuning) time.Duration {
	switch s.Kind {
	case StepSplit:
		return t.LongTimeout
	case StepAbsorb, StepFreeze:
		return t.FreezeMax // meanwhile the shard answers nothing
	default:
		return t.StepTimeout
	}
}

// String says in words what the step does.
func (s Step) String() string {
	if s.Text != "" {
		return s.Text
	}
	switch s.Kind {
	case StepAddNonvoter:
		return fmt.Sprintf("let node %s follow the meta shard", s.Server.Node)
	case StepPromote:
		return fmt.Sprintf("give node %s a vote in the meta shard", s.Server.Node)
	case StepRemoveMember:
		return fmt.Sprintf("take node %s out of the meta shard", s.Server.Node)
	case StepCreateShards:
		return fmt.Sprintf("create the initial shards (%d)", len(s.Shards))
	case StepReport:
		ids := make([]string, len(s.Reports))
		for i, r := range s.Reports {
			ids[i] = kv.ShardID(r.Shard.Shard).String()
		}
		return "record what shards say of themselves: " + strings.Join(ids, " ")
	case StepTransfer:
		return fmt.Sprintf("move the leader of shard %s from %s to %s", s.Shard, s.From, s.To)
	case StepAddReplica:
		return fmt.Sprintf("let node %s follow shard %s", s.Server.Node, s.Shard)
	case StepPromoteReplica:
		return fmt.Sprintf("give node %s a vote in shard %s", s.Server.Node, s.Shard)
	case StepRemoveReplica:
		return fmt.Sprintf("take node %s out of shard %s", s.Server.Node, s.Shard)
	default:
		return fmt.Sprintf("%s shard %s", s.Kind, s.Shard)
	}
}
