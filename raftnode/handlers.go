package raftnode

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// handle registers the host with the mesh.
func (h *Host) handle() {
	m := h.opts.Mesh
	m.Handle(peer.MethodTerms, h.handleTerms)
	m.Handle(peer.MethodClock, h.handleClock)
	m.Handle(peer.MethodAppendEntries, h.addressed((*Replica).handleAppend))
	m.Handle(peer.MethodRequestVote, h.plantedVotes(h.addressed((*Replica).handleVote)))
	m.Handle(peer.MethodPreVote, h.plantedVotes(h.addressed((*Replica).handlePreVote)))
	m.Handle(peer.MethodTimeoutNow, h.addressed((*Replica).handleTimeoutNow))
	m.Handle(peer.MethodSnapshotChunk, h.addressed((*Replica).handleChunk))
	m.Handle(peer.MethodReadIndex, h.addressed(func(r *Replica, _ envelope, _ *wireReader, reply func([]byte, error)) error {
		r.handleReadIndex(reply)
		return nil
	}))
	m.OnUnreachable(h.unreachable)
}

// replicaHandler takes a message apart and sees to it that it is answered, or
// gives an error as the answer. It does not block.
type replicaHandler func(r *Replica, e envelope, in *wireReader, reply func([]byte, error)) error

// addressed gives a mesh handler for messages between replicas: only the one that
// is meant gets it (R1), and if it is mute nothing comes back (R12, R13).
func (h *Host) addressed(handler replicaHandler) peer.Handler {
	return func(from kv.NodeID, req []byte, reply func([]byte, error)) {
		in := &wireReader{rest: req}
		e := in.envelope()
		if in.failed || e.from.Node != from || e.from.Shard != e.to.Shard || e.from.Incarnation == 0 {
			reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "malformed message from node %s", from))
			return
		}
		r, ok := h.Replica(e.to.Shard)
		if !ok || r.id != e.to {
			reply(nil, kv.Errorf(kv.CodeNoReplica, kv.OutcomeNotApplied, "node %s does not hold %s", h.opts.Node, e.to))
			return
		}
		if r.mute.Load() > 0 {
			reply(nil, r.errMute())
			return
		}
		if err := handler(r, e, in, reply); err != nil {
			reply(nil, kv.AsError(err))
		}
	}
}

// toRaft hands a message to Raft and its answer, encoded, to reply.
func (r *Replica) toRaft(message any, bytes int, reply func([]byte, error), encode func(resp any) []byte) error {
	inst := r.inst.Load()
	if inst == nil {
		return r.errStopped()
	}
	return inst.inbox.deliver(message, bytes, func(resp any, err error) {
		switch {
		case r.mute.Load() > 0: // it may have become so while Raft was at it
			reply(nil, r.errMute())
		case err != nil:
			reply(nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeUnknown, "replica %s: %w", r.id, err))
		default:
			reply(encode(resp), nil)
		}
	})
}

// headerOf gives the library's header for a message from a peer. The mesh has
// checked who sends.
func headerOf(e envelope) raft.RPCHeader {
	id := []byte(e.from.String())
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: id, Addr: id}
}

// stranger is a candidate that is no voter in the receiver's newest configuration. The
// library refuses it. But that configuration may be older than the candidate's: of
// three voters one lags, and has not heard that a fourth came and the first went; the
// second dies. Then the fourth alone can lead, and the vote that it lacks is that of
// the third, who does not know it: the shard would be without a leader for ever, with
// two of its three members alive (the simulator found it). Raft has a server vote for
// whoever has a log as new as its own, and a candidate count the votes of its own
// voters (Ongaro's thesis, 4.1). So what the library's check looks at is withheld.
func (r *Replica) stranger(candidate kv.ServerID) bool {
	m, ok := r.member(candidate)
	return !ok || !m.Voter
}

// voteHeader is headerOf for a request for a vote: without an id the check is skipped.
// It is not for a candidate that asks over a leader's head, as it does whom a leader
// or its own haste has told to stand: a replica that has not heard that it was removed
// would disturb the others.
func (r *Replica) voteHeader(e envelope, overLeader bool) raft.RPCHeader {
	h := headerOf(e)
	if r.stranger(e.from) && !overLeader {
		h.ID = nil
	}
	return h
}

