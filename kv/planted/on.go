//go:build planted

package planted

import "sync/atomic"

var current atomic.Int64

// On reports whether a fault is planted.
func On(f Fault) bool { return Fault(current.Load()) == f }

// Plant plants one fault, or None, for the whole process.
func Plant(f Fault) { current.Store(int64(f)) }
