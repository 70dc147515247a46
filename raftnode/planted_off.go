//go:build !planted

package raftnode

import (
	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/raftnode/peer"
)

// What package planted says of faults holds of these too: here they do nothing.

func plantedTransport(t *transport) *transport { return t }

func (r *Replica) plantedFastPath(*raft.AppendEntriesRequest, func([]byte, error)) bool { return false }

func (h *Host) plantedVotes(handler peer.Handler) peer.Handler { return handler }

func (q *reader) plantedRead(*readRound, *instance) bool { return false }
