// Package bench is a closed-loop load generator for key-value databases: a
// number of clients, each of which sends its next operation when the one before has
// been answered. It knows nothing of the database it drives; Driver is the seam,
// and quoratedriver one side of it.
//
// # What the figures mean
//
// A closed loop slows down with the system under test: while the system stalls,
// no client sends what it would have sent, so the percentiles leave out the waits of
// requests that were never made ("coordinated omission", Tene). They answer "how long
// does an operation take when so many are in flight", not "how long does a user
// wait who comes at a random moment". That is why the report has the largest gap
// between two successes and the successes per second beside the percentiles: a stall
// shows there, whatever the percentiles say. The figures of two systems
// compare if both were driven with the same number of clients.
//
// Latencies of operations that failed are not in the percentiles; failures are
// counted by outcome. The generator shares the machine with what it drives in most
// tests, so the report says how much processor time it took itself.
//
// # Workloads
//
// put, get, stale-get and scan do one thing with evenly chosen keys. A to F are the core
// workloads of YCSB (Cooper et al., "Benchmarking Cloud Serving Systems with
// YCSB", SoCC 2010), with its zipfian, scrambled and latest distributions, but
// records of one value instead of ten fields.
package bench
