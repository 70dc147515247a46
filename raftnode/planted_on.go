//go:build planted

package raftnode

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// fastPaths are the library's handlers of heartbeats, by replica.
var fastPaths sync.Map

// fastTransport lets the library handle heartbeats.
type fastTransport struct{ *transport }

func (t fastTransport) SetHeartbeatHandler(handler func(raft.RPC)) { fastPaths.Store(t.r, handler) }

func plantedTransport(t *transport) raft.Transport {
	if planted.On(planted.HeartbeatFastPath) {
		return fastTransport{t}
	}
	return t
}

// plantedFastPath handles a heartbeat as the library's own network transport does:
// on the goroutine of a connection, beside the main loop.
func (r *Replica) plantedFastPath(m *raft.AppendEntriesRequest, reply func([]byte, error)) bool {
	handler, ok := fastPaths.Load(r)
	inst := r.inst.Load()
	if !planted.On(planted.HeartbeatFastPath) || !ok || !isHeartbeat(m) || inst == nil {
		return false
	}
	go func() {
		answers := make(chan raft.RPCResponse, 1)
		handler.(func(raft.RPC))(raft.RPC{Command: m, RespChan: answers})
		select {
		case answer := <-answers:
			if answer.Error != nil {
				reply(nil, answer.Error)
				return
			}
			reply(encodeAppendResponse(answer.Response.(*raft.AppendEntriesResponse)), nil)
		case <-inst.transport.stop:
			reply(nil, r.errStopped())
		}
	}()
	return true
}

// plantedVotes grants votes and pre-votes in the name of replicas that were
// destroyed.
func (h *Host) plantedVotes(handler peer.Handler) peer.Handler {
	return func(from kv.NodeID, req []byte, reply func([]byte, error)) {
		in := &wireReader{rest: req}
		e := in.envelope()
		stored, ok, err := h.recordOf(e.to.Shard)
		if b, ballotErr := in.decodeBallot(); planted.On(planted.RetiredVotes) && ok && err == nil && ballotErr == nil && stored.Tombstone && stored.ID == e.to {
			reply(encodeVote(b.term, true), nil)
			return
		}
		handler(from, req, reply)
	}
}

// plantedRead confirms a read index in one of the ways that do not.
func (q *reader) plantedRead(round *readRound, inst *instance) bool {
	answer := readAnswer{index: round.index, term: round.term, led: true}
	switch {
	case planted.On(planted.ReadWithoutQuorum):
		q.end(round, answer, nil)
	case planted.On(planted.VerifyLeaderReads) && inst.begin():
		go func() {
			defer inst.end()
			q.end(round, answer, inst.raft.VerifyLeader().Error())
		}()
	default:
		return false
	}
	return true
}
