package raftnode

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/raftnode/peer"
)

var testEnvelope = envelope{
	from: kv.ServerID{Node: 1, Shard: 2, Incarnation: 1},
	to:   kv.ServerID{Node: 1<<64 - 1, Shard: 2, Incarnation: 1 << 40},
}

func testMembers() []kv.Member {
	return []kv.Member{{ID: testEnvelope.from, Voter: true}, {ID: testEnvelope.to}}
}

func sampleAppend() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		Term: 7, PrevLogEntry: 41, PrevLogTerm: 5, LeaderCommitIndex: 40,
		Entries: []*raft.Log{
			{Index: 42, Term: 6, Type: raft.LogNoop},
			{Index: 43, Term: 6, Type: raft.LogConfiguration, Data: EncodeMembers(testMembers())},
			{Index: 44, Term: 7, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("x"), AppendedAt: time.Unix(1, 2)},
		},
	}
}

func TestAppendRoundTrip(t *testing.T) {
	heartbeat := &raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{}}
	for _, want := range []*raft.AppendEntriesRequest{sampleAppend(), heartbeat} {
		in := &wireReader{rest: encodeAppend(testEnvelope, want)}
		e := in.envelope()
		got, err := in.decodeAppend(e)
		if err != nil {
			t.Fatal(err)
		}
		if e != testEnvelope || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v %+v, want %+v", e, got, want)
		}
	}
}

func TestBadAppendsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*raft.AppendEntriesRequest){
		"old type":           func(m *raft.AppendEntriesRequest) { m.Entries[0].Type = raft.LogAddPeerDeprecated },
		"unknown type":       func(m *raft.AppendEntriesRequest) { m.Entries[0].Type = 99 },
		"term above leader":  func(m *raft.AppendEntriesRequest) { m.Entries[2].Term = 8 },
		"term falls":         func(m *raft.AppendEntriesRequest) { m.Entries[1].Term = 5 },
		"bad configuration":  func(m *raft.AppendEntriesRequest) { m.Entries[1].Data = []byte{0xff, 0xff} },
		"no configuration":   func(m *raft.AppendEntriesRequest) { m.Entries[1].Data = nil },
		"index out of range": func(m *raft.AppendEntriesRequest) { m.PrevLogEntry = 1 << 63 },
		"too many": func(m *raft.AppendEntriesRequest) {
			for range entriesPerMessageMax {
				m.Entries = append(m.Entries, &raft.Log{Term: 7})
			}
		},
	} {
		m := sampleAppend()
		change(m)
		in := &wireReader{rest: encodeAppend(testEnvelope, m)}
		if _, err := in.decodeAppend(in.envelope()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestConfigurations(t *testing.T) {
	members := testMembers()
	got, err := DecodeMembers(2, EncodeMembers(members))
	if err != nil || !reflect.DeepEqual(got, members) {
		t.Fatalf("got %v, %v", got, err)
	}
	bad := func(name string, data []byte) {
		if _, err := DecodeMembers(2, data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	bad("empty", nil)
	bad("no servers", raft.EncodeConfiguration(raft.Configuration{}))
	bad("another shard", EncodeMembers([]kv.Member{{ID: kv.ServerID{Node: 1, Shard: 3, Incarnation: 1}, Voter: true}}))
	bad("no voter", EncodeMembers([]kv.Member{{ID: testEnvelope.from}}))
	bad("a node twice", EncodeMembers([]kv.Member{{ID: testEnvelope.from, Voter: true}, {ID: kv.ServerID{Node: 1, Shard: 2, Incarnation: 2}}}))
	bad("an id that is none", raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "x", Address: "x"}}}))
	bad("an address that is not the id", raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: raftID(testEnvelope.from), Address: "1.2.3.4:5"}}}))
	whole := EncodeMembers(members)
	for i := range whole { // never a panic
		_, _ = DecodeMembers(2, whole[:i])
		flipped := bytes.Clone(whole)
		flipped[i] ^= 0x80
		_, _ = DecodeMembers(2, flipped)
	}
}

