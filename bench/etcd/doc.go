// Command etcd runs Quorate and etcd on one machine, in turn, under the same load
// generator, and prints what each did side by side. It is a module of its own so
// that etcd's dependencies stay out of Quorate's.
//
// Every system is a cluster of three processes on loopback with its data on the
// same disk. Only one runs at a time. Each round starts every system from
// nothing; figures are medians over the rounds.
package main