// preVoteHeader is headerOf for a request for a pre-vote. There the check is never
// skipped, and the id is of no other use (who asks is taken from the address), so it
// gets that of a voter. A pre-vote binds nobody.
func (r *Replica) preVoteHeader(e envelope) raft.RPCHeader {
	h := headerOf(e)
	if !r.stranger(e.from) {
		return h
	}
	for _, m := range r.members() {
		if m.Voter {
			h.ID = []byte(raftID(m.ID))
		}
	}
	return h
}

func malformed(err error) error { return kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "%w", err) }

func (r *Replica) handleAppend(e envelope, in *wireReader, reply func([]byte, error)) error {
	bytes := len(in.rest)
	m, err := in.decodeAppend(e)
	if err != nil {
		return malformed(err)
	}
	m.RPCHeader = headerOf(e)
	told := time.Now().Add(-in.held())
	if r.plantedFastPath(m, reply) {
		return nil
	}
	return r.toRaft(m, bytes, reply, func(resp any) []byte {
		answer := resp.(*raft.AppendEntriesResponse)
		if answer.Success {
			r.fresh.hear(m, told, r.machine.Applied())
		}
		return encodeAppendResponse(answer)
	})
}

// configured tells whether the replica has a configuration. Without one the
// library would vote for anybody (R3).
func (r *Replica) configured() error {
	if len(r.members()) == 0 {
		return kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "replica %s has no configuration yet and does not vote", r.id)
	}
	return nil
}

func (r *Replica) handleVote(e envelope, in *wireReader, reply func([]byte, error)) error {
	b, err := in.decodeBallot()
	if err != nil {
		return malformed(err)
	}
	if err := r.configured(); err != nil {
		return err
	}
	m := &raft.RequestVoteRequest{
		RPCHeader: r.voteHeader(e, b.transfer), Term: b.term, LastLogIndex: b.lastIndex, LastLogTerm: b.lastTerm, LeadershipTransfer: b.transfer,
	}
	return r.toRaft(m, 0, reply, func(resp any) []byte {
		v := resp.(*raft.RequestVoteResponse)
		return encodeVote(v.Term, v.Granted)
	})
}

func (r *Replica) handlePreVote(e envelope, in *wireReader, reply func([]byte, error)) error {
	b, err := in.decodeBallot()
	if err != nil {
		return malformed(err)
	}
	if err := r.configured(); err != nil {
		return err
	}
	m := &raft.RequestPreVoteRequest{RPCHeader: r.preVoteHeader(e), Term: b.term, LastLogIndex: b.lastIndex, LastLogTerm: b.lastTerm}
	return r.toRaft(m, 0, reply, func(resp any) []byte {
		v := resp.(*raft.RequestPreVoteResponse)
		return encodeVote(v.Term, v.Granted)
	})
}

// handleTimeoutNow takes a leader's word that this replica is to be elected. A
// replica without a vote, or that does not know the sender, does not stand.
func (r *Replica) handleTimeoutNow(e envelope, _ *wireReader, reply func([]byte, error)) error {
	if m, ok := r.member(r.id); !ok || !m.Voter {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s has no vote", r.id)
	}
	if _, ok := r.member(e.from); !ok {
		return kv.Errorf(kv.CodeConflict, kv.OutcomeNotApplied, "replica %s does not know %s", r.id, e.from)
	}
	m := &raft.TimeoutNowRequest{RPCHeader: headerOf(e)}
	return r.toRaft(m, 0, reply, func(any) []byte { return []byte{wireFormat} })
}

func (r *Replica) handleChunk(_ envelope, in *wireReader, reply func([]byte, error)) error {
	c, err := in.decodeChunk()
	if err != nil {
		return malformed(fmt.Errorf("from a leader: %w", err))
	}
	r.receiveChunk(c, func(a chunkAnswer, err error) {
		if err != nil {
			reply(nil, kv.AsError(err))
			return
		}
		reply(a.encode(), nil)
	})
	return nil
}