func TestSmallMessagesRoundTrip(t *testing.T) {
	b := ballot{term: 9, lastIndex: 8, lastTerm: 7, transfer: true}
	in := &wireReader{rest: encodeBallot(testEnvelope, b)}
	if e := in.envelope(); e != testEnvelope {
		t.Fatal(e)
	}
	if got, err := in.decodeBallot(); err != nil || got != b {
		t.Fatal(got, err)
	}
	term, granted, err := decodeVote(encodeVote(5, true))
	if err != nil || term != 5 || !granted {
		t.Fatal(term, granted, err)
	}
	want := raft.AppendEntriesResponse{Term: 3, LastLog: 4, Success: true, NoRetryBackoff: true}
	var resp raft.AppendEntriesResponse
	if err := decodeAppendResponse(encodeAppendResponse(&want), &resp); err != nil || !reflect.DeepEqual(resp, want) {
		t.Fatal(resp, err)
	}
	c := chunk{term: 1, stream: 1<<64 - 1, index: 3, terms: 4, offset: 5, last: true, sum: 0xdeadbeef, data: []byte("abc")}
	in = &wireReader{rest: c.encode(testEnvelope)}
	in.envelope()
	if got, err := in.decodeChunk(); err != nil || !reflect.DeepEqual(*got, c) {
		t.Fatal(got, err)
	}
	a := chunkAnswer{status: chunkStale, term: 4, offset: 9}
	if got, err := decodeChunkAnswer(a.encode()); err != nil || got != a {
		t.Fatal(got, err)
	}
	r := Record{ID: testEnvelope.from, Kind: InMemory, Log: BoltLog, Members: testMembers(), Payload: []byte("p")}
	if got, err := decodeRecord(r.ID, r.encode()); err != nil || !reflect.DeepEqual(got, r) {
		t.Fatal(got, err)
	}
}

// messages gives a well-formed message of each kind for a replica.
func messages(e envelope) map[peer.Method][]byte {
	c := chunk{term: 9, stream: 1, index: 1 << 40, terms: 1, data: []byte("x")}
	a := sampleAppend()
	a.PrevLogEntry, a.PrevLogTerm = 0, 0
	return map[peer.Method][]byte{
		peer.MethodAppendEntries: encodeAppend(e, a),
		peer.MethodRequestVote:   encodeBallot(e, ballot{term: 1, lastIndex: 1, lastTerm: 1}),
		peer.MethodPreVote:       encodeBallot(e, ballot{term: 1, lastIndex: 1, lastTerm: 1}),
		peer.MethodTimeoutNow:    e.append(nil),
		peer.MethodReadIndex:     e.append(nil),
		peer.MethodSnapshotChunk: c.encode(e),
		peer.MethodTerms:         {wireFormat, 1, 2, 1},
		peer.MethodClock:         {wireFormat},
	}
}

// Whatever a peer sends, nothing panics, and every request is answered once.
func TestMutilatedMessages(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		c.leader()
		stranger := c.net.Node(77)
		if err := stranger.Start(); err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		rng := rand.New(rand.NewPCG(1, 2))
		answers, sent := make(chan error, 1), 0
		ask := func(to kv.NodeID, m peer.Method, req []byte) {
			sent++
			stranger.Send(to, m, req, time.Now().Add(time.Minute), func(_ []byte, err error) { answers <- err })
			<-answers
		}
		for target := range c.nodes {
			e := envelope{from: kv.ServerID{Node: 77, Shard: testShard, Incarnation: 1}, to: c.replica(target).id}
			for m, whole := range messages(e) {
				for i := range len(whole) + 1 {
					ask(target, m, bytes.Clone(whole[:i]))
				}
				for range 300 {
					bad := bytes.Clone(whole)
					for range 1 + rng.IntN(4) {
						bad[rng.IntN(len(bad))] = byte(rng.Uint32())
					}
					ask(target, m, bad)
				}
			}
		}
		// Some were well-formed lies, which a member could tell too: the state proves
		// nothing any more. The nodes are there, which is what was asked.
		for id := range c.nodes {
			ask(id, peer.MethodClock, []byte{wireFormat})
		}
		t.Logf("%d messages", sent)
	})
}

