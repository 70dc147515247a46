// Package metrics counts and measures what a node does, and serves it in the
// Prometheus format. It is the only importer of the Prometheus client: the other
// rooms have hook structs that internal/server fills with methods of Metrics, and
// what is a state rather than an event is read when someone scrapes (Watch).
//
// # Invariants
//
//	M1  Every label has a bounded set of values. What a client or a peer can
//	    choose (method, route, code, shard, peer) goes through a table that knows
//	    how many it takes; the rest share the value "other".
//	M2  A hook that is called per request or per log entry allocates nothing and
//	    takes no lock: its children were resolved when their labels first came up.
//	M3  There is no global registry: two Metrics in a process share nothing.
//	M4  A shard that has left the node, and a node that has left the cluster, take
//	    their series with them at the next scrape.
//	M5  Names begin with quorate_, are in base units (seconds, bytes), and
//	    counters end in _total. docs/METRICS.md lists exactly what is served.
package metrics
