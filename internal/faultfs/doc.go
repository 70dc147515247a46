// Package faultfs is a file system for tests that counts, fails, stalls and drops
// operations, and that crashes at a chosen one.
//
// Wrap puts an Injector between a program and its file system. Injectors are
// plain functions of the operation, and they combine with Chain:
//
//	counter := faultfs.NewCounter()
//	gate := faultfs.NewGate(faultfs.Kinds(faultfs.OpSyncData).And(faultfs.PathSuffix(".log")))
//	fs := faultfs.Wrap(vfs.NewMem(), faultfs.Chain(counter, gate))
//
// Everything blocks on channels only, so that it works in a testing/synctest
// bubble if it was made inside of it.
package faultfs