// A message that names another sender than the mesh knows is refused.
func TestForgedSender(t *testing.T) {
	bubble(t, 3, func(c *testCluster) {
		l := c.leader()
		stranger := c.net.Node(77)
		if err := stranger.Start(); err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		e := envelope{from: c.replica(l.id.Node%3 + 1).id, to: l.id}
		for m, req := range messages(e) {
			if m == peer.MethodTerms || m == peer.MethodClock {
				continue // not from a replica
			}
			ctx, cancel := within(time.Second)
			if _, err := peer.Call(ctx, stranger, l.id.Node, m, req); kv.CodeOf(err) != kv.CodeInvalid {
				t.Errorf("method %d: %v", m, err)
			}
			cancel()
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, m := range messages(testEnvelope) {
		f.Add(m)
	}
	f.Add((&Record{ID: testEnvelope.from, Kind: Durable, Log: SharedLog, Members: testMembers()}).encode())
	f.Fuzz(decodeEverything)
}

// decodeEverything reads bytes as every message that there is.
func decodeEverything(t *testing.T, data []byte) {
	read := func() (*wireReader, envelope) {
		in := &wireReader{rest: data}
		return in, in.envelope()
	}
	in, e := read()
	if m, err := in.decodeAppend(e); err == nil && !in.failed {
		for _, entry := range m.Entries {
			if entry.Type == raft.LogConfiguration {
				_ = raft.DecodeConfiguration(entry.Data) // must not panic
			}
		}
	}
	in, _ = read()
	_, _ = in.decodeBallot()
	in, _ = read()
	_, _ = in.decodeChunk()
	_, _, _ = decodeVote(data)
	_, _ = decodeChunkAnswer(data)
	_ = decodeAppendResponse(data, &raft.AppendEntriesResponse{})
	decodeTerms(data, make([]termsAnswer, 3))
	if r, err := decodeRecord(testEnvelope.from, data); err == nil {
		if again, err := decodeRecord(r.ID, r.encode()); err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("record changed: %v, %v, %v", r, again, err)
		}
	}
}

// noiseMessages is how many malformed messages are decoded; QUORATE_SOAK multiplies it.
const noiseMessages = 50_000

// Malformed messages end no process and leave nothing behind; what decodes can be given
// to the library.
func TestNoiseInMessages(t *testing.T) {
	sound := [][]byte{(&Record{ID: testEnvelope.from, Kind: Durable, Log: SharedLog, Members: testMembers()}).encode()}
	for _, m := range messages(testEnvelope) {
		sound = append(sound, m)
	}
	slices.SortFunc(sound, bytes.Compare) // the seed decides, not the map
	n := noiseMessages
	if soak, err := strconv.Atoi(os.Getenv("QUORATE_SOAK")); err == nil {
		n *= max(1, soak)
	}
	rnd := rand.New(rand.NewPCG(3, 7))
	for range n {
		data := bytes.Clone(sound[rnd.IntN(len(sound))])
		for range 1 + rnd.IntN(4) {
			i := rnd.IntN(len(data))
			switch rnd.IntN(4) {
			case 0:
				data[i] ^= byte(1 + rnd.IntN(255))
			case 1:
				data = data[:max(1, i)]
			case 2: // a number of ten bytes
				data = slices.Insert(data, i, bytes.Repeat([]byte{0xff}, 1+rnd.IntN(10))...)
			case 3:
				data = append(data, data[i:]...)
			}
		}
		decodeEverything(t, data)
	}
}
