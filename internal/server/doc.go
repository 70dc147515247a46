// Package server plugs the rooms together into one node.
//
// A Node is everything but listeners for clients: data directory, peer mesh,
// logs, store, replicas, router and control plane. The simulator builds it on a
// network and a disk in memory. Run adds what only a process has.
//
// # Order
//
// Start goes from the disk outwards: lock and identity, logs and store, replicas,
// then the mesh (handlers are registered before it accepts), the control plane,
// and last the HTTP edge. Close goes the other way: the edge stops taking
// requests while the node can still serve those it has; the control plane stops
// planning; leaders hand over while the mesh still carries messages; then mesh,
// replicas, store, logs, lock.
package server
