package raftnode

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

// transport is raft.Transport for one instance, over the node's mesh. Messages
// of all replicas to a peer share the mesh's connections.
type transport struct {
	id     kv.ServerID
	mesh   peer.Mesh
	gather *gatherer // what is in no hurry
	timing Timing
	inbox  *inbox
	r      *Replica // sends snapshots

	// stop is closed when the instance stops: whoever waits for an answer gives up.
	stop chan struct{}
	// mute counts the reasons for which nothing may leave (R12, R13).
	mute *atomic.Int32
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)

	errMute = errors.New("replica is mute")
)

// Consumer is where Raft reads its messages.
func (t *transport) Consumer() <-chan raft.RPC { return t.inbox.consumer }

// LocalAddr is the server id: the mesh finds nodes by theirs.
func (t *transport) LocalAddr() raft.ServerAddress { return raftAddress(t.id) }

// EncodePeer and DecodePeer: an address is a server id is a string.
func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// DecodePeer is the inverse of EncodePeer.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler does nothing (R2): heartbeats go through the main loop like
// everything else. With the fast path, two leaders of one term were reproduced.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// call asks a peer and waits for the answer, the timeout, or the stop of the
// instance.
func (t *transport) call(m peer.Method, to kv.ServerID, req []byte, timeout time.Duration) ([]byte, error) {
	return t.await(func(done func([]byte, error)) { t.send(m, to, req, timeout, done) })
}

// send is call for callers that do not wait.
func (t *transport) send(m peer.Method, to kv.ServerID, req []byte, timeout time.Duration, done func([]byte, error)) {
	if t.mute.Load() > 0 {
		done(nil, errMute)
		return
	}
	t.mesh.Send(to.Node, m, req, time.Now().Add(timeout), done)
}

// callSoon is call for what is in no hurry.
func (t *transport) callSoon(m peer.Method, to kv.ServerID, req []byte, timeout time.Duration) ([]byte, error) {
	if t.mute.Load() > 0 {
		return nil, errMute
	}
	return t.await(func(done func([]byte, error)) {
		t.gather.send(to.Node, heldMessage{t: t, method: m, req: req, deadline: time.Now().Add(timeout), done: done})
	})
}

func (t *transport) await(send func(done func([]byte, error))) ([]byte, error) {
	type answer struct {
		resp []byte
		err  error
	}
	ch := make(chan answer, 1)
	send(func(resp []byte, err error) { ch <- answer{resp, err} })
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-t.stop:
		return nil, raft.ErrTransportShutdown
	}
}

func (t *transport) envelope(to raft.ServerID) (envelope, error) {
	id, err := kv.ParseServerID(string(to))
	return envelope{from: t.id, to: id}, err
}

// isHeartbeat tells the library's heartbeats from its appends. They get a short
// timeout, because the library sends the next only after the answer to the last.
func isHeartbeat(m *raft.AppendEntriesRequest) bool {
	return len(m.Entries) == 0 && m.PrevLogEntry == 0 && m.LeaderCommitIndex == 0
}

// appendTimeout gives large messages more time: 16 MiB/s must be had.
func (t *transport) appendTimeout(m *raft.AppendEntriesRequest, bytes int) time.Duration {
	if isHeartbeat(m) {
		return t.timing.Heartbeat / 4
	}
	return t.timing.Append + time.Duration(bytes)*time.Second/(16<<20)
}

// AppendEntries asks and waits. The error of a follower that does not answer is
// held back until it answers: the library counts failures, and after ten of them lets
// ten seconds pass before each attempt, in which a node that is back would learn
// nothing new, neither entries nor what is committed.
func (t *transport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, m *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	e, err := t.envelope(id)
	if err != nil {
		return err
	}
	req := encodeAppend(e, m)
	send := t.call
	if isHeartbeat(m) {
		send = t.callSoon
	}
	data, err := send(peer.MethodAppendEntries, e.to, req, t.appendTimeout(m, len(req)))
	if err != nil {
		if !isHeartbeat(m) {
			t.awaitAnswer(e, m.Term)
		}
		return err
	}
	return decodeAppendResponse(data, resp)
}

const (
	answerWaitFirst = 10 * time.Millisecond
	// answerWaitMax ends the wait for a follower that was removed from the shard while
	// it was silent.
	answerWaitMax = 5 * time.Minute
)

// awaitAnswer returns when a follower answers a heartbeat, or nobody wants to know
// any more. The append itself is not repeated: its commit index has grown old, and
// the follower would take it for what is committed now (freshness).
func (t *transport) awaitAnswer(e envelope, term uint64) {
	beat := encodeAppend(e, &raft.AppendEntriesRequest{Term: term})
	began := time.Now()
	for wait := answerWaitFirst; time.Since(began) < answerWaitMax; wait = min(2*wait, t.timing.Heartbeat/4) {
		if !t.pause(wait) || !t.leads(term) {
			return
		}
		if _, err := t.call(peer.MethodAppendEntries, e.to, beat, t.timing.Heartbeat/4); err == nil {
			return
		}
	}
}

// pause reports false if the instance stops meanwhile.
func (t *transport) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.stop:
		return false
	}
}

// leads reports whether the instance still leads in a term, and may say so.
func (t *transport) leads(term uint64) bool {
	inst, now, ok := t.r.leading()
	return ok && inst.transport == t && now == term && t.mute.Load() == 0
}

// RequestVote asks and waits.
func (t *transport) RequestVote(id raft.ServerID, _ raft.ServerAddress, m *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	b := ballot{term: m.Term, lastIndex: m.LastLogIndex, lastTerm: m.LastLogTerm, transfer: m.LeadershipTransfer}
	term, granted, err := t.ask(peer.MethodRequestVote, id, b)
	resp.Term, resp.Granted = term, granted
	return err
}

// RequestPreVote asks and waits.
func (t *transport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, m *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	b := ballot{term: m.Term, lastIndex: m.LastLogIndex, lastTerm: m.LastLogTerm}
	term, granted, err := t.ask(peer.MethodPreVote, id, b)
	resp.Term, resp.Granted = term, granted
	return err
}

// ask gives errors a text of its own: the library takes a pre-vote whose error
// says "unexpected command" for granted, and a peer must not be able to say so.
func (t *transport) ask(m peer.Method, id raft.ServerID, b ballot) (term uint64, granted bool, err error) {
	e, err := t.envelope(id)
	if err != nil {
		return 0, false, err
	}
	data, err := t.call(m, e.to, encodeBallot(e, b), t.timing.Election)
	if err != nil {
		return 0, false, fmt.Errorf("no vote from %s: %s", e.to, kv.CodeOf(err))
	}
	return decodeVote(data)
}

// TimeoutNow asks a follower to start an election.
func (t *transport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	e, err := t.envelope(id)
	if err != nil {
		return err
	}
	_, err = t.call(peer.MethodTimeoutNow, e.to, e.append(nil), t.timing.Election)
	return err
}

// InstallSnapshot carries a snapshot over in chunks; see snapshot_send.go.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, m *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	e, err := t.envelope(id)
	if err != nil {
		return err
	}
	out, err := t.r.sendSnapshot(t, e.to, m, data)
	if err != nil {
		return err
	}
	*resp = *out
	return nil
}

// AppendEntriesPipeline opens a pipeline; see pipeline.go.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	e, err := t.envelope(id)
	if err != nil {
		return nil, err
	}
	return newPipeline(t, e), nil
}
