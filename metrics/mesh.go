package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate-db/quorate/kv"
)

// meshStats counts what goes between nodes. The methods of Metrics below have the
// signatures of the peer mesh's hooks, with classes as numbers.
type meshStats struct {
	classes []*class
	other   func() *class // of classes without a name
	refused *table[string, prometheus.Counter]
	peers   *table[kv.NodeID, prometheus.Gauge]
}

// class holds the children of one class of connections.
type class struct {
	sent, received           traffic
	dials                    pair
	dialSeconds, roundTrip   prometheus.Observer
	closedOurs, closedTheirs prometheus.Counter
	overloaded               prometheus.Counter
}

type traffic struct{ frames, bytes prometheus.Counter }

func newMeshStats(r maker, names []string) *meshStats {
	frames := r.counter("quorate_peer_frames_total", "Frames sent to and received from other nodes.", "class", "direction")
	bytes := r.counter("quorate_peer_bytes_total", "Bytes of the frames sent to and received from other nodes.", "class", "direction")
	dials := r.counter("quorate_peer_dials_total", "Attempts to connect to another node.", "class", "result")
	dialSeconds := r.histogram("quorate_peer_dial_seconds", "Time that an attempt to connect took, with the handshake.", requestBuckets(), "class")
	roundTrip := r.histogram("quorate_peer_round_trip_seconds", "Time until a ping to another node came back.", syncBuckets(), "class")
	closed := r.counter("quorate_peer_connections_closed_total", "Established connections that ended, by who had dialled.", "class", "dialled")
	overloaded := r.counter("quorate_peer_overloaded_total", "Requests to other nodes refused because a queue here was full.", "class")
	refused := r.counter("quorate_peer_handshakes_refused_total", "Handshakes that this end or the other refused.", "reason")
	last := r.gauge("quorate_peer_last_round_trip_seconds", "Time of the newest ping of the class raft to a node.", "peer")
	resolve := func(name string) *class {
		return &class{
			sent:         traffic{frames.WithLabelValues(name, "sent"), bytes.WithLabelValues(name, "sent")},
			received:     traffic{frames.WithLabelValues(name, "received"), bytes.WithLabelValues(name, "received")},
			dials:        pair{dials.WithLabelValues(name, result(true)), dials.WithLabelValues(name, result(false))},
			dialSeconds:  dialSeconds.WithLabelValues(name),
			roundTrip:    roundTrip.WithLabelValues(name),
			closedOurs:   closed.WithLabelValues(name, "here"),
			closedTheirs: closed.WithLabelValues(name, "there"),
			overloaded:   overloaded.WithLabelValues(name),
		}
	}
	s := &meshStats{}
	for _, name := range names {
		s.classes = append(s.classes, resolve(name))
	}
	s.other = sync.OnceValue(func() *class { return resolve(labelOther) })
	s.refused = newTable(namesMax,
		func(reason string) prometheus.Counter { return refused.WithLabelValues(reason) },
		func() prometheus.Counter { return refused.WithLabelValues(labelOther) }, nil)
	s.peers = newTable(peersMax,
		func(id kv.NodeID) prometheus.Gauge { return last.WithLabelValues(id.String()) },
		func() prometheus.Gauge { return last.WithLabelValues(labelOther) },
		func(id kv.NodeID) { last.DeleteLabelValues(id.String()) })
	return s
}

func (m *Metrics) class(c uint8) *class {
	if int(c) < len(m.mesh.classes) {
		return m.mesh.classes[c]
	}
	return m.mesh.other()
}

// PeerSent counts frames that were written to a connection.
func (m *Metrics) PeerSent(class uint8, frames, bytes int) { m.class(class).sent.add(frames, bytes) }

// PeerReceived counts frames that arrived.
func (m *Metrics) PeerReceived(class uint8, frames, bytes int) {
	m.class(class).received.add(frames, bytes)
}

func (t traffic) add(frames, bytes int) {
	t.frames.Add(float64(frames))
	t.bytes.Add(float64(bytes))
}

// PeerDialled counts an attempt to connect.
func (m *Metrics) PeerDialled(class uint8, took time.Duration, err error) {
	c := m.class(class)
	c.dials.of(err == nil).Inc()
	c.dialSeconds.Observe(took.Seconds())
}

// PeerRefused counts a handshake that was refused.
func (m *Metrics) PeerRefused(reason string) { m.mesh.refused.get(reason).Inc() }

// PeerClosed counts a connection that ended.
func (m *Metrics) PeerClosed(class uint8, incoming bool) {
	c := m.class(class)
	if incoming {
		c.closedTheirs.Inc()
		return
	}
	c.closedOurs.Inc()
}

// PeerRoundTrip counts a ping that came back. Class 0 also tells how far each node
// is.
func (m *Metrics) PeerRoundTrip(to kv.NodeID, class uint8, took time.Duration) {
	m.class(class).roundTrip.Observe(took.Seconds())
	if class == 0 {
		m.mesh.peers.get(to).Set(took.Seconds())
	}
}

// PeerOverloaded counts a request that was refused because a queue is full.
func (m *Metrics) PeerOverloaded(class uint8) { m.class(class).overloaded.Inc() }
